"""Checkpoints of this project: Orbax steps, the model's config and its tokenizer in one folder.

FOLDER/r1jax.json is the config, FOLDER/tokenizer/ the tokenizer. FOLDER/STEP/params holds the weights, FOLDER/STEP/rest
the rest of the training state. The folder of a step gets its name only when it is complete.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import logging
import re
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from r1jax.disk import sync, write_whole
from r1jax.errors import UserError
from r1jax.models.config import COMPUTE_OPTIONS, Experts, Latent, ModelConfig, RopeScaling, Yarn
from r1jax.models.transformer import param_specs
from r1jax.sharding import Params, param_shapes
from r1jax.tokenizer import Tokenizer, load_tokenizer

MODEL_FILE = "r1jax.json"
for _name in ("absl", "asyncio"):  # Orbax logs each save, and each failure in hundreds of lines
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def _without_repeats(report: Any) -> Any:
    """A sys.unraisablehook that ignores errors of reads and writes that end after their restore or save has failed.

    The restore or save raises its first error itself.
    """

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        late_write = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        late_read = type(error) is Exception and str(error).startswith("Encountered error while reading array index")
        if not late_write and not late_read:
            report(unraisable)

    return hook


sys.unraisablehook = _without_repeats(sys.unraisablehook)

# The parts of a config and their classes, which differ in the names of their fields.
_PARTS: dict[str, tuple[Any, ...]] = {"rope_scaling": (RopeScaling, Yarn), "latent": (Latent,), "experts": (Experts,)}
_DELETED = ".deleted"  # steps are moved here before removal, so that a partly removed step is not listed
_LATE_SECONDS = 1.0
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# Statuses of TensorStore for files that are missing, truncated or corrupt.
_DAMAGED = ("NOT_FOUND", "OUT_OF_RANGE", "DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT")


def _wait_for_late_writes() -> None:
    """Lets the other writes of a failed save end, whose threads would abort the process in Python's finalization."""
    time.sleep(_LATE_SECONDS)


def write_model(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Writes the config and the tokenizer of the steps of a folder."""
    part = folder / "tokenizer.part"
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process
    part.mkdir(parents=True)
    tokenizer.save(part)
    (folder / "tokenizer").mkdir(exist_ok=True)
    for file in part.iterdir():
        sync(file)
        file.replace(folder / "tokenizer" / file.name)
    part.rmdir()
    fields = {k: v for k, v in dataclasses.asdict(config).items() if k not in COMPUTE_OPTIONS}
    write_whole(folder / MODEL_FILE, json.dumps(fields, indent=2) + "\n")


def read_config(folder: Path) -> ModelConfig:
    """Reads the config that write_model wrote."""
    try:
        fields = json.loads((folder / MODEL_FILE).read_text())
        for name, kinds in _PARTS.items():
            if part := fields.get(name):
                kind = max(kinds, key=lambda kind: len({field.name for field in dataclasses.fields(kind)} & set(part)))
                fields[name] = kind(**part)
        return ModelConfig(**fields)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / MODEL_FILE} is not a valid model config: {error}") from error


class Checkpoints:
    """The steps of one folder: saves asynchronously, keeps the newest and the best, skips damaged ones on restore.

    Use it as a context manager; the exit waits for the running save.
    """

    def __init__(self, folder: Path, keep_last: int = 2, keep_best: int = 1, best_metric: str = "reward"):
        def metric(metrics: Any) -> float:
            return metrics[best_metric]

        keep: list[policies.PreservationPolicy] = [policies.LatestN(keep_last)]
        if keep_best:
            keep.append(policies.BestN(get_metric_fn=metric, n=keep_best))
        self.folder = folder.absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self.folder,
                item_names=("params", "rest"),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(keep),
                    best_fn=metric if keep_best else None,  # without metrics, BestN removes no step
                    cleanup_tmp_directories=True,  # left by killed saves
                    todelete_subdir=_DELETED,
                ),
            )
            self._empty_deleted()
        except OSError as error:
            raise UserError(f"cannot write checkpoints in {folder}: {error.strerror or error}") from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self._guard(self._manager.close)
        except UserError:
            if kind is None:  # otherwise the first error is reported
                raise

    def _guard(self, action: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except (OSError, ValueError, RuntimeError) as error:
            atexit.unregister(_wait_for_late_writes)  # once, also after several failures
            atexit.register(_wait_for_late_writes)
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                f"cannot write a checkpoint in {self.folder} ({reason}): free some space and run the same command "
                "again; earlier checkpoints are complete"
            ) from error

    def steps(self) -> list[int]:
        """Complete steps on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, params: Params, rest: Any, metrics: dict[str, float]) -> None:
        """Starts a save; returns when the arrays may change. A failed save is reported by the next call."""
        args = ocp.args.Composite(params=ocp.args.StandardSave(params), rest=ocp.args.StandardSave(rest))
        self.wait()
        self._guard(self._manager.save, step, args=args, metrics=metrics, force=True)

    def wait(self) -> None:
        """Waits until the running save is on disk."""
        self._guard(self._manager.wait_until_finished)
        self._empty_deleted()

    def _empty_deleted(self) -> None:
        """Removes what was moved aside; a running save would move more into the folder that is removed."""
        shutil.rmtree(self.folder / _DELETED, ignore_errors=True)

    def restore(self, params: Any, rest: Any) -> tuple[int, Params, Any] | None:
        """Restores the newest readable step with the given shapes, types and shardings; None if there is no step.

        Damaged steps (files missing, truncated or corrupt, or arrays that differ from ``params``) are skipped with a
        warning and, once an older step has been read, renamed to STEP.damaged.

        Raises:
          UserError: if all steps are damaged. They are not renamed.
          Exception: for other failures, such as memory or permissions. No step is renamed.
        """
        args = ocp.args.Composite(params=ocp.args.StandardRestore(params), rest=ocp.args.StandardRestore(rest))
        damaged: list[Path] = []
        for step in reversed(self.steps()):
            folder = self.folder / str(step)
            try:
                restored = self._manager.restore(step, args=args)
                _check(params, restored["params"])
            except Exception as error:
                if not _is_damage(error):
                    raise
                _warn(folder, error)
                damaged.append(folder)
                continue
            for path in damaged:
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)  # the step may have been damaged before
                path.rename(aside)
            if damaged:
                self._manager.reload()
            return step, restored["params"], restored["rest"]
        if damaged:
            raise UserError(f"none of the checkpoints in {self.folder} can be read: move the folder away to start over")
        return None


