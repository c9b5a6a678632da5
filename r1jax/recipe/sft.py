"""Supervised fine-tuning on packed conversations, with the loss on the tokens of the assistant."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r1jax.checkpoints.model import Model
from r1jax.checkpoints.native import write_model
from r1jax.data.formats.conversations import read_conversations
from r1jax.data.problems.problem import key_is_held_out
from r1jax.data.text.conversations import conversation_example
from r1jax.data.text.packing import Example, pack
from r1jax.errors import UserError
from r1jax.models.config import ComputeOptions, ModelConfig
from r1jax.models.transformer import cast
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.folders import CONVERSATIONS
from r1jax.recipe.loading import load_model
from r1jax.seeds import stage_seed
from r1jax.settings import may_change
from r1jax.sharding import Params, batch_sharding, entered_mesh
from r1jax.training.gradients import check_microbatch
from r1jax.training.language_model import cross_entropy_sums, language_model_update
from r1jax.training.loop import SaveConfig, TrainingLoop
from r1jax.training.metrics import reduce_metrics, totals
from r1jax.training.multi_token import MultiTokenConfig, check_mtp_weight
from r1jax.training.optimizer import Schedule, make_optimizer, warn_of_rounding
from r1jax.training.state import TrainState, init_state, state_shapes

Conversation = Sequence[Mapping[str, str]]
Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class SFTConfig(MultiTokenConfig):
    """Supervised fine-tuning; DeepSeek-R1 has 2 to 3 epochs and a cosine decay to a tenth (arXiv 2501.12948)."""

    epochs: int = 2
    """The number of passes over the conversations."""
    batch: int = 32
    """Packed rows per update."""
    width: int = 512
    """Tokens per packed row. Longer conversations are left out and counted."""
    microbatch: int = may_change(0)
    """Rows per backward pass, over all devices; 0: the whole batch."""
    held_out_share: float = 0.05
    """The share of held-out conversations, chosen by a hash of their prompts; 0 leaves the evaluation out."""
    evaluate_every: int = 50
    """The number of updates between evaluations of the loss on held-out conversations."""
    logprob_chunk: int = may_change(2048)
    """The number of tokens whose logits are in memory at one time."""
    learning_rate: float = 5e-5
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.epochs, self.batch, self.evaluate_every, self.logprob_chunk) < 1 or self.width < 8:
            raise UserError(
                "sft: epochs, batch, evaluate-every and logprob-chunk must be at least 1 and width at least 8"
            )
        if not 0 <= self.held_out_share <= 0.5:
            raise UserError(f"sft.held-out-share={self.held_out_share}: must be from 0 to 0.5")
        if self.microbatch < 0 or self.batch % self.microbatch_size:
            raise UserError(f"sft.microbatch={self.microbatch} does not divide the batch of {self.batch} rows")

    @property
    def microbatch_size(self) -> int:
        """Rows per backward pass."""
        return self.microbatch or self.batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTSettings(ComputeOptions):
    """Settings of a stage of supervised fine-tuning."""

    sft: SFTConfig
    source: str = ""  # the part of the input "conversations" that is read; "": all of it
    seed: int
    save: SaveConfig


def check_sft(config: SFTConfig, data_axis: int) -> None:
    """Raises UserError if a microbatch does not split over the mesh's data axis."""
    check_microbatch(config.microbatch_size, "rows", data_axis, "sft.batch, sft.microbatch")


def batches(examples: Sequence[Example], width: int, batch: int, order: Sequence[int] | None = None) -> list[Batch]:
    """The examples packed in ``order``, in batches; the last batch is filled with rows whose mask is false."""
    chosen = examples if order is None else [examples[i] for i in order]
    rows = list(pack(chosen, width))
    rows += [jax.tree.map(np.zeros_like, rows[0])] * (-len(rows) % batch)
    parts = [rows[i : i + batch] for i in range(0, len(rows), batch)]
    return [{name: np.stack([row[name] for row in part]) for name in part[0]} for part in parts]


@partial(jax.jit, static_argnames=("config", "chunk"))
def _loss_sums(params: Params, batch: Any, config: ModelConfig, chunk: int) -> tuple[jax.Array, jax.Array]:
    loss, (count, _) = cross_entropy_sums(cast(params, config), batch, config, chunk)
    return loss, count


def held_out_loss(params: Params, data: Sequence[Batch], config: ModelConfig, chunk: int) -> float:
    """Mean of -log p over the tokens of all batches whose mask is true, in nats."""
    sums = [_loss_sums(params, jax.device_put(part, batch_sharding()), config, chunk) for part in data]
    return float(sum(float(loss) for loss, _ in sums) / sum(float(count) for _, count in sums))


