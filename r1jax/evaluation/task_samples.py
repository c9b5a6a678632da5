"""Samples of a task, from a model on this machine's devices or behind an endpoint, those that are still missing."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import jax

from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.errors import UserError
from r1jax.evaluation.endpoint import Endpoint, Reply, ask
from r1jax.evaluation.estimators import MOST_SAMPLES
from r1jax.evaluation.evaluate import problem_hash, surprisals_of
from r1jax.rewards import Completion
from r1jax.rewards.completions import completions_from_samples
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sharding import data_devices

Place = tuple[int, int]  # (problem, sample), each from 0 on

_STRIDE = 1024  # of sequence ids from one problem to another; more than samples of a problem
assert MOST_SAMPLES <= _STRIDE


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A completion with its place. tokens and surprisal are None where an endpoint does not give them."""

    place: Place
    completion: Completion
    tokens: int | None
    surprisal: float | None


def sequence_id(problem: Problem, number: int) -> int:
    """The id of a sample, from 0 to 2^31 - 1, which depends on the content of the problem and the sample's number.

    A sample is the same whatever the other problems, their order, their number and the number of samples. Two samples
    of one problem have different ids. Two problems may share ids, which matters little: their prompts differ.
    """
    digest = hashlib.blake2b(problem_hash(problem).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % (2**31 // _STRIDE) * _STRIDE + number


def parts(problems: int, samples: int, batch: int, devices: int) -> list[list[int]]:
    """Places in the list of problems that are sampled together: parts of equal size, about ``batch`` sequences each.

    All parts share one compiled program: the size is a multiple of ``devices``, and numbers of at least ``problems``
    fill the last part; their samples are dropped.
    """
    count = -(-problems // max(1, batch // samples))
    size = -(-problems // count)
    size = -(-size // devices) * devices
    return [list(range(start, start + size)) for start in range(0, problems, size)]


def model_samples(
    model: Model,
    problems: Sequence[Problem],
    template: Template,
    sampling: Sampling,
    samples: int,
    batch: int,
    key: jax.Array,
    done: Collection[Place],
) -> Iterator[list[Drawn]]:
    """The samples of each problem that are not in ``done``, part by part, each sampled in one compiled program.

    A part is sampled whole, also if some of its samples are done, so that it is the same program as before a kill.
    """
    tokenizer = model.tokenizer
    prompts = [template.prompt_ids(problem, tokenizer) for problem in problems]
    width, P = max(map(len, prompts)), len(problems)
    for part in parts(P, samples, batch, data_devices()):
        missing = [(at, i) for at in part if at < P for i in range(samples) if (at, i) not in done]
        if not missing:
            continue
        result = sample(
            model.params,
            [prompts[at % P] for at in part],
            model.config,
            key,
            sampling=sampling,
            end_tokens=tokenizer.eos_ids,
            samples_per_prompt=samples,
            sequence_ids=[sequence_id(problems[at % P], i) for at in part for i in range(samples)],
            prompt_width=width,
        )
        completions = completions_from_samples(result, tokenizer, template, sampling)
        surprisals = surprisals_of(result)
        rows = [(at - part[0]) * samples + i for at, i in missing]
        yield [
            Drawn(place, completions[row], completions[row].tokens, float(surprisals[row]))
            for place, row in zip(missing, rows, strict=True)
        ]


def endpoint_samples(
    endpoint: Endpoint,
    problems: Sequence[Problem],
    template: Template,
    sampling: Sampling,
    samples: int,
    concurrency: int,
    seed: int,
    done: Collection[Place],
) -> Iterator[list[Drawn]]:
    """The samples of each problem that are not in ``done``, as they arrive, ``concurrency`` requests at a time.

    seed: with it and the sample's id, each request has a seed, for servers that use one. After a failed request no
    other is sent, the replies to those under way are yielded, and then its UserError is raised.
    """
    settings: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        **({"top_k": sampling.top_k} if sampling.top_k else {}),  # not all servers know these two
        **({"min_p": sampling.min_p} if sampling.min_p else {}),
    }
    missing = iter([(at, i) for at in range(len(problems)) for i in range(samples) if (at, i) not in done])
    stopped = threading.Event()

    def request(place: Place) -> Reply:
        problem = problems[place[0]]
        own = {**settings, "seed": (sequence_id(problem, place[1]) + seed) % 2**31}

        def sleep(seconds: float) -> None:
            if stopped.wait(seconds):
                raise UserError("another request has failed")

        return ask(endpoint, template.messages(problem), own, sleep)

    waiting: dict[Future[Reply], Place] = {}
    failure: UserError | None = None
    with ThreadPoolExecutor(concurrency) as pool:
        while True:
            while failure is None and len(waiting) < concurrency and (place := next(missing, None)) is not None:
                waiting[pool.submit(request, place)] = place
            if not waiting:
                break
            arrived: list[Drawn] = []
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                place = waiting.pop(future)
                try:
                    arrived.append(_drawn(place, future.result(), template, sampling))
                except UserError as error:
                    failure = failure or error
                    stopped.set()
            if arrived:
                yield arrived
    if failure is not None:
        raise failure


def _drawn(place: Place, reply: Reply, template: Template, sampling: Sampling) -> Drawn:
    completion = Completion(reply.text, reply.tokens or 0, sampling.max_tokens, reply.finished, template)
    return Drawn(place, completion, reply.tokens, None)
