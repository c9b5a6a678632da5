"""Training and held-out problems from the source that a config names."""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from r1jax.data.formats.readers import SUFFIXES
from r1jax.data.formats.sources import HUB, data_files, has_splits, is_source, with_split
from r1jax.data.problems import arithmetic, code_tasks, countdown, files, general, gym, stories, word_problems
from r1jax.data.problems.problem import HELD_OUT_SHARE, KeyedProblem, Problem, key_is_held_out, question_key
from r1jax.data.problems.shapes import parse_columns
from r1jax.errors import UserError

_GENERATORS = ("arithmetic", "countdown", "word-problems", "stories", "general", "code")
GENERATED = (4096, 512)  # default numbers of generated problems, for training and held out


@dataclasses.dataclass(frozen=True)
class ProblemsConfig:
    """The source of problems: a generator, a reasoning-gym task, a file or folder, or a data set of the hub."""

    source: str = "arithmetic"
    """Take problems from arithmetic, countdown, word-problems, stories, general, code, gym:NAME, a .jsonl, .json, .csv
    or .parquet file, a folder of them, or a data set of the hub, hf:ORG/NAME[:CONFIG][/SPLIT]."""
    held_out_source: str | None = None
    """Take held-out problems from this source, or from this split of the source; None holds out a share of it."""
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
    """Judge answers to problems of a file as numbers, by mathematical equivalence, or by comparing all characters.
    With number, answers of data sets of mathematics that are no numbers are judged by equivalence."""
    seed: int = 0
    """Use this random seed to generate problems, or to choose them from a file with more problems than needed."""
    columns: tuple[str, ...] = ()
    """Read these columns of a file, each as FIELD=COLUMN, such as prompt=Q answer=A kind=topic; a dot leads into a
    nested column. Empty recognises the columns."""
    skip_unreadable: bool = False
    """Leave out rows of a file without an answer that can be judged, instead of refusing the file."""


@dataclasses.dataclass(frozen=True)
class ProblemSet:
    """Training and held-out problems; no problem is in both, not even with its terms in another order.

    notes: a line for each file or data set that was read, with the shape of its rows; none for generators.
    """

    train: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def load_problems(config: ProblemsConfig, flag: str = "--problems") -> ProblemSet:
    """Reads or generates the problems of a config; fewer than the config asks for if the source has fewer.

    flag: the command-line flag of the config, for error messages.

    Raises:
      UserError: for an unknown source, a missing file, generator settings out of bounds, or no training or no held-out
        problems.
    """
    check_problems(config, flag)
    files = [file.path for source in sources(config) if is_data(source) for file in data_files(source)]
    return _load(config, flag, tuple(path.stat().st_mtime_ns for path in files))


@functools.lru_cache(maxsize=8)  # the stages of a run read the same few sets
def _load(config: ProblemsConfig, flag: str, modified: tuple[int, ...]) -> ProblemSet:
    """load_problems with the modification times of the files, so that a changed file is not read from the cache."""
    source, *others = sources(config)
    found, notes = _problems(config, source, flag)
    if not others:
        train, held_out = _take(found, _sizes(config, source), config.held_out_share)
    else:
        # A file is used whole. A generator keeps its own split, because the other source may contain its problems.
        other, (train_size, _) = others[0], _sizes(config, source)
        _, held_out_size = _sizes(config, other)
        train, _ = _take(found, (train_size, 0), 0.0 if is_data(source) else config.held_out_share)
        found, more = _problems(config, other, flag)
        _, held_out = _take(found, (0, held_out_size), 1.0 if is_data(other) else config.held_out_share)
        notes += more
        questions = {question_key(p.question) for p in train}
        both = questions & {question_key(p.question) for p in held_out}
        if 2 * len(both) > len(held_out) or (both and both == questions):
            raise UserError(
                f"{len(both)} problems are in {source} and in {other} ({min(both)[:60]!r}): remove them from one of "
                "the two"
            )
        if both:
            train = [problem for problem in train if question_key(problem.question) not in both]
            notes += (f"{len(both)} problems of {other} are in {source}, too, and are not trained on",)
    for name, problems, rest in (("train", train, held_out), ("held-out", held_out, train)):
        if not problems:
            raise UserError(_no_problems(config, name, len(rest), flag))
    return ProblemSet(tuple(train), tuple(held_out), notes)


