"""Problems to train on and problems held out: where they come from, and which of them make a step's batch."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from r1jax.data.formats import files
from r1jax.data.problems import arithmetic, countdown, general, gym, word_problems
from r1jax.data.problems.problem import HELD_OUT_SHARE, KeyedProblem, Problem, key_is_held_out
from r1jax.errors import UserError

_GENERATORS = ("arithmetic", "countdown", "word-problems", "general")
GENERATED = (4096, 512)  # how many a generator makes for training and for evaluation, unless the config says


@dataclasses.dataclass(frozen=True)
class ProblemsConfig:
    """Where problems come from."""

    source: str = "arithmetic"
    """arithmetic, countdown, word-problems and general (both in English and Chinese), gym:NAME (a reasoning-gym task),
    or a .jsonl or .parquet file with prompt and answer."""
    held_out_source: str | None = None
    """Where the held-out problems come from; None: a share of the source."""
    digits: int = 2
    """Digits of the numbers in arithmetic (1 to 6), countdown (1 to 3) and word problems (1 to 4)."""
    operations: str = "+-"
    """Some of +-* for arithmetic, of +- for word problems, and also / for countdown."""
    terms: int = 2
    """Numbers in a problem of arithmetic (2 to 4) or countdown (2 to 6)."""
    train_size: int | None = None
    """Training problems at most; None: all of a file, 4096 of a generator."""
    held_out_size: int | None = None
    """Held-out problems at most; None: all of a file, 512 of a generator."""
    held_out_share: float = HELD_OUT_SHARE
    """Share of all problems that is held out, chosen by a hash of the problem: never trained on, whatever the seed."""
    checker: Literal["number", "math", "exact"] = "number"
    """How answers of a file are judged: as a number, by mathematical equivalence, or letter by letter."""
    seed: int = 0
    """Which problems a generator makes, and which of a file are taken where it holds more than asked for."""


@dataclasses.dataclass(frozen=True)
class ProblemSet:
    """Training and held-out problems; no problem, in whatever order of its terms, is in both."""

    train: tuple[Problem, ...]
    held_out: tuple[Problem, ...]


def load_problems(config: ProblemsConfig, flag: str = "--problems") -> ProblemSet:
    """Reads or makes the problems of a config, which ``flag`` gives on the command line.

    A source smaller than the sizes asked for gives what it has.

    Raises:
      UserError: for a source, file or grade that does not exist, or where nothing is left on one of the two sides.
    """
    check_problems(config, flag)
    paths = [Path(source).expanduser() for source in (config.source, config.held_out_source) if source]
    return _load(config, flag, tuple(path.stat().st_mtime_ns for path in paths if path.is_file()))


@functools.lru_cache(maxsize=8)  # every stage of a run reads the same few sets
def _load(config: ProblemsConfig, flag: str, changed: tuple[int, ...]) -> ProblemSet:
    """The problems of a config whose files changed last at these times: another time is another entry of the cache."""
    if config.held_out_source is None:
        train, held_out = _take(config, config.source, _sizes(config, config.source), config.held_out_share, flag)
    else:
        # A file is used whole; a generator still keeps to its side, so that it cannot meet the other source there.
        train_size, _ = _sizes(config, config.source)
        _, held_out_size = _sizes(config, config.held_out_source)
        share = 0.0 if is_file(config.source) else config.held_out_share
        train, _ = _take(config, config.source, (train_size, 0), share, flag)
        share = 1.0 if is_file(config.held_out_source) else config.held_out_share
        _, held_out = _take(config, config.held_out_source, (0, held_out_size), share, flag)
        if both := {p.question for p in train} & {p.question for p in held_out}:
            raise UserError(
                f"{len(both)} problems are in {config.source} and in {config.held_out_source} "
                f"({min(both)[:60]!r}): take them out of one"
            )
    for name, problems, others in (("train", train, held_out), ("held-out", held_out, train)):
        if not problems:
            raise UserError(_nothing(config, name, len(others), flag))
    return ProblemSet(tuple(train), tuple(held_out))


def problem_batch(
    problems: Sequence[Problem],
    step: int,
    size: int,
    seed: int,
    attempt: int = 0,
    attempts_per_step: int = 1,
    earlier: Sequence[int] = (),
) -> list[Problem]:
    """The ``size`` problems of one attempt of one step, by the arguments alone.

    The first attempts of all steps walk through the problems in a random order, again and again: after any step, no
    problem has been asked more than once more often than another. A new order is taken where a step begins just as all
    have been asked equally often, so that no step is at the edge of two orders. Further attempts are asked elsewhere in
    the same order. No problem is twice in a step where there are enough for all its attempts, and none is twice in an
    attempt where there are ``size``.

    earlier: sizes of the first steps, where they are others than ``size``.
    """
    n = len(problems)
    ends = [0, *itertools.accumulate([*earlier[:step], *[size] * (step - len(earlier))])]  # problems asked by then
    orders = sum(end % n == 0 for end in ends[1:])  # that are behind
    start = ends[-1] + attempt * max(size, n // attempts_per_step)
    order = np.random.default_rng((seed, orders)).permutation(n)
    return [problems[order[(start + i) % n]] for i in range(size)]


def warn_of_repeats(problems: Sequence[Problem], size: int, settings: str) -> None:
    """Warns, naming the settings to change, where a step asks for more problems than there are."""
    if len(problems) < size:
        warnings.warn(
            f"a step asks for {size} problems and there are {len(problems)}: some are asked more than once in it; "
            f"lower {settings}, or give more problems",
            stacklevel=3,
        )


def check_problems(config: ProblemsConfig, flag: str = "--problems") -> None:
    """Raises UserError for an unknown source, a missing file, and a share or size out of bounds; reads no problem."""
    for name, source in (("source", config.source), ("held-out-source", config.held_out_source)):
        if source is None or source in _GENERATORS or source.startswith("gym:"):
            continue
        if not is_file(source):
            raise UserError(
                f"problems from {source!r}: write {', '.join(_GENERATORS)}, gym:NAME, or a .jsonl or .parquet file as "
                f"{flag}.{name}"
            )
        if not Path(source).expanduser().is_file():
            raise UserError(f"no file {source}: give {flag}.{name} the path of a .jsonl or .parquet file")
    if not 0.01 <= config.held_out_share <= 0.9:
        raise UserError(f"held_out_share {config.held_out_share}: choose one from 0.01 to 0.9")
    for name in ("train_size", "held_out_size"):
        size = getattr(config, name)
        if size is not None and size < 1:
            raise UserError(f"{name} {size}: at least 1")


def _nothing(config: ProblemsConfig, side: str, others: int, flag: str) -> str:
    """What to do where one side of the problems is empty, and the other has so many."""
    source = config.held_out_source if side == "held-out" and config.held_out_source else config.source
    text = f"{source} gives no {side} problems"
    if config.held_out_source or not others:
        return f"{text}: change {flag}.digits, {flag}.terms or {flag}.operations"
    where, change = ("held out", "lower") if side == "train" else ("for training", "raise")
    return (
        f"{text}, since the {others} there are all {where}: {change} {flag}.held-out-share from "
        f"{config.held_out_share}, or give {flag}.held-out-source"
    )


def is_file(source: str) -> bool:
    """Whether a source of problems is the path of a file."""
    return source.endswith(files.SUFFIXES)


def _sizes(config: ProblemsConfig, source: str) -> tuple[int | None, int | None]:
    default = (None, None) if is_file(source) else GENERATED
    return config.train_size or default[0], config.held_out_size or default[1]


def _problems(config: ProblemsConfig, source: str, flag: str) -> Iterable[KeyedProblem]:
    """All problems of a source in the order of the config's seed."""
    if is_file(source):
        rows = list(files.read(source, config.checker))
        if not rows:
            name = "source" if source == config.source else "held-out-source"
            raise UserError(f"{source} holds no rows: give {flag}.{name} a file with prompt and answer in each row")
        random.Random(config.seed).shuffle(rows)
        return rows
    if source == "arithmetic":
        return arithmetic.generate(config.digits, config.operations, config.terms, config.seed)
    if source == "countdown":
        return countdown.generate(config.digits, config.operations, config.terms, config.seed)
    if source == "word-problems":
        return word_problems.generate(config.digits, config.operations, config.seed)
    if source == "general":
        return general.problems(config.seed)
    return gym.generate(source.removeprefix("gym:"), config.seed)


def _take(
    config: ProblemsConfig, source: str, sizes: tuple[int | None, int | None], share: float, flag: str
) -> tuple[list[Problem], list[Problem]]:
    """The first problems of each side, at most ``sizes`` of them."""
    sides: tuple[list[Problem], list[Problem]] = ([], [])
    for key, problem in _problems(config, source, flag):
        held_out = key_is_held_out(key, share)
        if len(sides[held_out]) != sizes[held_out]:
            sides[held_out].append(problem)
        elif len(sides[not held_out]) == sizes[not held_out]:
            break
    return sides
