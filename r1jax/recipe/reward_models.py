"""Training of reward models: helpfulness from pairs of replies, harmlessness from labelled responses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax.algorithms.reward_model_losses import pairwise_loss, pointwise_loss
from r1jax.checkpoints.model import Model
from r1jax.checkpoints.native import write_model
from r1jax.data.formats.preferences import Labelled, Pair, read_labelled, read_pairs
from r1jax.data.problems.general_preferences import make_labelled, make_pairs
from r1jax.data.problems.problem import key_is_held_out
from r1jax.data.text.conversations import check_reasoning_is_kept, judged_ids
from r1jax.errors import UserError
from r1jax.models import transformer
from r1jax.models.config import ComputeOptions, ModelConfig
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.loading import load_model
from r1jax.recipe.problems import GeneralSplit, training_prompts
from r1jax.rewards.model import pad_rows
from r1jax.seeds import stage_seed
from r1jax.settings import may_change
from r1jax.sharding import Params, batch_sharding, data_devices, entered_mesh
from r1jax.training.gradients import accumulate, check_microbatch
from r1jax.training.loop import SaveConfig, TrainingLoop
from r1jax.training.metrics import Metrics, reduce_metrics, totals
from r1jax.training.optimizer import OptimizerConfig, make_optimizer, warn_of_rounding
from r1jax.training.state import TrainState, apply_gradients, init_state, state_shapes

Judgement = Pair | Labelled
Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RewardModelConfig(OptimizerConfig):
    """Reward models as DeepSeek-R1's (arXiv 2501.12948, section 3.2.1): one epoch, batches of 256, 8,192 tokens."""

    epochs: int = 1
    """Passes over the judgements."""
    batch: int = 256
    """Pairs or labelled responses an update."""
    microbatch: int = may_change(0)
    """Of these in one backward pass, over all devices; 0 takes the whole batch."""
    width: int = 8192
    """Tokens of the longest conversation; a judgement with a longer one is left out and counted."""
    held_out_share: float = 0.2
    """Share of the prompts, chosen by a hash, whose judgements measure accuracy and are never learned."""
    learning_rate: float = 6e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.epochs, self.batch) < 1 or self.width < 2 or self.microbatch < 0:
            raise UserError(
                "reward model: epochs and batch must be at least 1, microbatch at least 0, width at least 2"
            )
        if self.batch % self.microbatch_size:
            raise UserError(f"reward model: microbatch {self.microbatch} does not divide the batch of {self.batch}")
        if not 0 < self.held_out_share <= 0.9:
            raise UserError(f"reward model: held-out-share {self.held_out_share} must lie above 0, at most at 0.9")

    @property
    def microbatch_size(self) -> int:
        """Judgements of one backward pass."""
        return self.microbatch or self.batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelSettings(ComputeOptions):
    """Settings of the training of a reward model."""

    kind: Literal["helpfulness", "harmlessness"]
    reward_model: RewardModelConfig
    general: GeneralSplit | None  # prompts that rules judge replies to; None: the input "preferences" has judgements
    seed: int
    save: SaveConfig


def scalar_model(model: Model) -> Model:
    """The language model with a scalar head, zero at the start, in place of its output matrix."""
    if model.config.head == "scalar":
        return model
    params, config = transformer.with_scalar_head(model.params, model.config)
    return dataclasses.replace(model, config=config, params=params)


def check_reward_model(config: RewardModelConfig, data_axis: int) -> None:
    """Raises UserError where a microbatch does not split over the mesh's data axis."""
    settings = "reward-model.batch, reward-model.microbatch"
    check_microbatch(config.microbatch_size, "judgements", data_axis, settings)