def sources(config: ProblemsConfig) -> tuple[str, ...]:
    """The source of a config and, if it names one, that of its held-out problems.

    Raises UserError if the held-out source names a split of a source that has no splits.
    """
    other = config.held_out_source
    if other is None:
        return (config.source,)
    bare = not is_generated(other) and re.fullmatch(r"[\w-]+", other)
    # A folder in the working directory that is called test does not stand for the split of a data set.
    of_source = has_splits(config.source) or (is_data(config.source) and not is_data(other))
    return config.source, with_split(config.source, other) if bare and of_source else other


def check_problems(config: ProblemsConfig, flag: str = "--problems") -> None:
    """Raises UserError for an unknown source, a missing file, or a share or size out of bounds; reads no problems.

    Data sets of the hub are downloaded.
    """
    for name, source in zip(("source", "held-out-source"), sources(config), strict=False):
        if is_generated(source):
            continue
        if re.search(r"\[[^\]]*:[^\]]*\]$", source):
            raise UserError(
                f"{source}: slices are not read: give {flag}.{name} without [...] and set {flag}.train-size or "
                f"{flag}.held-out-size"
            )
        if not is_data(source):
            raise UserError(
                f"problems from {source!r}: write {', '.join(_GENERATORS)}, gym:NAME, a .jsonl, .json, .csv or "
                f".parquet file, a folder of them, or hf:ORG/NAME as {flag}.{name}"
            )
        path = Path(source).expanduser()
        if source.lower().endswith(SUFFIXES) and not source.startswith(HUB) and not (path.is_file() or path.is_dir()):
            what = f"{source} is not a regular file" if path.exists() else f"no file {source}"
            raise UserError(f"{what}: give {flag}.{name} the path of a .jsonl, .json, .csv or .parquet file")
        data_files(source)
    parse_columns(config.columns)
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


def is_generated(source: str) -> bool:
    """True if a source of problems is a generator or a reasoning-gym task."""
    return source in _GENERATORS or source.startswith("gym:")


def is_data(source: str) -> bool:
    """True if a source of problems is a file, a folder, or a data set of the hub."""
    return not is_generated(source) and is_source(source)


def _sizes(config: ProblemsConfig, source: str) -> tuple[int | None, int | None]:
    default = (None, None) if is_data(source) else GENERATED
    return config.train_size or default[0], config.held_out_size or default[1]


def _problems(config: ProblemsConfig, source: str, flag: str) -> tuple[Iterable[KeyedProblem], tuple[str, ...]]:
    """All problems of a source, in the random order of the config's seed, and a note on a source that is read."""
    if not is_data(source):
        return _generated(config, source), ()
    found = files.read_problems(source, config.checker, config.columns, config.skip_unreadable)
    if not found.problems:
        name = "source" if source == sources(config)[0] else "held-out-source"
        why = f"no rows that can be judged ({found.skipped} were left out)" if found.skipped else "no rows"
        raise UserError(f"{source} holds {why}: give {flag}.{name} a file with prompt and answer in each row")
    rows = list(found.problems)
    random.Random(config.seed).shuffle(rows)
    left_out = f"; {found.skipped} rows left out" if found.skipped else ""
    return rows, (f"problems: {len(rows)} of {source} in the shape {found.shape}{left_out}{_repeated(rows)}",)


def _repeated(rows: Sequence[KeyedProblem]) -> str:
    """A note on questions that are in several rows, with their number and the number of those with other answers."""
    answers: dict[str, set[tuple[str, str]]] = {}
    for key, problem in rows:
        answers.setdefault(key, set()).add((problem.answer, problem.metadata))
    if len(answers) == len(rows):
        return ""
    differ = sum(len(found) > 1 for found in answers.values())
    return f"; {len(answers)} different questions" + (f", {differ} of them with several answers" if differ else "")


def _generated(config: ProblemsConfig, source: str) -> Iterable[KeyedProblem]:
    """The problems of a generator or a reasoning-gym task."""
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
    found: Iterable[KeyedProblem], sizes: tuple[int | None, int | None], share: float
) -> tuple[list[Problem], list[Problem]]:
    """The first problems for training and the first held-out ones, at most ``sizes`` of each."""
    sides: tuple[list[Problem], list[Problem]] = ([], [])
    for key, problem in found:
        held_out = key_is_held_out(key, share)
        if len(sides[held_out]) != sizes[held_out]:
            sides[held_out].append(problem)
        elif len(sides[not held_out]) == sizes[not held_out]:
            break
    return sides
