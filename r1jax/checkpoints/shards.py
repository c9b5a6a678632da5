"""The safetensors files of a Hugging Face folder and their tensors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from r1jax.errors import UserError
from r1jax.hub import INDEX, SINGLE

_ROWS = 8192  # compared at one time


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in an open safetensors file."""

    file: Any  # result of safetensors.safe_open
    name: str
    path: Path  # of the file

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored."""
        return tuple(self.file.get_slice(self.name).get_shape())

    @property
    def dtype(self) -> str:
        """Type in the notation of safetensors: F32, BF16, I8."""
        return self.file.get_slice(self.name).get_dtype()

    def read(self, part: tuple[int | slice, ...] = ()) -> np.ndarray:
        """Reads the values, or only a part of them."""
        if self.dtype == "F8_E4M3":  # which safetensors does not convert to numpy
            offset = _offsets(self.path, self.path.stat().st_mtime_ns)[self.name]
            return np.memmap(self.path, ml_dtypes.float8_e4m3fn, "r", offset, self.shape)[part]
        return self.file.get_slice(self.name)[part] if part else self.file.get_tensor(self.name)

    def equals(self, other: Tensor) -> bool:
        """True if both have the same values, possibly of different types; stops reading at the first difference."""
        if self.shape != other.shape or not self.shape:
            return False
        mine, others = self.file.get_slice(self.name), other.file.get_slice(other.name)
        rows = self.shape[0]
        blocks = (slice(i, min(i + _ROWS, rows)) for i in range(0, rows, _ROWS))
        return all(np.array_equal(_wide(mine[block]), _wide(others[block])) for block in blocks)


@functools.lru_cache(maxsize=2)  # tensors are read layer by layer, so from few files at a time
def _offsets(path: Path, changed: int) -> dict[str, int]:
    """Where each tensor begins in a file that was changed at a time in nanoseconds.

    A safetensors file begins with the size of its table, in 8 bytes, and the table, in JSON.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(size))
    return {name: 8 + size + entry["data_offsets"][0] for name, entry in table.items() if name != "__metadata__"}


def _wide(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


@contextlib.contextmanager
def opened_tensors(folder: Path) -> Iterator[dict[str, Tensor]]:
    """Opens model.safetensors, or the shards of the index, and yields their tensors by name.

    Warns about safetensors files that are not read. Raises UserError if a file is missing or damaged, if two shards
    have the same tensor, or if a tensor is not in the file that the index names.
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
                raise UserError(f"{folder / name} cannot be read ({error}): download it again") from error
            for tensor in file.keys():  # noqa: SIM118
                if tensor in found:
                    raise UserError(
                        f"{folder}: tensor {tensor} is in {where[tensor]} and in {name}: shards of two models are mixed"
                    )
                found[tensor], where[tensor] = Tensor(file, tensor, folder / name), name
        for tensor, name in index.items():
            if where.get(tensor, name) != name:
                raise UserError(
                    f"{folder}: {INDEX} lists tensor {tensor} in {name}, but it is in {where[tensor]}: the index "
                    "belongs to other shards"
                )
        yield found


def _chosen(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The files to read, and the file of each tensor according to the index (empty if no index is used)."""
    single, index = folder / SINGLE, folder / INDEX
    if not index.is_file():
        if not single.is_file():
            raise UserError(f"{folder}: file {_missing(folder)}")
        return [SINGLE], {}
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError("weight_map lists no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is damaged ({error!r}): download it again") from error
    if single.is_file() and names != [SINGLE]:
        warnings.warn(
            f"{folder} contains {SINGLE} and an index of {len(names)} other files: {SINGLE} is read, as in "
            "transformers, and the others are not; remove the outdated ones",
            stacklevel=1,
        )
        return [SINGLE], {}
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder}: file {name} of {INDEX} is missing: download it again")
    return names, weight_map


def _missing(folder: Path) -> str:
    """The error message for a folder with neither model.safetensors nor an index."""
    if any(folder.glob("model-*-of-*.safetensors")):
        return f"{INDEX} is missing although there are shards: download it again"
    if (folder / "adapter_config.json").is_file():
        return f"{SINGLE} is missing: this folder is an adapter; merge it into its base model"
    if any(folder.glob("*.bin")):
        return f"{SINGLE} is missing: save the model from transformers as safetensors"
    return f"{SINGLE} is missing: download it again"


def _warn_of_others(folder: Path, files: list[str]) -> None:
    """Warns about safetensors files other than ``files``, such as older shards or an adapter."""
    others = sorted(file.name for file in folder.glob("*.safetensors") if file.name not in files)
    if others and not (SINGLE in files and (folder / INDEX).is_file()):  # _chosen has warned already
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        warnings.warn(f"{folder}: {others[0]}{more} is not part of the model and is not read", stacklevel=1)
