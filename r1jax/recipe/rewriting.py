"""The cold start's rewriting: what R1-Zero got right, told readably by rules or by a model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from r1jax.checkpoints.model import Model
from r1jax.data.text.readable_reasoning import make_readable, readable_response, rewriting_prompt
from r1jax.data.text.template import Template, completion_text
from r1jax.recipe.judged_samples import CHUNK, Drawn, kept_lines
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import LENGTH, sample


def rewrite_by_rules(drawn: Sequence[Drawn], template: Template) -> list[Drawn]:
    """The samples in ``template``'s form, right ones with reasoning rewritten by readable_reasoning.make_readable."""
    found = list(drawn)
    for i, reasoning in _reasoned(drawn):
        found[i] = _told(drawn[i], make_readable(drawn[i].problem, reasoning), template)
    return found


def rewrite_by_model(
    drawn: Sequence[Drawn], template: Template, model: Model, prompt: str, max_tokens: int, folder: Path
) -> list[Drawn]:
    """The samples in ``template``'s form, right ones with their reasoning as the model tells it when asked, greedily.

    prompt: readable_reasoning.PROMPT, or another with its places. A text that does not end within ``max_tokens``
    becomes none, which no filter passes; of a model that thinks first, the thoughts are left out. Texts are kept in
    ``folder`` as they come, and not asked for again where they are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, todo = list(drawn), _reasoned(drawn)
    asked = [
        model.tokenizer.chat([{"role": "user", "content": rewriting_prompt(prompt, drawn[i].problem, reasoning)}])
        for i, reasoning in todo
    ]
    width = max(map(len, asked), default=1)
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)

    def ask(prompts: Sequence[list[int]]) -> list[dict[str, str | float]]:
        began = time.perf_counter()
        samples = jax.device_get(
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
            for row, n, prompt in zip(samples.tokens, samples.lengths, prompts, strict=True)
        ]
        ended = [text if reason != LENGTH else "" for text, reason in zip(texts, samples.finish, strict=True)]
        seconds = (time.perf_counter() - began) / len(prompts)
        return [{"text": text.rpartition("</think>")[2].strip(), "seconds": seconds} for text in ended]

    for start in range(0, len(todo), CHUNK):
        lines = kept_lines(folder / f"{start:07d}.jsonl", lambda start=start: ask(asked[start : start + CHUNK]))
        for (i, _), line in zip(todo[start : start + CHUNK], lines, strict=True):
            found[i] = _told(drawn[i], line["text"], template, line["seconds"])
    return found


def _reasoned(drawn: Sequence[Drawn]) -> list[tuple[int, str]]:
    """Place and reasoning of the samples that ended, are right and show some."""
    right = ((i, one.completion) for i, one in enumerate(drawn) if one.correct and one.completion.finished)
    return [(i, text) for i, completion in right if (text := completion.template.reasoning(completion.text))]


def _told(one: Drawn, reasoning: str, template: Template, seconds: float = 0.0) -> Drawn:
    text = readable_response(one.problem, reasoning, one.completion.answer or "")
    completion = dataclasses.replace(one.completion, text=text, template=template)
    return dataclasses.replace(one, completion=completion, seconds=one.seconds + seconds)
