"""The problems and general prompts that a stage reads: the training or the held-out ones, and their files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from r1jax.checkpoints.load import read_tokenizer
from r1jax.data.formats.sources import origin
from r1jax.data.problems import general
from r1jax.data.problems.dataset import ProblemsConfig, ProblemSet, is_data, sources
from r1jax.data.problems.general import GeneralPrompt
from r1jax.data.problems.problem import key_is_held_out
from r1jax.data.text.template import Template


@dataclasses.dataclass(frozen=True)
class GeneralSplit:
    """The split of the general prompts that rules make into training and held-out prompts."""

    held_out_share: float
    seed: int


def training_prompts(split: GeneralSplit) -> list[GeneralPrompt]:
    """The general prompts that are not held out."""
    return [
        prompt for key, prompt in general.generate_prompts(split.seed) if not key_is_held_out(key, split.held_out_share)
    ]


def for_training(problems: ProblemsConfig) -> ProblemsConfig:
    """The config without the held-out size, for a stage that does not depend on it."""
    return dataclasses.replace(problems, held_out_size=None)


def for_evaluation(problems: ProblemsConfig) -> ProblemsConfig:
    """The config without the training size, for a stage that does not depend on it."""
    return dataclasses.replace(problems, train_size=None)


def problem_files(problems: ProblemsConfig, prefix: str = "") -> dict[str, Path]:
    """Role -> path of the files, folders and snapshots of the hub that problems come from."""
    roles = (f"{prefix}problems", f"{prefix}held_out")
    found = zip(roles, sources(problems), strict=False)
    return {role: origin(source) for role, source in found if is_data(source)}


def problems_opening(problems: ProblemSet, template: Template, base: str) -> str:
    """What was recognised in the files that problems come from, and the first prompt as the model reads it.

    "" for generated problems, which are the only ones that a pretrained base has. base: the checkpoint of the model.
    """
    if not problems.notes:
        return ""
    first, tokenizer = problems.train[0], read_tokenizer(base)
    prompt = tokenizer.decode(template.prompt_ids(first, tokenizer))
    return "\n".join(
        [
            *problems.notes,
            f"problems: {len(problems.train)} for training, {len(problems.held_out)} held out",
            f"first prompt (answer: {first.answer}, checker: {first.checker}, kind: {first.kind}):",
            prompt if len(prompt) <= 3000 else f"{prompt[:3000]}...",
        ]
    )
