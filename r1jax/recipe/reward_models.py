"""Training of reward models: helpfulness on pairs of replies, harmlessness on labelled responses."""

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
from r1jax.traced import enabled
from r1jax.training.balance import OFF, Balance, expert_load, with_balance_loss
from r1jax.training.gradients import accumulate, check_microbatch
from r1jax.training.loop import SaveConfig, TrainingLoop
from r1jax.training.metrics import Metrics, merge, reduce_metrics, totals
from r1jax.training.optimizer import OptimizerConfig, make_optimizer, warn_of_rounding
from r1jax.training.state import TrainState, apply_gradients, init_state, state_shapes

Judgement = Pair | Labelled
Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RewardModelConfig(OptimizerConfig):
    """Training of a reward model; the defaults are those of DeepSeek-R1 (arXiv 2501.12948, section 3.2.1)."""

    epochs: int = 1
    """The number of passes over the judgements."""
    batch: int = 256
    """Judgements (pairs or labelled responses) per update."""
    microbatch: int = may_change(0)
    """Judgements per backward pass, over all devices; 0: the whole batch."""
    width: int = 8192
    """The largest number of tokens of a conversation. Judgements of longer ones are left out and counted."""
    held_out_share: float = 0.2
    """The share of held-out prompts, chosen by a hash, on whose judgements the accuracy is measured."""
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
            raise UserError(f"reward model: held-out-share {self.held_out_share} must be above 0 and at most 0.9")

    @property
    def microbatch_size(self) -> int:
        """Judgements per backward pass."""
        return self.microbatch or self.batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelSettings(ComputeOptions):
    """Settings of the training of a reward model."""

    kind: Literal["helpfulness", "harmlessness"]
    reward_model: RewardModelConfig
    general: GeneralSplit | None  # prompts whose judgements rules write; None: those of the input "preferences"
    source: str = ""  # the part of the input "preferences" that is read; "": all of it
    seed: int
    save: SaveConfig


def scalar_model(model: Model) -> Model:
    """The language model with a scalar head, initialised to zero, in place of its output matrix."""
    if model.config.head == "scalar":
        return model
    params, config = transformer.with_scalar_head(model.params, model.config)
    return dataclasses.replace(model, config=config, params=params)


def check_reward_model(config: RewardModelConfig, data_axis: int) -> None:
    """Raises UserError if a microbatch does not split over the mesh's data axis."""
    settings = "reward-model.batch, reward-model.microbatch"
    check_microbatch(config.microbatch_size, "judgements", data_axis, settings)


