"""Times a step of decoding that verifies proposed tokens, relative to a step that decodes one token per sequence.

Samples with random weights accept few proposals, so the gain of a draft is not timed: it is the tokens per step on real
text (tests/tools/measure_drafts.py) divided by ``times_single``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from r1jax.benchmark.workload import Bench, timed
from r1jax.sampling.queues import make_queue
from r1jax.sampling.sampler import sample_queue

SHORT = 8  # the shorter of two calls has this part of the tokens of the longer one


def time_drafts(
    bench: Bench, pairs: tuple[tuple[int, int], ...], group: int, repeats: int
) -> Iterator[dict[str, float]]:
    """Seconds of a step for each pair of a number of sequences and a number of proposed tokens, at most.

    Two calls of one program with other limits are timed, and their difference is divided by that of their steps: this
    leaves out prefill and the layout of weights. A row has ``slots``, ``draft_tokens`` (0: without a draft),
    ``seconds``, ``times_single`` (relative to the row of as many slots without a draft) and ``accepted`` (the share of
    proposals that the random weights drew).
    """
    single: dict[int, float] = {}
    for slots, proposals in pairs:
        drafting = {"draft": "ngram", "draft_tokens": proposals, "draft_slots": slots} if proposals else {}
        sampling = dataclasses.replace(bench.sampling, **drafting)
        prompts = bench.prompts[: max(1, slots // group)]
        seconds, steps, accepted = [], [], 0.0
        for tokens in (sampling.max_tokens, max(1, sampling.max_tokens // SHORT)):
            limits = np.full(slots, tokens)
            queue = make_queue(prompts, bench.model_config, sampling, slots // len(prompts), limits)

            def call(queue=queue, sampling=sampling, slots=slots):
                arguments = (jax.random.key(1), bench.model_config, sampling, (), (slots,))
                return sample_queue(bench.state.policy.params, queue, *arguments)

            samples = jax.device_get(call())
            seconds.append(timed(call, repeats))
            steps.append(int(samples.steps))
            if proposals and tokens == sampling.max_tokens:
                accepted = float(samples.accepted.sum() / max(samples.proposed.sum(), 1))
        step = (seconds[0] - seconds[1]) / max(steps[0] - steps[1], 1)
        single.setdefault(slots, step)
        row = {"slots": slots, "draft_tokens": proposals, "seconds": step, "times_single": step / single[slots]}
        yield row | {"accepted": accepted, "steps": steps[0]}
