"""Reward models as rewards: they score many completions at once, on the devices of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.conversations import check_reasoning_is_kept, judged_ids
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import scores
from r1jax.rewards.base import Completion
from r1jax.sharding import Params, batch_sharding, data_devices

_WIDTH_STEP = 64  # rows are padded to a multiple of this, so that few programs are compiled


def pad_rows(ids: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as an array [N, width] int32, padded on the right, and their lengths [N] int32."""
    tokens = np.zeros((len(ids), width), np.int32)
    for row, one in zip(tokens, ids, strict=True):
        row[: len(one)] = one
    return tokens, np.array([len(one) for one in ids], np.int32)


class ModelReward:
    """A BatchReward from a model with a scalar head: sigmoid(score), in (0, 1) like most rules.

    name: the name of the reward in routes and metrics.
    model: from r1jax.load or train_reward_model.
    reads: the text to judge: "summary", the text after the reasoning, for helpfulness, or "response", the whole text,
      for harmlessness (arXiv 2501.12948, section 3.2.1).
    rows: completions that are scored together, rounded up to a multiple of the mesh's data axis, which splits them.

    ``resolution`` is the machine epsilon of the model's compute type, 2**-7 for bfloat16: a smaller difference between
    scores is due to rounding.

    Raises:
      UserError: if the model has no scalar head, or its chat template omits reasoning that it has to judge.
    """

    def __init__(self, name: str, model: Model, reads: Literal["summary", "response"], rows: int = 64) -> None:
        if model.config.head != "scalar":
            raise UserError(f"the model for {name} has no scalar head: give a reward model, or FILE.py:FUNCTION")
        if reads == "response":
            check_reasoning_is_kept(model.tokenizer)
        self.name, self._model, self._reads, self._rows = name, model, reads, rows
        self.resolution = float(jnp.finfo(model.config.dtype).eps)

    def score(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> np.ndarray:
        """[N] float32: sigmoid(score) of each problem's completion, 0 if there is no summary to judge.

        Equal conversations are scored once. The padded width of a conversation depends only on its own length, so that
        the rest of the batch cannot change the order of summation, and with it the score.

        Raises:
          UserError: if a conversation is longer than the reward model's context.
        """
        texts = [c.text if self._reads == "response" else c.template.summary(c.text) for c in completions]
        # Truncated reasoning has no summary. It scores 0, because the model might score an empty summary highly.
        asked = [
            tuple(judged_ids(p.question, text, self._model.tokenizer)) if text or self._reads == "response" else ()
            for p, text in zip(problems, texts, strict=True)
        ]
        config = self._model.config
        longest = max(map(len, asked))
        if longest > config.context_length:
            raise UserError(
                f"{self.name}: {longest} tokens are more than the model's context of {config.context_length}"
            )
        by_width: dict[int, list[tuple[int, ...]]] = {}
        for ids in filter(None, dict.fromkeys(asked)):
            by_width.setdefault(-(-len(ids) // _WIDTH_STEP) * _WIDTH_STEP, []).append(ids)
        found: dict[tuple[int, ...], float] = {(): 0.0}
        rows = self._rows + -self._rows % data_devices()
        for width, same in sorted(by_width.items()):
            for start in range(0, len(same), rows):
                part = same[start : start + rows]
                filled = [*part, *[(0,)] * (rows - len(part))]
                batch = jax.device_put(pad_rows(filled, width), batch_sharding())
                scored = np.asarray(_squashed(self._model.params, *batch, config))
                found.update(zip(part, scored.tolist(), strict=False))
        return np.array([found[ids] for ids in asked], np.float32)


@partial(jax.jit, static_argnames="config")
def _squashed(params: Params, tokens: jax.Array, lengths: jax.Array, config: ModelConfig) -> jax.Array:
    return jax.nn.sigmoid(scores(params, tokens, lengths, config))