def _is_damage(error: BaseException | None) -> bool:
    """True if the files of a step cause the error; False for other causes, such as memory or permissions."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, _MISSING):
            return False
        # Orbax wraps the errors of TensorStore in plain exceptions. XLA raises RuntimeError.
        known = isinstance(error, (*_MISSING, ValueError, KeyError, EOFError, StopIteration))
        wraps = type(error) is Exception and error.__cause__ is not None
        status = re.match(r"([A-Z]+(?:_[A-Z]+)*): ", str(error))
        if not (known or wraps) or (status and status[1] not in _DAMAGED):
            return False
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return True


def _warn(step: Path, error: Exception) -> None:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    warnings.warn(f"checkpoint {step} is damaged ({reason}) and is skipped", stacklevel=3)


def _check(target: Any, restored: Any) -> None:
    def one(path: Any, want: Any, got: Any) -> None:
        if (want.shape, want.dtype) != (got.shape, got.dtype):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{name} is {got.dtype}{got.shape}, expected {want.dtype}{want.shape}")

    jax.tree_util.tree_map_with_path(one, target, restored)


def load_native(path: Path, dtype: str, shardings: Any | None) -> tuple[ModelConfig, Params, Tokenizer]:
    """Loads config, weights and tokenizer of FOLDER (its newest readable step) or of FOLDER/STEP.

    Raises:
      UserError: if there are no steps, or all are damaged.
    """
    folder, steps = (path, None) if (path / MODEL_FILE).exists() else (path.parent, [path.name])
    config = read_config(folder)
    specs = param_specs(config)
    shapes = param_shapes(specs, jnp.dtype(dtype))
    if shardings is not None:
        shapes = jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, shardings)
    else:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), shapes)
    names = steps or sorted((p.name for p in folder.iterdir() if p.name.isdigit()), key=int, reverse=True)
    if not names:
        raise UserError(f"{folder} contains no checkpoint yet: wait until a step has been saved")
    for name in names:
        try:
            with ocp.StandardCheckpointer() as reader:
                params = reader.restore((folder / name / "params").absolute(), shapes)
            _check(shapes, params)
            return config, params, load_tokenizer(folder / "tokenizer")
        except Exception as error:
            if isinstance(error, UserError) or not _is_damage(error):
                raise
            _warn(folder / name, error)
    raise UserError(f"no checkpoint of {path} can be read")
