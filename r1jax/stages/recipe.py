"""The stages of DeepSeek-R1 (arXiv 2501.12948), each a function of (settings, inputs, folder) for r1jax.stages.graph.

A notebook may call them as they are, on an entered mesh: inputs name folders, the folder is written, figures come back.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax

from r1jax.checkpoints.load import load, read_config
from r1jax.checkpoints.model import Model
from r1jax.data import general
from r1jax.data.conversations import read_conversations
from r1jax.data.preferences import make_labelled, make_pairs, read_labelled, read_pairs
from r1jax.data.problem import key_is_held_out
from r1jax.data.problems import ProblemsConfig, load_problems
from r1jax.data.rewrite import rewrite
from r1jax.data.template import find_template
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig, evaluate
from r1jax.models.transformer import param_specs
from r1jax.rewards.config import VerifierConfig
from r1jax.rewards.model import ModelReward
from r1jax.rewards.pool import RewardPool
from r1jax.rewards.routing import RoutedRewards, check_kinds, parse_routes, rule_specs
from r1jax.sampling.processors import Sampling
from r1jax.sharding import param_shardings
from r1jax.stages.collect import Environment
from r1jax.stages.distill import MatchConfig, match
from r1jax.stages.draw import draw
from r1jax.stages.pretrain import PretrainConfig, pretrain
from r1jax.stages.rejection_sampling import (
    Row,
    SelectConfig,
    general_rows,
    select,
    shuffled,
    worked,
)  # fmt: skip
from r1jax.stages.reward_model import RewardModelConfig, train_reward_model
from r1jax.stages.rl import reinforce
from r1jax.stages.rl_config import RLConfig
from r1jax.stages.run import write_whole
from r1jax.stages.sft import SFTConfig, sft
from r1jax.training.loop import SaveConfig

Inputs = Mapping[str, Path]
Figures = dict[str, Any]

DATA = "conversations.jsonl"
SCORERS = ("helpfulness", "harmlessness")
CONVERSATIONS = ("conversations", "cold_start_data", "rejection_sampling")  # inputs that are data, and no model


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all stages of a run have in common."""

    seed: int
    template: str
    problems: ProblemsConfig
    general: ProblemsConfig
    sampling: Sampling
    dtype: str
    remat: str
    attention: str
    unroll: bool
    verifier: VerifierConfig
    save: SaveConfig


