"""Samples as the completions that rewards judge; Template.answer (r1jax.data.text.template) extracts the answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from r1jax.data.text.template import ANY, Template
from r1jax.rewards.base import Completion
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import LENGTH, Samples
from r1jax.tokenizer import Tokenizer


def completion_texts(rows: Sequence[np.ndarray], prompt: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """r1jax.data.text.template.completion_text of the sampled ids of each row, after the same prompt."""
    before, ends = np.array(prompt[-8:], np.int32), frozenset(tokenizer.eos_ids)
    start = len(tokenizer.decode(before.tolist()))
    sampled = [row[:-1] if len(row) and int(row[-1]) in ends else row for row in rows]
    texts = tokenizer.decode_batch([np.concatenate([before, row]) for row in sampled])
    return [text[start:] for text in texts]


def completions_from_samples(
    samples: Samples, tokenizer: Tokenizer, template: Template, sampling: Sampling
) -> list[Completion]:
    """The Completion of each sample: its text with the part of the answer that the template opens, and its length.

    Samples of the same tokens share one object.
    sampling: the settings that the samples were drawn with, of which the length limit is recorded.
    """
    tokens, lengths, finish = (np.asarray(x) for x in (samples.tokens, samples.lengths, samples.finish))
    opening, prompt = template.opening(tokenizer), template.prompt_ids(ANY, tokenizer)
    finished = (finish != LENGTH).tolist()
    drawn = [(row[:n].tobytes(), end) for row, n, end in zip(tokens, lengths.tolist(), finished, strict=True)]
    rows = {key: np.frombuffer(key[0], tokens.dtype) for key in dict.fromkeys(drawn)}
    texts = completion_texts(list(rows.values()), prompt, tokenizer)
    found = {
        key: Completion(opening + text, tokens=len(row), limit=sampling.max_tokens, finished=key[1], template=template)
        for (key, row), text in zip(rows.items(), texts, strict=True)
    }
    return [found[key] for key in drawn]
