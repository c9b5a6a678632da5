"""The data set of rejection sampling: good samples of the RL checkpoint, and general conversations.

arXiv 2501.12948, section 2.3.3.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from r1jax.data.formats.conversations import read_conversations
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.text.template import find_template
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.judged_samples import SamplesSettings, sample_policy
from r1jax.recipe.problems import GeneralSplit, training_prompts
from r1jax.recipe.sft_data import general_rows, select, write_conversations


@dataclasses.dataclass(frozen=True, kw_only=True)
class RejectionSettings:
    """Settings of stage 3, rejection sampling."""

    problems: ProblemsConfig
    template: str  # of the conversations
    samples: SamplesSettings
    general_repeats: int  # copies of each general conversation
    general: GeneralSplit | None  # prompts that rules answer; None: the conversations of the input "general", if any
    general_source: str = ""  # the part of the input "general" that is read; "": all of it
    seed: int


def rejection_sampling_stage(settings: RejectionSettings, inputs: Inputs, folder: Path) -> Figures:
    """Writes conversations.jsonl from samples of the input "policy" and general conversations.

    General conversations come from rules, or from the input "general", a data set. Figures: rows, counts of kept and
    dropped samples, tokens sampled, seconds.
    """
    template = find_template(settings.template)
    problems = load_problems(settings.problems).train
    samples = sample_policy(settings.samples, inputs["policy"], problems, settings.seed, folder)
    rows, counts = select(samples, settings.samples.select, template, "rejection sampling")
    if settings.general is not None:
        rows += general_rows(training_prompts(settings.general), template, settings.general_repeats)
    elif "general" in inputs:
        rows += [
            {"messages": messages, "kind": "general", "language": "", "origin": "general"}
            for messages in read_conversations(settings.general_source or inputs["general"])
        ] * settings.general_repeats
    return write_conversations(rows, counts, samples, settings.seed, folder)