# Settings of how a stage computes, and not of what.
HOW = (
    "shared.remat", "shared.attention", "shared.unroll", "shared.sampling.slots", "shared.verifier.workers",
    "shared.verifier.deadline", "shared.save.every", "shared.save.keep_last", "shared.save.keep_best",
    "rl.microbatch", "rl.logprob_chunk", "sft.microbatch", "sft.logprob_chunk", "reward_model.microbatch",
    "match.microbatch", "match.logprob_chunk",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """A small base model, made on the spot."""

    shared: Shared
    pretrain: PretrainConfig


@dataclasses.dataclass(frozen=True)
class RLSettings:
    """Reinforcement learning; the input "start" or the first one is where it starts from."""

    shared: Shared
    rl: RLConfig
    routes: tuple[str, ...]
    template: str
    temperature: float = 1.0
    general_from: int = -1  # the step from which general prompts are among the others; -1: never
    scorers: tuple[str, ...] = ()  # "helpfulness", "harmlessness": inputs of these names, or FILE.py:FUNCTION in routes


@dataclasses.dataclass(frozen=True)
class SelectSettings:
    """A data set from a model's own samples."""

    shared: Shared
    select: SelectConfig
    template: str
    kind: Literal["cold start", "rejection sampling"]
    stand_in: int = 0  # cold start: the rows that it should have; rules write what Zero's samples do not fill
    general_repeats: int = 0  # rejection sampling: how often each general reply is in the data


@dataclasses.dataclass(frozen=True)
class SFTSettings:
    """Fine-tuning on a data set of conversations."""

    shared: Shared
    sft: SFTConfig


@dataclasses.dataclass(frozen=True)
class RewardModelSettings:
    """A reward model from preferences, made by rule where no file of them is given."""

    shared: Shared
    kind: Literal["helpfulness", "harmlessness"]
    reward_model: RewardModelConfig


@dataclasses.dataclass(frozen=True)
class MatchSettings:
    """Distillation by distribution."""

    shared: Shared
    match: MatchConfig


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """The evaluation of a checkpoint on held-out reasoning problems and general prompts."""

    shared: Shared
    evaluation: EvaluationConfig
    template: str
    scorers: tuple[str, ...] = SCORERS


def pretrain_stage(settings: PretrainSettings, inputs: Inputs, folder: Path) -> Figures:
    """Makes a small base model with its tokenizer: r1jax.stages.pretrain."""
    shared, config = settings.shared, settings.pretrain
    context = config.width + shared.sampling.max_tokens
    template = find_template(shared.template)
    figures = pretrain(config, shared.save, template, shared.problems, context, shared.seed, folder)
    return figures | {"tokens": sum(row.get("tokens", 0.0) for row in _rows(folder))}


def rl_stage(settings: RLSettings, inputs: Inputs, folder: Path) -> Figures:
    """Reinforcement learning with rewards mixed by the kind of problem: r1jax.stages.rl."""
    shared = settings.shared
    model = _load(inputs[_start(inputs)], shared, settings.rl.param_dtype)
    template = find_template(settings.template)
    problems = load_problems(shared.problems).train
    late = load_problems(shared.general).train if settings.general_from >= 0 else ()
    routes = parse_routes(settings.routes)
    check_kinds((*problems, *late), routes)
    width = max(len(template.prompt_ids(p, model.tokenizer)) for p in (*problems, *late))
    sampling = dataclasses.replace(shared.sampling, temperature=settings.temperature)
    with _judged(settings.routes, settings.scorers, inputs, shared) as scorer:
        environment = Environment(
            problems, template, scorer, sampling, shared.seed, width, late, max(settings.general_from, 0)
        )
        reinforce(model, environment, settings.rl, shared.save, folder, name=folder.name)
    rows = _rows(folder)
    seconds = sum(row["seconds"] for row in rows)
    tokens = sum(row["length_mean"] for row in rows) * settings.rl.sequences
    return {"steps": len(rows), "tokens": tokens, "seconds": seconds, "reward": rows[-1]["reward"]}


def data_stage(settings: SelectSettings, inputs: Inputs, folder: Path) -> Figures:
    """Conversations from a model's own samples, in conversations.jsonl, with counts of what was kept and dropped.

    The cold start rewrites what R1-Zero (input "zero") got right, and rules fill up what is missing. Rejection sampling
    keeps the samples as they are and adds general data.
    """
    began = time.perf_counter()
    shared, template = settings.shared, find_template(settings.template)
    asked = find_template(shared.template)  # what the conversations look like, however the samples were asked for
    problems = load_problems(shared.problems).train
    rows: list[Row] = []
    counts: dict[str, int] = {}
    tokens = 0
    if inputs:
        model = _load(inputs[_start(inputs)], shared, "float32" if shared.dtype == "float32" else "bfloat16")
        sampling = dataclasses.replace(shared.sampling, temperature=settings.select.temperature)
        routes = tuple(f"{kind}: accuracy" for kind in sorted({p.kind for p in problems}))
        with _judged(routes, (), inputs, shared) as scorer:
            drawn = list(draw(
                model, problems[: settings.select.problems], template, scorer, sampling, settings.select.samples,
                shared.seed, folder / "samples",
            ))  # fmt: skip
        cold = settings.kind == "cold start"
        tokens = sum(one.completion.tokens for one in drawn)
        rows, counts = select(drawn, settings.select, asked, settings.kind, rewrite if cold else None)
    missing = max(settings.stand_in - len(rows), 0)
    if missing:
        rows += worked(problems[::-1], asked, missing)
    counts["generated"] = sum(row["origin"] == "generated" for row in rows)
    if settings.general_repeats:
        rows += general_rows(_general_prompts(shared), asked, settings.general_repeats)
        counts["general"] = sum(row["origin"] == "general" for row in rows)
    if not rows:
        raise UserError(
            f"{folder.name}: no sample is fit to learn from ({counts}): train longer before, or sample more"
        )
    rows = shuffled(rows, shared.seed)
    write_whole(folder / DATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {"rows": len(rows), "counts": counts, "tokens": tokens, "seconds": time.perf_counter() - began}


def sft_stage(settings: SFTSettings, inputs: Inputs, folder: Path) -> Figures:
    """Fine-tunes one input on the conversations of the other, a data stage or a file: r1jax.stages.sft."""
    shared = settings.shared
    data = next(path for name, path in inputs.items() if name in CONVERSATIONS)
    base = next(path for name, path in inputs.items() if name not in CONVERSATIONS)
    model = _load(base, shared, settings.sft.param_dtype)
    conversations = read_conversations(data / DATA if data.is_dir() else data)
    return sft(model, conversations, settings.sft, shared.save, shared.seed, folder, name=folder.name)[1]


def match_stage(settings: MatchSettings, inputs: Inputs, folder: Path) -> Figures:
    """Trains an input towards the distribution of the input "teacher": r1jax.stages.distill."""
    shared, config = settings.shared, settings.match
    start = next(path for name, path in inputs.items() if name != "teacher")
    student = _load(start, shared, config.param_dtype)
    teacher = _load(inputs["teacher"], shared, "float32" if shared.dtype == "float32" else "bfloat16")
    template, problems = find_template(shared.template), load_problems(shared.problems).train
    sampling = shared.sampling
    figures = match(
        student, teacher, problems, template, sampling, config, shared.save, shared.seed, folder, name=folder.name
    )[1]
    return figures | {"tokens": sum(row["tokens"] for row in _rows(folder))}


def reward_model_stage(settings: RewardModelSettings, inputs: Inputs, folder: Path) -> Figures:
    """Trains a reward model on top of the input "base", from the input "preferences" where there is one."""
    shared = settings.shared
    model = _load(inputs["base"], shared, settings.reward_model.param_dtype)
    helpful = settings.kind == "helpfulness"
    if (file := inputs.get("preferences")) is not None:
        judgements: Sequence[Any] = read_pairs(file) if helpful else read_labelled(file)
    else:
        judgements = (make_pairs if helpful else make_labelled)(_general_prompts(shared))
    return train_reward_model(
        model, judgements, settings.reward_model, shared.save, shared.seed, folder, name=settings.kind
    )[1]


def evaluate_stage(settings: EvaluateSettings, inputs: Inputs, folder: Path) -> Figures:
    """Evaluates a checkpoint: figures of reasoning problems and of general prompts, with the first completions."""
    began = time.perf_counter()
    shared, config = settings.shared, settings.evaluation
    model = _load(inputs[_start(inputs)], shared, "float32" if shared.dtype == "float32" else "bfloat16")
    sampling = dataclasses.replace(shared.sampling, temperature=config.temperature)
    figures: Figures = {}
    for name, source, template in (
        ("reasoning", shared.problems, settings.template), ("general", shared.general, shared.template)
    ):  # fmt: skip
        problems = load_problems(source).held_out[: config.problems]
        scorers = settings.scorers if name == "general" else ()
        routes = tuple(_evaluation_route(kind, scorers) for kind in sorted({p.kind for p in problems}))
        with _judged(routes, scorers, inputs, shared) as scorer:
            found, judged = evaluate(
                model.params, model.config, model.tokenizer, find_template(template), problems, scorer, sampling,
                config.samples, shared.seed,
            )  # fmt: skip
        figures[name] = dataclasses.asdict(found)
        figures[f"{name}_completions"] = [dataclasses.asdict(one) for one in judged[:24]]
    return figures | {"seconds": time.perf_counter() - began}


def _evaluation_route(kind: str, scorers: Sequence[str]) -> str:
    """What an evaluation measures of a kind: accuracy, and the reward model that the kind is of where there is one."""
    scorer = {**dict.fromkeys(general.HELPFULNESS, SCORERS[0]), **dict.fromkeys(general.SAFETY, SCORERS[1])}.get(kind)
    return f"{kind}: accuracy {scorer}" if scorer in scorers else f"{kind}: accuracy"


def shared_from(fields: Mapping[str, Any]) -> Shared:
    """The Shared that a manifest holds as JSON: what a teacher's run was measured with."""
    parts = {
        "problems": ProblemsConfig, "general": ProblemsConfig, "sampling": Sampling, "verifier": VerifierConfig,
        "save": SaveConfig,
    }  # fmt: skip
    return Shared(**{name: parts[name](**value) if name in parts else value for name, value in fields.items()})


def _start(inputs: Inputs) -> str:
    """The input that is a policy: the one that is no reward model."""
    return next(name for name in inputs if name not in SCORERS)


def _load(path: Path, shared: Shared, dtype: str) -> Model:
    """A checkpoint on the entered mesh, computing as the run does."""
    model = load(path, dtype, param_shardings(param_specs(read_config(path)), jax.sharding.get_mesh()))
    numerics = {name: getattr(shared, name) for name in ("dtype", "remat", "attention", "unroll")}
    return dataclasses.replace(model, config=dataclasses.replace(model.config, **numerics))


@contextmanager
def _judged(
    routes: tuple[str, ...], scorers: tuple[str, ...], inputs: Inputs, shared: Shared
) -> Iterator[RoutedRewards]:
    """The rewards of these routes, with their processes and models."""
    mixtures = parse_routes(routes)
    models = [
        ModelReward(name, _load(inputs[name], shared, "float32"), "summary" if name == SCORERS[0] else "response")
        for name in scorers
    ]
    with RewardPool(rule_specs(mixtures, scorers), shared.verifier.workers, shared.verifier.deadline) as pool:
        yield RoutedRewards(mixtures, pool, models)


def _general_prompts(shared: Shared) -> list[general.GeneralPrompt]:
    """The general prompts that are not held out."""
    share, seed = shared.general.held_out_share, shared.general.seed
    return [prompt for key, prompt in general.generate(seed) if not key_is_held_out(key, share)]


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
