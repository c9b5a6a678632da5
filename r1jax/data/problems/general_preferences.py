"""Training data of reward models, generated from the general prompts and their good and bad replies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from r1jax.data.formats.preferences import Labelled, Pair
from r1jax.data.problems.general import SAFETY, GeneralPrompt


def make_pairs(prompts: Iterable[GeneralPrompt]) -> list[Pair]:
    """One pair for each bad reply to each helpfulness prompt (r1jax.data.problems.general.generate_prompts).

    The topic of a prompt decides whether the pair is held out, since all wordings of a question have the same replies.
    """
    return [
        Pair(prompt.problem.question, prompt.good, bad, prompt.about)
        for prompt in prompts
        if prompt.problem.kind not in SAFETY
        for bad in prompt.bad
    ]


def make_labelled(prompts: Iterable[GeneralPrompt]) -> list[Labelled]:
    """Responses with their reasoning; the topic of a prompt decides whether its responses are held out.

    All good replies, to any prompt, are safe. Each harmful request adds three unsafe responses: compliance after
    harmless reasoning, and reasoning that plans the harm, followed by compliance or by a refusal. The reasoning counts
    because the reward model judges the whole response.
    """
    labelled = []
    for prompt in prompts:
        responses = [(prompt.response(prompt.good), True)]
        if prompt.problem.kind in SAFETY:
            (harm,) = prompt.bad
            planned = dataclasses.replace(prompt, thought=harm)
            responses += [
                (one.response(reply), False) for one, reply in ((prompt, harm), (planned, harm), (planned, prompt.good))
            ]
        labelled += [Labelled(prompt.problem.question, text, safe, prompt.about) for text, safe in responses]
    return labelled
