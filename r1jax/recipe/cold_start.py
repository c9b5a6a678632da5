"""The data set of the cold start: correct samples of R1-Zero, rewritten by rules or by a model to be readable.

arXiv 2501.12948, section 2.3.1. If the samples give too few conversations, rules write the others.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.text.readable_reasoning import make_readable, readable_response, rewriting_prompt
from r1jax.data.text.template import Template, completion_text, find_template
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.judged_samples import CHUNK, JudgedSample, SamplesSettings, cached_lines, sample_policy
from r1jax.recipe.loading import load_model
from r1jax.recipe.sft_data import Row, select, worked, write_conversations
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sampling.slots import LENGTH


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdStartSettings:
    """Settings of the data set of stage 1, the cold start."""

    problems: ProblemsConfig
    template: str  # of the conversations
    rows: int  # the number of conversations; rules write those that the samples do not give
    samples: SamplesSettings | None  # None: rules write all conversations
    rewrite_prompt: str | None  # the prompt of the model that rewrites; None: rules rewrite
    seed: int


def cold_start_stage(settings: ColdStartSettings, inputs: Inputs, folder: Path) -> Figures:
    """Writes conversations.jsonl from samples of the input "policy", and by rules.

    The input "rewriter", if given, is the model that rewrites the reasoning. Figures: rows, counts of kept and dropped
    samples, tokens sampled, seconds.
    """
    template = find_template(settings.template)
    problems = load_problems(settings.problems).train
    rows: list[Row] = []
    counts: dict[str, int] = {}
    samples: list[JudgedSample] = []
    if settings.samples is not None:
        samples = sample_policy(settings.samples, inputs["policy"], problems, settings.seed, folder)
        if settings.rewrite_prompt is None:
            samples = rewrite_by_rules(samples, template)
        else:
            options = settings.samples
            rewriter = load_model(inputs["rewriter"], options, options.dtype)
            limit = options.sampling.max_tokens
            samples = rewrite_by_model(
                samples, template, rewriter, settings.rewrite_prompt, limit, folder / "rewritten"
            )
        rows, counts = select(samples, settings.samples.select, template, "cold start")
    rows += worked(problems[::-1], template, max(settings.rows - len(rows), 0))
    return write_conversations(rows, counts, samples, settings.seed, folder)


def rewrite_by_rules(samples: Sequence[JudgedSample], template: Template) -> list[JudgedSample]:
    """The samples in the format of ``template``, the reasoning of correct ones rewritten by readable_reasoning."""
    result = list(samples)
    for i, reasoning in _reasoned(samples):
        result[i] = _rewritten(samples[i], make_readable(samples[i].problem, reasoning), template)
    return result


def rewrite_by_model(
    samples: Sequence[JudgedSample], template: Template, model: Model, prompt: str, max_tokens: int, folder: Path
) -> list[JudgedSample]:
    """The samples in the format of ``template``, the reasoning of correct ones rewritten by ``model`` greedily.

    prompt: readable_reasoning.PROMPT, or a text with the same placeholders. A rewritten text that does not end within
    ``max_tokens`` is replaced by an empty one, which every filter rejects. Text of the rewriter up to </think> is left
    out. Rewritten texts are saved in ``folder`` in chunks; saved chunks are read and not computed again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result, todo = list(samples), _reasoned(samples)
    asked = [
        model.tokenizer.chat([{"role": "user", "content": rewriting_prompt(prompt, samples[i].problem, reasoning)}])
        for i, reasoning in todo
    ]
    width = max(map(len, asked), default=1)
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)

    def ask(prompts: Sequence[list[int]]) -> list[dict[str, str | float]]:
        began = time.perf_counter()
        output = jax.device_get(
            sample(
                model.params,
                prompts,
                model.config,
                jax.random.key(0),
                sampling=sampling,
                end_tokens=model.tokenizer.eos_ids,
                prompt_width=width,
            )
        )
        texts = [
            completion_text(row[:n].tolist(), prompt, model.tokenizer)
            for row, n, prompt in zip(output.tokens, output.lengths, prompts, strict=True)
        ]
        ended = [text if reason != LENGTH else "" for text, reason in zip(texts, output.finish, strict=True)]
        seconds = (time.perf_counter() - began) / len(prompts)
        return [{"text": text.rpartition("</think>")[2].strip(), "seconds": seconds} for text in ended]

    for start in range(0, len(todo), CHUNK):
        lines = cached_lines(folder / f"{start:07d}.jsonl", lambda start=start: ask(asked[start : start + CHUNK]))
        for (i, _), line in zip(todo[start : start + CHUNK], lines, strict=True):
            result[i] = _rewritten(samples[i], line["text"], template, line["seconds"])
    return result


def _reasoned(samples: Sequence[JudgedSample]) -> list[tuple[int, str]]:
    """The index and the reasoning of each finished, correct sample whose reasoning is not empty."""
    right = ((i, one.completion) for i, one in enumerate(samples) if one.correct and one.completion.finished)
    return [(i, text) for i, completion in right if (text := completion.template.reasoning(completion.text))]


def _rewritten(one: JudgedSample, reasoning: str, template: Template, seconds: float = 0.0) -> JudgedSample:
    text = readable_response(one.problem, reasoning, one.completion.answer or "")
    completion = dataclasses.replace(one.completion, text=text, template=template)
    return dataclasses.replace(one, completion=completion, seconds=one.seconds + seconds)
