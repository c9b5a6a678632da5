"""Training and held-out problems from the source that a config names."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from r1jax.data.formats.rows import SUFFIXES
from r1jax.data.problems import arithmetic, code_tasks, countdown, files, general, gym, stories, word_problems
from r1jax.data.problems.problem import HELD_OUT_SHARE, KeyedProblem, Problem, key_is_held_out
from r1jax.errors import UserError

_GENERATORS = ("arithmetic", "countdown", "word-problems", "stories", "general", "code")
GENERATED = (4096, 512)  # default numbers of generated problems, for training and held out


@dataclasses.dataclass(frozen=True)
class ProblemsConfig:
    """The source of problems: a generator, a reasoning-gym task, or a file with the columns prompt and answer."""

    source: str = "arithmetic"
    """Take problems from arithmetic, countdown, word-problems, stories, general, code, gym:NAME, or a .jsonl or .parquet
    file."""
    held_out_source: str | None = None
    """Take held-out problems from this source; None holds out a share of the source."""
    digits: int = 2
    """Generate numbers of this many digits: 1 to 6 in arithmetic, 1 to 3 in countdown, 1 to 4 in word problems."""
    operations: str = "+-"
    """Use these operations: some of +-* in arithmetic, of +- in word problems, of +-*/ in countdown."""
    terms: int = 2
    """Use this many numbers in a problem: 2 to 4 in arithmetic, 2 to 6 in countdown."""
    train_size: int | None = None
    """Use at most this many training problems; None uses all of a file, or generates 4096."""
    held_out_size: int | None = None
    """Use at most this many held-out problems; None uses all of a file, or generates 512."""
    held_out_share: float = HELD_OUT_SHARE
    """Hold out this share of all problems, selected by a hash of the problem, so no seed ever trains on them."""
    checker: Literal["number", "math", "exact"] = "number"
    """Judge answers to problems of a file as numbers, by mathematical equivalence, or by comparing all characters."""
    seed: int = 0
    """Use this random seed to generate problems, or to choose them from a file with more problems than needed."""


@dataclasses.dataclass(frozen=True)
class ProblemSet:
    """Training and held-out problems; no problem is in both, not even with its terms in another order."""

    train: tuple[Problem, ...]
    held_out: tuple[Problem, ...]


def load_problems(config: ProblemsConfig, flag: str = "--problems") -> ProblemSet:
    """Reads or generates the problems of a config; fewer than the config asks for if the source has fewer.

    flag: the command-line flag of the config, for error messages.

    Raises:
      UserError: for an unknown source, a missing file, generator settings out of bounds, or no training or no held-out
        problems.
    """
    check_problems(config, flag)
    paths = [Path(source).expanduser() for source in (config.source, config.held_out_source) if source]
    return _load(config, flag, tuple(path.stat().st_mtime_ns for path in paths if path.is_file()))


@functools.lru_cache(maxsize=8)  # the stages of a run read the same few sets
def _load(config: ProblemsConfig, flag: str, modified: tuple[int, ...]) -> ProblemSet:
    """load_problems with the modification times of the files, so that a changed file is not read from the cache."""
    if config.held_out_source is None:
        train, held_out = _take(config, config.source, _sizes(config, config.source), config.held_out_share, flag)
    else:
        # A file is used whole. A generator keeps its own split, because the other source may contain its problems.
        train_size, _ = _sizes(config, config.source)
        _, held_out_size = _sizes(config, config.held_out_source)
        share = 0.0 if is_file(config.source) else config.held_out_share
        train, _ = _take(config, config.source, (train_size, 0), share, flag)
        share = 1.0 if is_file(config.held_out_source) else config.held_out_share
        _, held_out = _take(config, config.held_out_source, (0, held_out_size), share, flag)
        if both := {p.question for p in train} & {p.question for p in held_out}:
            raise UserError(
                f"{len(both)} problems are in {config.source} and in {config.held_out_source} "
                f"({min(both)[:60]!r}): remove them from one of the two"
            )
    for name, problems, others in (("train", train, held_out), ("held-out", held_out, train)):
        if not problems:
            raise UserError(_no_problems(config, name, len(others), flag))
    return ProblemSet(tuple(train), tuple(held_out))


def check_problems(config: ProblemsConfig, flag: str = "--problems") -> None:
    """Raises UserError for an unknown source, a missing file, or a share or size out of bounds; reads no problems."""
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
        raise UserError(f"held_out_share {config.held_out_share}: must be from 0.01 to 0.9")
    for name in ("train_size", "held_out_size"):
        size = getattr(config, name)
        if size is not None and size < 1:
            raise UserError(f"{name} {size}: must be at least 1")


def _no_problems(config: ProblemsConfig, side: str, others: int, flag: str) -> str:
    """The error message if one side has no problems and the other side has ``others``."""
    source = config.held_out_source if side == "held-out" and config.held_out_source else config.source
    text = f"{source} gives no {side} problems"
    if config.held_out_source or not others:
        return f"{text}: change {flag}.digits, {flag}.terms or {flag}.operations"
    use, change = ("held out", "lower") if side == "train" else ("used for training", "raise")
    return (
        f"{text}, because all {others} are {use}: {change} {flag}.held-out-share from {config.held_out_share}, or give "
        f"{flag}.held-out-source"
    )


def is_file(source: str) -> bool:
    """True if a source of problems is the path of a file."""
    return source.endswith(SUFFIXES)


def _sizes(config: ProblemsConfig, source: str) -> tuple[int | None, int | None]:
    default = (None, None) if is_file(source) else GENERATED
    return config.train_size or default[0], config.held_out_size or default[1]


def _problems(config: ProblemsConfig, source: str, flag: str) -> Iterable[KeyedProblem]:
    """All problems of a source, in the random order of the config's seed."""
    if is_file(source):
        rows = list(files.read_problems(source, config.checker))
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
    if source == "stories":
        return stories.generate(config.seed)
    if source == "general":
        return general.generate(config.seed)
    if source == "code":
        return code_tasks.generate(config.seed)
    return gym.generate(source.removeprefix("gym:"), config.seed)


def _take(
    config: ProblemsConfig, source: str, sizes: tuple[int | None, int | None], share: float, flag: str
) -> tuple[list[Problem], list[Problem]]:
    """The first problems for training and the first held-out ones, at most ``sizes`` of each."""
    sides: tuple[list[Problem], list[Problem]] = ([], [])
    for key, problem in _problems(config, source, flag):
        held_out = key_is_held_out(key, share)
        if len(sides[held_out]) != sizes[held_out]:
            sides[held_out].append(problem)
        elif len(sides[not held_out]) == sizes[not held_out]:
            break
    return sides
