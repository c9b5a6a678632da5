"""An ablation: a grid of settings and seeds around one spec, on one base model."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from r1jax import cli
from r1jax.ablation.config import AblationConfig, check_arms
from r1jax.ablation.grid import configs_of, make_axes
from r1jax.ablation.in_graph import make_loop
from r1jax.ablation.parts import Loop
from r1jax.ablation.result import Ablation, Value
from r1jax.ablation.spec import LoopSpec
from r1jax.ablation.train import train_grid
from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemSet
from r1jax.data.problems.problem import Problem
from r1jax.disk import folder_lock, write_whole
from r1jax.errors import UserError
from r1jax.pipeline.manifest import write_json
from r1jax.pipeline.record import differences, in_words, make_record, only_rises
from r1jax.pipeline.stage import Stage

RECORD = "ablation.json"  # in a folder: what its trainings were started with
_Make = Callable[[Model, Sequence[Problem], LoopSpec, Sequence[Problem]], Loop]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Everything that the result of an ablation depends on."""

    config: AblationConfig
    grid: tuple[str, ...]
    seeds: tuple[int, ...]
    model: str  # hash of the weights
    problems: str  # hash of the training problems
    held_out: str  # hash of the held-out problems


def ablate(
    config: AblationConfig,
    grid: Mapping[str, Sequence[Value]],
    seeds: Sequence[int],
    model: Model,
    problems: ProblemSet,
    folder: Path | str | None = None,
    make: _Make = make_loop,
) -> Ablation:
    """Trains ``model`` with every combination of the values in ``grid`` and every seed, and evaluates all of them.

        ablate(AblationConfig(), {"rl.beta": (0, 0.01), "rl.algorithm": ("grpo", "dapo")}, range(8), model, problems)

    Args:
      config: the settings of all arms, where the grid does not change them.
      grid: setting -> its values; a setting has the name of its flag, and rewards.NAME is the weight of a reward.
      seeds: the random seeds of each arm.
      model: where all trainings start.
      problems: to train on, and held out for the evaluations before and after training, config.evaluation.problems of
        them.
      folder: for states and figures; the same call resumes from them. None saves nothing.
      make: makes the program of the arms that compile alike.

    Raises:
      UserError: before any training, for a grid that has no values, names no setting, or has arms that are refused; for
        trainings that do not fit into memory; and for a folder with an ablation of other settings.
      Stopped: on Ctrl-C and SIGTERM, when all is saved, if there is a folder.
    """
    axes, seeds = make_axes(grid.items()), check_seeds(seeds)
    configs = configs_of(axes, config)
    check_arms(configs, problems)
    held_out = problems.held_out[: config.evaluation.problems]

    def make_own(spec: LoopSpec) -> Loop:
        return make(model, problems.train, spec, held_out)

    texts = tuple(f"{axis.name}={','.join(axis.values)}" for axis in axes)
    settings = _Settings(config, texts, seeds, _weights_hash(model), _hash(problems.train), _hash(held_out))
    place = None if folder is None else Path(folder)
    with contextlib.nullcontext() if place is None else _claimed(place, settings):
        result = train_grid(axes, configs, seeds, make_own, place)
    return dataclasses.replace(result, about={**result.about, "settings": json.loads(cli.to_json(config))})


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds; raises UserError unless there is one or more, each once and in [0, 2^31)."""
    given = tuple(int(seed) for seed in seeds)
    if not given or len(set(given)) < len(given) or not all(0 <= seed < 2**31 for seed in given):
        raise UserError(f"seeds {list(given)}: give one or more different numbers of at least 0 and below {2**31}")
    return given


@contextlib.contextmanager
def _claimed(folder: Path, settings: _Settings) -> Iterator[None]:
    """Holds the lock of a folder that is new, or has the trainings of these settings.

    A UserError comes before any training (train_grid), so the folder keeps the record that it had, if any.
    """
    stage = Stage(folder.name, cast(Any, ablate), settings)  # for the name of the function
    with folder_lock(folder):
        record, path = make_record(stage, {}), folder / RECORD
        earlier = path.read_text() if path.exists() else None
        if earlier is not None:
            changed = differences(json.loads(earlier), record, stage)
            if changed and not only_rises(changed, stage):
                raise UserError(
                    f"{folder} has an ablation with other settings ({in_words(changed)}): give another folder, or "
                    "remove it"
                )
        write_json(path, record)
        try:
            yield
        except UserError:
            path.unlink() if earlier is None else write_whole(path, earlier)
            raise


def _weights_hash(model: Model) -> str:
    total = hashlib.sha256(model.config.dtype.encode())  # options of its computation may change
    for weight in jax.tree.leaves(model.params):
        total.update(np.asarray(weight).tobytes())
    return total.hexdigest()[:16]


def _hash(problems: Sequence[Problem]) -> str:
    return hashlib.sha256(repr(problems).encode()).hexdigest()[:16]