def sft(
    model: Model,
    conversations: Sequence[Conversation],
    config: SFTConfig,
    save: SaveConfig,
    seed: int,
    folder: Path,
    name: str = "sft",
) -> tuple[Model, dict[str, Any]]:
    """Fine-tunes ``model``; returns the model and the figures of the stage.

    Writes checkpoints and metrics to ``folder`` and resumes from them. Each epoch packs the conversations in a new
    random order. The batch of an update depends only on the seed, ``name`` and the number of the update. Frees the
    weights of ``model``, of which training has a copy. Without an entered mesh it runs on one device.

    Raises:
      UserError: for an invalid conversation, if no conversation fits the width, or for a weight of multi-token
        prediction without layers for it.
      Stopped: on Ctrl-C and SIGTERM, after the state is saved.
    """
    settings = model.config
    check_mtp_weight(config.mtp_weight, settings, "sft.mtp-weight")
    learned, held_out, dropped = _examples(conversations, model, config)
    tests = batches(held_out, config.width, config.microbatch_size) if held_out else []

    def epoch_batches(epoch: int) -> list[Batch]:
        order = np.random.default_rng((stage_seed(seed, name), epoch)).permutation(len(learned))
        return batches(learned, config.width, config.batch, order.tolist())

    # The number of packed rows depends on the order, so the updates of all epochs are counted first.
    starts = np.cumsum([0, *(len(epoch_batches(epoch)) for epoch in range(config.epochs))]).tolist()
    updates = starts[-1]
    warn_of_rounding(config, "sft")
    optimizer = make_optimizer(config, updates, stage_seed(seed, name, "rounding"))
    shapes = state_shapes(settings, config, optimizer, entered_mesh())
    write_model(folder, settings, model.tokenizer)
    microbatches = config.batch // config.microbatch_size
    current: tuple[int, list[Batch]] = (-1, [])

    def step_fn(state: TrainState, step: int) -> tuple[TrainState, dict[str, float]]:
        nonlocal current
        began = time.perf_counter()
        row: dict[str, float] = {}
        if tests and step == 0:
            row["held_out_loss_before"] = held_out_loss(state.params, tests, settings, config.logprob_chunk)
        epoch = int(np.searchsorted(starts, step, side="right")) - 1
        if current[0] != epoch:
            current = (epoch, epoch_batches(epoch))
        part = current[1][step - starts[epoch]]
        batch = jax.device_put(part, batch_sharding())
        state, metrics = language_model_update(
            state, batch, optimizer, settings, microbatches, config.logprob_chunk, config.balance, config.mtp_weight
        )
        row |= reduce_metrics(metrics)
        row["tokens"] = float(part["mask"].sum())
        row["tokens_per_second"] = row["tokens"] / (time.perf_counter() - began)
        if tests and ((step + 1) % config.evaluate_every == 0 or step + 1 == updates):
            row["held_out_loss"] = held_out_loss(state.params, tests, settings, config.logprob_chunk)
        return state, row

    with TrainingLoop(folder, name, updates, save) as loop:
        state = loop.start(shapes, lambda: init_state(model.params, optimizer, shapes), model.params)
        state = loop.fit(state, step_fn)
    figures = {
        "examples": len(learned),
        "held_out": len(held_out),
        "dropped": dropped,
        "updates": updates,
        "tokens": config.epochs * int(sum(e.mask.sum() for e in learned)),
        **totals(folder, "seconds"),
    }
    return dataclasses.replace(model, params=state.params), figures


def _examples(
    conversations: Sequence[Conversation], model: Model, config: SFTConfig
) -> tuple[list[Example], list[Example], int]:
    """Training examples, held-out examples, and the number of conversations that are longer than a row."""
    sides: tuple[list[Example], list[Example]] = ([], [])
    dropped = 0
    for messages in conversations:
        example = conversation_example(messages, model.tokenizer)
        if len(example.tokens) > config.width + 1:
            dropped += 1
            continue
        prompt = "\n".join(f"{m['role']}: {m['content']}" for m in messages if m["role"] != "assistant")
        sides[key_is_held_out(prompt, config.held_out_share)].append(example)
    if not sides[0]:
        raise UserError(
            f"none of the {len(conversations)} conversations fits sft.width={config.width}, or all are held out"
        )
    return *sides, dropped


def sft_stage(settings: SFTSettings, inputs: Inputs, folder: Path) -> Figures:
    """Fine-tunes the input "policy" on the input "conversations": a data set, or the folder of a data stage."""
    model = load_model(inputs["policy"], settings, settings.sft.param_dtype)
    data = inputs["conversations"]
    made = data / CONVERSATIONS  # a stage has other files beside it
    conversations = read_conversations(settings.source or (made if made.is_file() else data))
    return sft(model, conversations, settings.sft, settings.save, settings.seed, folder, name=folder.name)[1]