def judgement_sums(
    params: Params, batch: Batch, config: ModelConfig, balance: Balance = OFF
) -> tuple[jax.Array, tuple[jax.Array, tuple[Metrics, jax.Array | None]]]:
    """Sum of the losses of a batch, the number of judgements that count, metrics, and the load of experts.

    The sum includes the balance loss of experts, if it has a weight; the metrics "loss" and "accuracy" do not.

    batch: "counts" [B] bool; "tokens" [B, T] int32 and "lengths" [B] int32 of the response or, for pairs, of the chosen
    reply; for pairs "other_tokens" and "other_lengths" of the rejected reply; else "safe" [B] bool.
    """
    counts = batch["counts"]
    balanced, metrics, loads = jnp.zeros(counts.shape), [], []  # of each pass

    def scores(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        nonlocal balanced
        h, extras = transformer.hidden_states(params, tokens, config)
        mask = (jnp.arange(tokens.shape[1]) < lengths[:, None]) & counts[:, None]
        balanced, found = with_balance_loss(balanced, extras, mask, config, balance)
        metrics.append(found)
        loads.append(expert_load(extras, mask))
        return transformer.scores_of_states(params, h, lengths, config)

    s = scores(batch["tokens"], batch["lengths"])
    if "other_tokens" in batch:
        worse = scores(batch["other_tokens"], batch["other_lengths"])
        loss, right = pairwise_loss(s, worse, counts), s > worse
    else:
        # A score of exactly 0 predicts neither label, so it counts as wrong.
        loss, right = pointwise_loss(s, batch["safe"], counts), jnp.where(batch["safe"], s > 0, s < 0)
    count = counts.sum().astype(jnp.float32)
    sums = merge([*metrics, {"loss": (loss, count), "accuracy": ((right & counts).sum().astype(jnp.float32), count)}])
    if enabled(balance.loss_weight):
        loss = loss + jnp.where(counts, balanced, 0.0).sum()
    return loss, (count, (sums, None if config.experts is None else jnp.stack(loads).sum(axis=0)))


@partial(jax.jit, static_argnames=("optimizer", "config", "microbatches", "balance"), donate_argnames="state")
def _update(
    state: TrainState,
    batch: Batch,
    optimizer: optax.GradientTransformation,
    config: ModelConfig,
    microbatches: int,
    balance: Balance,
) -> tuple[TrainState, Metrics]:
    def part_sums(params: Params, part: Batch) -> Any:
        return judgement_sums(params, part, config, balance)

    params = transformer.prepare(state.params, config)
    (grads, count), (found,) = accumulate(part_sums, params, batch, microbatches, config)
    sums, load = jax.tree.map(lambda x: x.sum(axis=0), found)
    state, metrics = apply_gradients(state, grads, count, optimizer, config, load, balance.bias_speed)
    return state, sums | metrics


@partial(jax.jit, static_argnames="config")
def _sums(params: Params, batch: Batch, config: ModelConfig) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The loss, the number of judgements that count, and of those that the model gets right."""
    loss, (count, (metrics, _)) = judgement_sums(params, batch, config)
    return loss, (count, metrics["accuracy"][0])


def train_reward_model(
    model: Model,
    judgements: Sequence[Judgement],
    config: RewardModelConfig,
    save: SaveConfig,
    seed: int,
    folder: Path,
    name: str = "reward model",
) -> tuple[Model, dict[str, Any]]:
    """Trains a model with a scalar head on pairs (Bradley-Terry) or on labelled responses (cross-entropy).

    Starts from a language model or a model with a scalar head, whose weights are freed. Writes checkpoints and metrics
    to ``folder`` and resumes from them. The batch of an update depends only on the seed, ``name`` and the number of the
    update. Returns the model and figures, with the accuracy on held-out judgements. Without an entered mesh it runs on
    one device.

    Raises:
      UserError: if judgements are of both kinds or too few to train and to measure, if the chat template drops
        reasoning that is labelled, or if a microbatch does not split over the mesh.
      Stopped: on Ctrl-C and SIGTERM, after the state is saved.
    """
    if len({type(one) for one in judgements}) != 1:
        raise UserError(f"{name}: give pairs or labelled responses, of one kind and at least one")
    check_reward_model(config, data_devices())
    if any(isinstance(one, Labelled) and "</think>" in one.response for one in judgements):
        check_reasoning_is_kept(model.tokenizer)
    model = scalar_model(model)
    settings = model.config
    learned, held_out, dropped = _tokenized(judgements, model, config)
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
        state, metrics = _update(
            state, batch_of(items, config.batch), optimizer, settings, config.batch // rows, config.balance
        )
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


def _tokenized(
    judgements: Sequence[Judgement], model: Model, config: RewardModelConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Training and held-out judgements as {"ids": one or two lists, "safe"}, and the number of those too long."""
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
    """The accuracy of a constant answer: 0.5 for pairs, the share of the most frequent label otherwise."""
    if len(items[0]["ids"]) == 2:
        return 0.5
    safe = sum(one["safe"] for one in items) / len(items)
    return max(safe, 1 - safe)


def _batch(items: Sequence[dict[str, Any]], size: int, width: int) -> Batch:
    """Judgements as arrays of ``size`` rows; "counts" is false for the rows that fill the batch."""
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

    Helpfulness is trained on pairs of replies, harmlessness on labelled responses. The judgements come from rules, or
    from the input "preferences", a data set.
    """
    model = load_model(inputs["policy"], settings, settings.reward_model.param_dtype)
    helpful = settings.kind == "helpfulness"
    judgements: Sequence[Any]
    if settings.general is None:
        judgements = (read_pairs if helpful else read_labelled)(settings.source or inputs["preferences"])
    else:
        judgements = (make_pairs if helpful else make_labelled)(training_prompts(settings.general))
    config, save = settings.reward_model, settings.save
    return train_reward_model(model, judgements, config, save, settings.seed, folder, name=settings.kind)[1]
