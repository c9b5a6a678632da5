"""The safetensors files of a Hugging Face folder: which of them are read, and what tensors they hold."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from r1jax.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_ROWS = 8192  # of two matrices that are compared at one time


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in an open safetensors file."""

    file: Any  # of safetensors.safe_open
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return tuple(self.file.get_slice(self.name).get_shape())

    @property
    def dtype(self) -> str:
        """As safetensors names it: F32, BF16, I8."""
        return self.file.get_slice(self.name).get_dtype()

    def read(self) -> np.ndarray:
        """The values."""
        return self.file.get_tensor(self.name)

    def equals(self, other: Tensor) -> bool:
        """Whether both hold the same numbers, whatever their types; reads no further than the first difference."""
        if self.shape != other.shape or not self.shape:
            return False
        mine, others = self.file.get_slice(self.name), other.file.get_slice(other.name)
        rows = self.shape[0]
        blocks = (slice(i, min(i + _ROWS, rows)) for i in range(0, rows, _ROWS))
        return all(np.array_equal(_wide(mine[block]), _wide(others[block])) for block in blocks)


def _wide(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


@contextlib.contextmanager
def opened_tensors(folder: Path) -> Iterator[dict[str, Tensor]]:
    """Tensors by name, of model.safetensors, else of the shards that the index names; the files close at the end.

    Warns of safetensors files that are not read. Raises UserError naming a file that is missing or damaged, a tensor
    that two shards hold, and one that lies elsewhere than the index says.
    """
    files, index = _chosen(folder)
    _warn_of_others(folder, files)
    found: dict[str, Tensor] = {}
    where: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for name in files:
            try:
                file = stack.enter_context(safetensors.safe_open(folder / name, framework="numpy"))
            except (OSError, safetensors.SafetensorError) as error:
                raise UserError(f"{folder / name} cannot be read ({error}): fetch it again") from error
            for tensor in file.keys():  # noqa: SIM118
                if tensor in found:
                    raise UserError(
                        f"{folder}: tensor {tensor} is in {where[tensor]} and in {name}: shards of two models are mixed"
                    )
                found[tensor], where[tensor] = Tensor(file, tensor), name
        for tensor, name in index.items():
            if where.get(tensor, name) != name:
                raise UserError(
                    f"{folder}: {INDEX} has tensor {tensor} in {name}, and it is in {where[tensor]}: the index belongs "
                    "to other shards"
                )
        yield found


def _chosen(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The files to read, and of each tensor the file that the index names: none where no index is followed."""
    single, index = folder / SINGLE, folder / INDEX
    if not index.is_file():
        if not single.is_file():
            raise UserError(f"{folder}: file {_missing(folder)}")
        return [SINGLE], {}
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError("weight_map names no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is damaged ({error!r}): fetch it again") from error
    if single.is_file() and names != [SINGLE]:
        warnings.warn(
            f"{folder} holds {SINGLE} beside an index of {len(names)} other files: {SINGLE} is read, as transformers "
            "does, and the others are not; remove those that are old",
            stacklevel=1,
        )
        return [SINGLE], {}
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder}: file {name} is missing, which {INDEX} names: fetch it again")
    return names, weight_map


def _missing(folder: Path) -> str:
    """What to say of a folder with neither model.safetensors nor an index."""
    if any(folder.glob("model-*-of-*.safetensors")):
        return f"{INDEX} is missing beside its shards: fetch it again"
    if (folder / "adapter_config.json").is_file():
        return f"{SINGLE} is missing: this is an adapter, merge it into its base model and save that"
    if any(folder.glob("*.bin")):
        return f"{SINGLE} is missing: save the model from transformers as safetensors"
    return f"{SINGLE} is missing: fetch it again"


def _warn_of_others(folder: Path, files: list[str]) -> None:
    """Says which safetensors files beside ``files`` are not read: older shards, an adapter."""
    others = sorted(file.name for file in folder.glob("*.safetensors") if file.name not in files)
    if others and not (SINGLE in files and (folder / INDEX).is_file()):  # then it was said
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        warnings.warn(f"{folder}: {others[0]}{more} is no part of the model and not read", stacklevel=1)
