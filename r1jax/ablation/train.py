"""Trains the arms of a grid with all seeds, one compiled program for those that compile alike."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from r1jax.ablation.config import AblationConfig, loop_spec
from r1jax.ablation.grid import Axis, arms_of, typed
from r1jax.ablation.groups import Group, group_arms
from r1jax.ablation.parts import Loop, Part, is_finished, train_part
from r1jax.ablation.result import Ablation
from r1jax.ablation.spec import LoopSpec
from r1jax.errors import UserError
from r1jax.pipeline.manifest import machine
from r1jax.sampling.memory import free_bytes

_FOLDER = "group"  # prefix of the folders of programs


@dataclasses.dataclass(frozen=True)
class _Program:
    """N trainings of a group that run at once, with their arms and seeds: [N] each."""

    name: str  # of its folder
    loop: Loop
    group: Group
    arms: np.ndarray  # indices of all arms
    within: np.ndarray  # indices of the arms of the group
    seeds: np.ndarray  # indices of the seeds


def train_grid(
    axes: Sequence[Axis],
    configs: Sequence[AblationConfig],
    seeds: Sequence[int],
    make_loop: Callable[[LoopSpec], Loop],
    folder: Path | None,
) -> Ablation:
    """Trains an arm for each of ``configs``, which are those of configs_of(axes), with each seed.

    make_loop: the program of the arms that compile alike. folder: of states and figures, to resume from; None saves
    nothing.

    Raises:
      UserError: before any training, if the trainings of a program do not fit into memory, with the number that fits.
      Stopped: on Ctrl-C and SIGTERM, when all is saved, if there is a folder.
    """
    chunks, steps = configs[0].chunks, configs[0].rl.steps
    programs = [
        program
        for at, group in enumerate(group_arms([loop_spec(config) for config in configs]))
        for program in _programs(at, group, make_loop(group.spec), len(seeds), chunks.at_once)
    ]
    folders = {program.name: None if folder is None else folder / program.name for program in programs}
    began, checked = time.perf_counter(), []
    for program in programs:  # those of one group have the same size
        if program.loop not in checked and not is_finished(folders[program.name], steps):
            check_memory(program.loop, len(program.arms), min(chunks.every, steps))
            checked.append(program.loop)
    if folder is not None:
        _remove_others(folder, folders)
    placed, seconds = [], time.perf_counter() - began  # of the compilation
    for at, program in enumerate(programs):
        part = Part(
            f"ablation {at + 1}/{len(programs)}",
            {name: values[program.within] for name, values in program.group.values.items()},
            np.asarray(seeds, np.int32)[program.seeds],
        )
        figures = train_part(program.loop, part, steps, chunks.every, folders[program.name])
        placed.append((program.arms, program.seeds, figures))
        seconds += figures.seconds
    shape = (len(configs), len(seeds))
    return Ablation(
        axes={axis.name: tuple(typed(value) for value in axis.values) for axis in axes},
        arms=tuple({name: typed(value) for name, value in arm.items()} for arm in arms_of(axes)),
        seeds=tuple(seeds),
        metrics=_table(shape, ((arms, seed, figures.metrics) for arms, seed, figures in placed)),
        before=_table(shape, ((arms, seed, figures.before) for arms, seed, figures in placed)),
        after=_table(shape, ((arms, seed, figures.after) for arms, seed, figures in placed)),
        about={**machine(), "seconds": seconds, "programs": len(programs)},
    )


def check_memory(loop: Loop, count: int, steps: int, setting: str = "--chunks.at-once=") -> int:
    """The bytes of ``count`` trainings; raises UserError, with the number that fits, if more than is free.

    setting: the flag that the message names, before the number.
    """
    free, need = free_bytes(), loop.bytes_of(count, steps)
    if need <= free:
        return need
    # The need grows linearly: a second compiled program gives the line.
    one = loop.bytes_of(1, steps)
    each = (need - one) / max(count - 1, 1)
    fits = int(1 + (free - one) / each) if one <= free else 0
    text = f"{count} trainings at once need {need / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free"
    if fits:
        raise UserError(f"{text}: {fits} fit, give {setting}{fits}")
    raise UserError(
        f"{text}, too few for one, which needs {one / 2**30:.2f}: lower rl.prompts, rl.group or rl.microbatch"
    )


def divide(count: int, most: int) -> list[np.ndarray]:
    """The numbers below ``count`` in parts of one length of at most ``most``, which share a compiled program.

    The last part repeats the last number to be as long as the others.
    """
    length = -(-count // -(-count // most))
    return [np.minimum(np.arange(start, start + length), count - 1) for start in range(0, count, length)]


def _programs(at: int, group: Group, loop: Loop, seeds: int, at_once: int) -> list[_Program]:
    count, result = len(group.arms) * seeds, []
    for trainings in divide(count, min(at_once or count, count)):
        within, seed = np.divmod(trainings, seeds)
        # The length is a part of the name: the last parts of two divisions may have the same first and last training.
        name = f"{_FOLDER}-{at}-{trainings[0]}-{len(trainings)}"
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
