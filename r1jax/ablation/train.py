"""Trains the arms of a grid with all seeds, one compiled program for those that compile alike."""

from __future__ import annotations

import bisect
import dataclasses
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from r1jax.ablation.grid import Axis, Group, arms_of, group_arms, typed
from r1jax.ablation.parts import Loop, Part, train_part
from r1jax.ablation.result import Ablation
from r1jax.errors import UserError
from r1jax.pipeline.manifest import machine
from r1jax.sampling.memory import free_bytes
from r1jax.settings import may_change

S = TypeVar("S")
_FOLDER = "group"  # prefix of the folders of parts


@dataclasses.dataclass(frozen=True)
class ChunkConfig:
    """How the trainings of an ablation are divided; a training is an arm of the grid with one seed."""

    every: int = may_change(10)
    """Run this many steps in one call of the compiled program; states and metrics are saved after each call."""
    at_once: int = may_change(0)
    """Train at most this many arms times seeds in one program; 0 trains all that compile alike."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.at_once < 0:
            raise UserError("chunks: every must be at least 1 and at-once at least 0")


@dataclasses.dataclass(frozen=True)
class _Program(Generic[S]):
    """A part of a group, with the indices of its arms and seeds: [N] each."""

    name: str
    loop: Loop
    group: Group[S]
    arms: np.ndarray  # of all arms
    within: np.ndarray  # of the arms of the group
    seeds: np.ndarray


def train_grid(
    axes: Sequence[Axis],
    specs: Sequence[S],
    seeds: Sequence[int],
    steps: int,
    make_loop: Callable[[S], Loop],
    numbers: Collection[str],
    chunks: ChunkConfig,
    folder: Path | None,
) -> Ablation:
    """Trains an arm for each of ``specs`` with each seed; the specs are those of arms_of(axes).

    make_loop: the loop of the arms that compile alike. numbers: the settings that a loop takes as arrays. folder: of
    states and figures, to resume from; None saves nothing.

    Raises:
      UserError: before any training, if the trainings of a program do not fit into memory, with the number that fits.
      Stopped: on Ctrl-C and SIGTERM, when all is saved, if there is a folder.
    """
    programs = [
        program
        for at, group in enumerate(group_arms(specs, numbers))
        for program in _programs(at, group, make_loop(group.spec), len(seeds), chunks.at_once)
    ]
    if folder is not None:
        _remove_others(folder, {program.name for program in programs})
    placed, seconds = [], 0.0
    for at, program in enumerate(programs):
        part = Part(
            f"ablation {at + 1}/{len(programs)}",
            {name: values[program.within] for name, values in program.group.values.items()},
            np.asarray(seeds, np.int32)[program.seeds],
        )
        own = None if folder is None else folder / program.name
        figures = train_part(program.loop, part, steps, chunks.every, own)
        placed.append((program.arms, program.seeds, figures))
        seconds += figures.seconds
    shape = (len(specs), len(seeds))
    return Ablation(
        axes={axis.name: tuple(typed(value) for value in axis.values) for axis in axes},
        arms=tuple({name: typed(value) for name, value in arm.items()} for arm in arms_of(axes)),
        seeds=tuple(seeds),
        metrics=_table(shape, ((arms, seed, figures.metrics) for arms, seed, figures in placed)),
        before=_table(shape, ((arms, seed, figures.before) for arms, seed, figures in placed)),
        after=_table(shape, ((arms, seed, figures.after) for arms, seed, figures in placed)),
        about={**machine(), "seconds": seconds, "programs": len(programs)},
    )


def divide(count: int, most: int) -> list[np.ndarray]:
    """The numbers below ``count`` in parts of one length of at most ``most``, which share a compiled program.

    The last part repeats the last number to be as long as the others.
    """
    length = -(-count // -(-count // most))
    return [np.minimum(np.arange(start, start + length), count - 1) for start in range(0, count, length)]


def most_that_fit(loop: Loop, count: int, free: int) -> int:
    """The largest number of trainings up to ``count`` that needs at most ``free`` bytes; 0 if one needs more."""
    return bisect.bisect_right(range(1, count + 1), free, key=loop.bytes_of)


def _programs(at: int, group: Group[S], loop: Loop, seeds: int, at_once: int) -> list[_Program[S]]:
    count = len(group.arms) * seeds
    asked, free = min(at_once or count, count), free_bytes()
    if loop.bytes_of(asked) > free:
        fits = most_that_fit(loop, asked, free)
        need = f"{asked} trainings at once need {loop.bytes_of(asked) / 2**30:.2f} GiB and {free / 2**30:.2f} are free"
        if fits:
            raise UserError(f"{need}: {fits} fit, give --chunks.at-once={fits}")
        raise UserError(f"{need}, too few for one: lower rl.prompts, rl.group or rl.microbatch")
    result = []
    for trainings in divide(count, asked):
        within, seed = np.divmod(trainings, seeds)
        name = f"{_FOLDER}-{at}-{trainings[0]}-{trainings[-1]}"
        result.append(_Program(name, loop, group, np.array(group.arms)[within], within, seed))
    return result


def _remove_others(folder: Path, names: Collection[str]) -> None:
    """Removes the folders of parts of another division, whose states and figures no longer count."""
    for path in folder.glob(f"{_FOLDER}-*"):
        if path.name not in names:
            shutil.rmtree(path)


def _table(
    shape: tuple[int, int], placed: Iterable[tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray]]]
) -> dict[str, np.ndarray]:
    """Name -> [A, S, ...] from the values [N, ...] of parts and their arms and seeds; nan where there is no value."""
    result: dict[str, np.ndarray] = {}
    for arms, seeds, values in placed:
        for name, value in values.items():
            table = result.setdefault(name, np.full((*shape, *value.shape[1:]), np.nan, np.float32))
            table[arms, seeds] = value
    return result
