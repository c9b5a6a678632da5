"""Samples as the completions that rewards judge; Template.answer (r1jax.data.text.template) extracts the answer."""

from __future__ import annotations

import numpy as np

from r1jax.data.text.template import ANY, Template, completion_text
from r1jax.rewards.base import Completion
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import LENGTH, Samples
from r1jax.tokenizer import Tokenizer


def completions_from_samples(
    samples: Samples, tokenizer: Tokenizer, template: Template, sampling: Sampling
) -> list[Completion]:
    """The Completion of each sample: its text with the part of the answer that the template opens, and its length.

    sampling: the settings that the samples were drawn with, of which the length limit is recorded.
    """
    tokens, lengths, finish = (np.asarray(x) for x in (samples.tokens, samples.lengths, samples.finish))
    opening, prompt = template.opening(tokenizer), template.prompt_ids(ANY, tokenizer)
    return [
        Completion(
            text=opening + completion_text(row[:n].tolist(), prompt, tokenizer),
            tokens=int(n),
            limit=sampling.max_tokens,
            finished=bool(reason != LENGTH),
            template=template,
        )
        for row, n, reason in zip(tokens, lengths, finish, strict=True)
    ]