def judgement_sums(params: Params, batch: Batch, config: ModelConfig) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Sum of the losses of a batch, and of it the number that counts and the number judged rightly.

    batch: "tokens" [B, T] int32 and "lengths" [B] int32, for pairs of the better reply with "other_tokens" and
    "other_lengths" of the worse, else "safe" [B] bool; "counts" [B] bool.
    """
    s = transformer.scores(params, batch["tokens"], batch["lengths"], config)
    counts = batch["counts"]
    if "other_tokens" in batch:
        worse = transformer.scores(params, batch["other_tokens"], batch["other_lengths"], config)
        loss, right = pairwise_loss(s, worse, counts), s > worse
    else:
        # A score of exactly 0 says neither and is right about nothing.
        loss, right = pointwise_loss(s, batch["safe"], counts), jnp.where(batch["safe"], s > 0, s < 0)
    return loss, (counts.sum().astype(jnp.float32), (right & counts).sum().astype(jnp.float32))


@partial(jax.jit, static_argnames=("optimizer", "config", "microbatches"), donate_argnames="state")
def _update(
    state: TrainState, batch: Batch, optimizer: optax.GradientTransformation, config: ModelConfig, microbatches: int
) -> tuple[TrainState, Metrics]:
    def gradient(params: Params, part: Batch) -> tuple[Params, tuple[jax.Array, jax.Array, jax.Array]]:
        (loss, (count, right)), grads = jax.value_and_grad(judgement_sums, has_aux=True)(params, part, config)
        return grads, (count, loss, right)

    params = transformer.prepare(state.params, config)
    (grads, count), sums = accumulate(gradient, params, batch, microbatches)
    loss, right = (x.sum() for x in sums)
    state, metrics = apply_gradients(state, grads, count, optimizer, config)
    return state, {"loss": (loss, count), "accuracy": (right, count)} | metrics


_sums = jax.jit(judgement_sums, static_argnames="config")


def train_reward_model(
    model: Model,
    judgements: Sequence[Judgement],
    config: RewardModelConfig,
    save: SaveConfig,
    seed: int,
    folder: Path,
    name: str = "reward model",
) -> tuple[Model, dict[str, Any]]:
    """A model with a scalar head that learned from pairs (Bradley-Terry) or from labelled responses (cross-entropy).

    Starts from a language model or a scalar one, whose weights are freed; leaves checkpoints and metrics in ``folder``
    and goes on from those there. The batch of an update depends on the seed, ``name`` and the update alone. Figures
    hold the accuracy on the held-out judgements. Without an entered mesh it runs on one device.

    Raises:
      UserError: where judgements are of both kinds, or nothing is left to learn or to measure; where the chat template
        leaves out reasoning that is labelled; and where a microbatch does not split over the mesh.
      Stopped: on Ctrl-C and SIGTERM, when all is saved.
    """
    if len({type(one) for one in judgements}) != 1:
        raise UserError(f"{name}: learn from pairs or from labelled responses, one kind at a time and at least one")
    check_reward_model(config, data_devices())
    if any(isinstance(one, Labelled) and "</think>" in one.response for one in judgements):
        check_reasoning_is_kept(model.tokenizer)
    model = scalar_model(model)
    settings = model.config
    learned, held_out, dropped = _laid_out(judgements, model, config)
    updates = -(-len(learned) // config.batch) * config.epochs
    per_epoch = updates // config.epochs
    rows = config.microbatch_size
    order = grain.MapDataset.range(len(learned)).shuffle(seed=stage_seed(seed, name)).repeat()
    longest = max(max(len(ids) for ids in one["ids"]) for one in (*learned, *held_out))
    warn_of_rounding(config, "reward-model")
    optimizer = make_optimizer(config, updates, stage_seed(seed, name, "rounding"))
    shapes = state_shapes(settings, config, optimizer, entered_mesh())
    write_model(folder, settings, model.tokenizer)

    def batch_of(items: Sequence[dict[str, Any]], rows: int) -> Batch:
        return jax.device_put(_batch(items, rows, longest), batch_sharding())

    def step_fn(state: TrainState, step: int) -> tuple[TrainState, dict[str, float]]:
        epoch, part = divmod(step, per_epoch)
        start = epoch * len(learned)
        places = range(start + part * config.batch, min(start + (part + 1) * config.batch, start + len(learned)))
        items = [learned[cast(int, order[i])] for i in places]
        state, metrics = _update(state, batch_of(items, config.batch), optimizer, settings, config.batch // rows)
        return state, reduce_metrics(metrics)

    with TrainingLoop(folder, name, updates, save) as loop:
        state = loop.start(shapes, lambda: init_state(model.params, optimizer, shapes), model.params)
        state = loop.fit(state, step_fn)
    parts = [held_out[i : i + rows] for i in range(0, len(held_out), rows)]
    right = sum(float(_sums(state.params, batch_of(part, rows), settings)[1][1]) for part in parts)
    figures = {
        "judgements": len(learned),
        "held_out": len(held_out),
        "held_out_accuracy": right / len(held_out),
        "held_out_guess": _guess(held_out),
        "dropped": dropped,
        "updates": updates,
        "tokens": config.epochs * sum(len(ids) for one in learned for ids in one["ids"]),
        **totals(folder, "seconds"),
    }
    return dataclasses.replace(model, params=state.params), figures


def _laid_out(
    judgements: Sequence[Judgement], model: Model, config: RewardModelConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Judgements to learn and held-out ones as {"ids": one or two lists, "safe"}, and how many were too long."""
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    dropped = 0
    for one in judgements:
        replies = (one.chosen, one.rejected) if isinstance(one, Pair) else (one.response,)
        ids = [judged_ids(one.prompt, reply, model.tokenizer) for reply in replies]
        if max(map(len, ids)) > config.width:
            dropped += 1
            continue
        safe = isinstance(one, Labelled) and one.safe
        sides[key_is_held_out(one.about or one.prompt, config.held_out_share)].append({"ids": ids, "safe": safe})
    if not all(sides):
        raise UserError(
            f"of {len(judgements)} judgements {dropped} are longer than width={config.width}, {len(sides[0])} are left "
            f"to learn and {len(sides[1])} to measure: give more of them, or another held-out-share"
        )
    return *sides, dropped


