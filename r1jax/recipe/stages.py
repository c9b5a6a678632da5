"""The stages of DeepSeek-R1 (arXiv 2501.12948), each a function of (settings, inputs, folder) for r1jax.pipeline.graph.

A notebook may call them as they are, on an entered mesh or on one device: inputs name folders, the folder is written,
figures come back.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1jax.checkpoints.load import load, read_config
from r1jax.checkpoints.model import Model
from r1jax.data.formats.preferences import make_labelled, make_pairs, read_labelled, read_pairs
from r1jax.data.problems import general
from r1jax.data.problems.dataset import ProblemsConfig, is_file, load_problems
from r1jax.data.problems.problem import Problem, key_is_held_out
from r1jax.data.text.conversations import read_conversations
from r1jax.data.text.template import find_template
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import evaluate
from r1jax.models.config import CHANGEABLE_COMPUTE_OPTIONS, with_compute_options
from r1jax.models.transformer import param_specs
from r1jax.pipeline.graph import Stage
from r1jax.recipe.config import (
    SCORERS,
    EvaluateSettings,
    MatchSettings,
    PretrainSettings,
    RewardModelSettings,
    RLSettings,
    SelectSettings,
    SFTSettings,
    Shared,
)
from r1jax.recipe.distillation import match
from r1jax.recipe.judged_samples import Drawn, draw
from r1jax.recipe.pretraining import pretrain
from r1jax.recipe.rejection_sampling import Row, general_rows, select, shuffled, worked
from r1jax.recipe.reward_models import train_reward_model
from r1jax.recipe.rewriting import rewrite_by_model, rewrite_by_rules
from r1jax.recipe.sft import sft
from r1jax.rewards.model import ModelReward
from r1jax.rewards.pool import RewardPool
from r1jax.rewards.routing import RoutedRewards, check_kinds, parse_routes, rule_specs
from r1jax.rl.rollouts import Environment
from r1jax.rl.train import reinforce
from r1jax.sampling.processors import Sampling
from r1jax.seeds import stage_seed
from r1jax.sharding import entered_mesh, param_shardings
from r1jax.training.metrics import totals

Inputs = Mapping[str, Path]
Figures = dict[str, Any]

DATA = "conversations.jsonl"
JUDGED = dict(zip(SCORERS, (general.HELPFULNESS, general.SAFETY), strict=True))  # scorer -> kinds of prompts
CONVERSATIONS = ("conversations", "cold_start_data", "rejection_sampling")  # inputs that are data, and no model


def pretrain_stage(settings: PretrainSettings, inputs: Inputs, folder: Path) -> Figures:
    """Makes a small base model with its tokenizer: r1jax.recipe.pretraining."""
    shared, config = settings.shared, settings.pretrain
    context = config.width + shared.sampling.max_tokens
    template = find_template(shared.template)
    share = shared.general.held_out_share
    return pretrain(config, shared.save, template, shared.problems, context, shared.seed, folder, share, folder.name)


def rl_stage(settings: RLSettings, inputs: Inputs, folder: Path) -> Figures:
    """Reinforcement learning with rewards mixed by the kind of problem: r1jax.rl.train."""
    shared = settings.shared
    model = _load(_policies(inputs)[0], shared, settings.rl.param_dtype)
    template = find_template(settings.template)
    problems = load_problems(shared.problems).train
    late = load_problems(shared.general).train if settings.general_from >= 0 else ()
    routes = parse_routes(settings.routes)
    check_kinds((*problems, *late), routes)
    width = max(len(template.prompt_ids(p, model.tokenizer)) for p in (*problems, *late))
    sampling = dataclasses.replace(shared.sampling, temperature=settings.temperature)
    with _judged(settings.routes, settings.scorers, inputs, shared) as scorer:
        environment = Environment(
            problems,
            template,
            scorer,
            sampling,
            shared.seed,
            width,
            late,
            settings.general_from,
            settings.general_share,
        )
        reinforce(model, environment, settings.rl, shared.save, folder, name=folder.name)
    return {"steps": settings.rl.steps} | totals(folder, "tokens", "seconds")


def data_stage(settings: SelectSettings, inputs: Inputs, folder: Path) -> Figures:
    """Conversations from a model's own samples, in conversations.jsonl, with counts of what was kept and dropped.

    The cold start rewrites what R1-Zero (input "zero") got right, by rules or with the input "rewriter", and rules
    fill up what is missing. Rejection sampling keeps the samples as they are and adds general data, of the input
    "general" where there is one.
    """
    shared = settings.shared
    asked = find_template(shared.template)  # what the conversations look like, however the samples were asked for
    problems = load_problems(shared.problems).train
    rows: list[Row] = []
    counts: dict[str, int] = {}
    tokens, seconds = 0, 0.0
    if policies := _policies(inputs):
        drawn = _drawn(settings, policies[0], problems, folder / "samples")
        if settings.kind == "cold start" and "rewriter" in inputs:
            rewriter = _load(inputs["rewriter"], shared, _inference_dtype(shared))
            limit = shared.sampling.max_tokens
            drawn = rewrite_by_model(drawn, asked, rewriter, settings.rewrite_prompt, limit, folder / "rewritten")
        elif settings.kind == "cold start":
            drawn = rewrite_by_rules(drawn, asked)
        tokens = sum(one.completion.tokens for one in drawn)
        seconds = sum(one.seconds for one in drawn)
        rows, counts = select(drawn, settings.select, asked, settings.kind)
    rows += worked(problems[::-1], asked, max(settings.stand_in - len(rows), 0))
    counts["generated"] = sum(row["origin"] == "generated" for row in rows)
    if "general" in inputs:
        rows += [
            {"messages": messages, "kind": "general", "language": "", "origin": "general"}
            for messages in read_conversations(inputs["general"])
        ] * settings.general_repeats
    elif settings.general_repeats:
        rows += general_rows(_general_prompts(shared), asked, settings.general_repeats)
    counts["general"] = sum(row["origin"] == "general" for row in rows)
    if not rows:
        raise UserError(
            f"{folder.name}: no sample is fit to learn from ({counts}): train longer before, or sample more"
        )
    rows = shuffled(rows, stage_seed(shared.seed, folder.name))
    write_whole(folder / DATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {"rows": len(rows), "counts": counts, "tokens": tokens, "seconds": seconds}


def _drawn(settings: SelectSettings, policy: Path, problems: Sequence[Problem], folder: Path) -> list[Drawn]:
    """Samples of the policy, judged by accuracy; its weights are let go of."""
    shared = settings.shared
    model = _load(policy, shared, _inference_dtype(shared))
    sampling = dataclasses.replace(shared.sampling, temperature=settings.select.temperature)
    routes = tuple(f"{kind}: accuracy" for kind in sorted({p.kind for p in problems}))
    with _judged(routes, (), {}, shared) as scorer:
        return list(
            draw(
                model,
                problems[: settings.select.problems],
                find_template(settings.template),
                scorer,
                sampling,
                settings.select.samples,
                shared.seed,
                folder,
                folder.parent.name,
            )
        )


def sft_stage(settings: SFTSettings, inputs: Inputs, folder: Path) -> Figures:
    """Fine-tunes one input on the conversations of the other, a data stage or a file: r1jax.recipe.sft."""
    shared = settings.shared
    data = next(path for name, path in inputs.items() if name in CONVERSATIONS)
    base = next(path for name, path in inputs.items() if name not in CONVERSATIONS)
    model = _load(base, shared, settings.sft.param_dtype)
    conversations = read_conversations(data / DATA if data.is_dir() else data)
    return sft(model, conversations, settings.sft, shared.save, shared.seed, folder, name=folder.name)[1]


def match_stage(settings: MatchSettings, inputs: Inputs, folder: Path) -> Figures:
    """Trains an input towards the distribution of the input "teacher": r1jax.recipe.distillation."""
    shared, config = settings.shared, settings.match
    student = _load(_policies(inputs)[0], shared, config.param_dtype)
    teacher = _load(inputs["teacher"], shared, _inference_dtype(shared))
    template, problems = find_template(shared.template), load_problems(shared.problems).train
    sampling = shared.sampling
    return match(
        student, teacher, problems, template, sampling, config, shared.save, shared.seed, folder, name=folder.name
    )[1]


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
    model = _load(_policies(inputs)[0], shared, _inference_dtype(shared))
    sampling = dataclasses.replace(shared.sampling, temperature=config.temperature)
    figures: Figures = {}
    for name, source, template in (
        ("reasoning", shared.problems, settings.template),
        ("general", shared.general, shared.template),
    ):
        problems = load_problems(source).held_out[: config.problems]
        scorers, functions = (settings.scorers, settings.functions) if name == "general" else ((), ())
        judges = {name: name for name in scorers} | dict(functions)
        kinds = sorted({problem.kind for problem in problems})
        routes = tuple(f"{kind}: accuracy {judges.get(judge_of(kind), '')}" for kind in kinds)
        with _judged(routes, scorers, inputs, shared) as scorer:
            found, judged = evaluate(
                model.params,
                model.config,
                model.tokenizer,
                find_template(template),
                problems,
                scorer,
                sampling,
                config.samples,
                shared.seed,
                f"{folder.name}/{name}",
            )
        figures[name] = dataclasses.asdict(found)
        for judge, path in functions:  # a function has the column of the model whose place it takes
            if (mean := found.rewards.get(path.rpartition(":")[2])) is not None:
                figures[name]["rewards"][judge] = mean
        figures[f"{name}_completions"] = [dataclasses.asdict(one) for one in judged[:24]]
    return figures | {"seconds": time.perf_counter() - began}


def routes(kinds: Iterable[str], language: float, judges: Mapping[str, str]) -> tuple[str, ...]:
    """The reward mixtures of RL: rules for these kinds, and for general prompts the judge of their set, with format.

    language: weight of language consistency, in all of them. judges: of SCORERS, those that take part, each with the
    reward that it is: itself, or FILE.py:FUNCTION. (arXiv 2501.12948, section 3.1.)
    """
    extra = f" language={language:g}" if language else ""
    found = [f"{','.join(sorted(kinds))}: accuracy format{extra}"]
    return (*found, *(f"{','.join(of)}: {judges[name]} format{extra}" for name, of in JUDGED.items() if name in judges))


# Settings of how a stage computes, and not of what.
_HOW = (
    *(f"shared.{name}" for name in CHANGEABLE_COMPUTE_OPTIONS),
    "shared.sampling.slots",
    "shared.verifier.workers",
    "shared.save",
    "rl.microbatch",
    "rl.logprob_chunk",
    "sft.microbatch",
    "sft.logprob_chunk",
    "reward_model.microbatch",
    "match.microbatch",
    "match.logprob_chunk",
    "given",
)


def _but(group: str, config: type, *read: str) -> tuple[str, ...]:
    """The settings of a group that are not among those read."""
    return tuple(f"{group}.{field.name}" for field in dataclasses.fields(config) if field.name not in read)


# What stages leave unread of Shared: a change of it concerns them not.
_SIZES = ("shared.problems.held_out_size", "shared.general.held_out_size")
_UNREAD: dict[Any, tuple[str, ...]] = {
    pretrain_stage: (
        *_but("shared.problems", ProblemsConfig, "digits", "operations", "held_out_share"),
        *_but("shared.general", ProblemsConfig, "held_out_share"),
        *_but("shared.sampling", Sampling, "max_tokens"),
        "shared.verifier",
        "shared.dtype",
    ),
    rl_stage: (*_SIZES, "shared.sampling.temperature", "shared.template"),
    data_stage: (*_SIZES, "shared.sampling.temperature", "shared.general.train_size", "shared.general.source"),
    sft_stage: ("shared.problems", "shared.sampling", "shared.verifier", "shared.general", "shared.template"),
    match_stage: (*_SIZES, "shared.general", "shared.verifier"),
    reward_model_stage: (
        "shared.problems",
        "shared.sampling",
        "shared.verifier",
        "shared.template",
        *_but("shared.general", ProblemsConfig, "held_out_share", "seed"),
    ),
    evaluate_stage: ("shared.problems.train_size", "shared.general.train_size", "shared.sampling.temperature"),
}


def stage(
    name: str,
    function: Any,
    settings: Any,
    inputs: tuple[str, ...] = (),
    files: Mapping[str, Path] | None = None,
    **plan: str,
) -> Stage:
    """A stage of this module, with the files that its problems come from among its files.

    Of its settings those may change that it does not read or that only say how.
    """
    shared, files = settings.shared, dict(files or {})
    free = [*_HOW, *_UNREAD[function]]
    late = function is rl_stage and settings.general_from >= 0
    if function in (rl_stage, data_stage) and not late and not getattr(settings, "general_repeats", 0):
        free.append("shared.general")
    if "rewriter" not in files:
        free.append("rewrite_prompt")
    sampled = function in (rl_stage, data_stage, match_stage, evaluate_stage)
    for prefix, config, read in (
        ("", shared.problems, sampled),
        ("general_", shared.general, late or function is evaluate_stage),
    ):
        sources = {f"{prefix}problems": config.source, f"{prefix}held_out": config.held_out_source}
        files |= {key: Path(path).expanduser() for key, path in sources.items() if read and path and is_file(path)}
    return Stage(name, function, settings, inputs, files, plan, tuple(free))


def judge_of(kind: str) -> str:
    """Which of SCORERS judges prompts of a kind; "" for the kinds that rules judge alone."""
    return next((name for name, kinds in JUDGED.items() if kind in kinds), "")


def _policies(inputs: Inputs) -> list[Path]:
    """The inputs that are policies to begin with, one or none: no other model and no file."""
    others = (
        *SCORERS,
        "rewriter",
        "general",
        "teacher",
        "problems",
        "held_out",
        "general_problems",
        "general_held_out",
    )
    return [path for name, path in inputs.items() if name not in others and not name.endswith("_file")]


def _inference_dtype(shared: Shared) -> str:
    return "float32" if shared.dtype == "float32" else "bfloat16"


def _load(path: Path, shared: Shared, dtype: str) -> Model:
    """A checkpoint on the entered mesh, or one device, computing as the run does."""
    model = load(path, dtype, param_shardings(param_specs(read_config(path)), entered_mesh()))
    return dataclasses.replace(model, config=with_compute_options(model.config, shared))


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