def _guess(items: Sequence[dict[str, Any]]) -> float:
    """The accuracy of who does not look: of pairs a half, of labelled responses the share of the commoner label."""
    if len(items[0]["ids"]) == 2:
        return 0.5
    safe = sum(one["safe"] for one in items) / len(items)
    return max(safe, 1 - safe)


def _batch(items: Sequence[dict[str, Any]], size: int, width: int) -> Batch:
    """Judgements as arrays of ``size`` rows; rows beyond them count nothing."""
    filled = [*items, *[items[0]] * (size - len(items))]
    tokens, lengths = pad_rows([one["ids"][0] for one in filled], width)
    batch: Batch = {"tokens": tokens, "lengths": lengths, "counts": np.arange(size) < len(items)}
    if len(items[0]["ids"]) == 2:
        batch["other_tokens"], batch["other_lengths"] = pad_rows([one["ids"][1] for one in filled], width)
    else:
        batch["safe"] = np.array([one["safe"] for one in filled])
    return batch


def reward_model_stage(settings: RewardModelSettings, inputs: Inputs, folder: Path) -> Figures:
    """Trains a reward model that starts from the input "policy".

    Helpfulness learns from pairs of replies, harmlessness from labelled responses; both from the input "preferences",
    a file, or from rules.
    """
    model = load_model(inputs["policy"], settings, settings.reward_model.param_dtype)
    helpful = settings.kind == "helpfulness"
    judgements: Sequence[Any]
    if settings.general is None:
        judgements = (read_pairs if helpful else read_labelled)(inputs["preferences"])
    else:
        judgements = (make_pairs if helpful else make_labelled)(training_prompts(settings.general))
    config, save = settings.reward_model, settings.save
    return train_reward_model(model, judgements, config, save, settings.seed, folder, name=settings.kind)[1]
