"""Weights in fp8 with a scale for each block of 128 x 128, as DeepSeek-V3 publishes them (arXiv 2412.19437)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from r1jax.checkpoints.shards import Tensor
from r1jax.errors import UserError

BLOCK = (128, 128)
KIND = "F8_E4M3"
SUFFIX = "_scale_inv"  # the scales of weight NAME are tensor NAME_scale_inv


def dequantise(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """values [N, M] times the scale of their block, scales [ceil(N / 128), ceil(M / 128)]: [N, M] float32."""
    wide = values.astype(np.float32)
    for i, row in enumerate(scales.astype(np.float32)):
        block = wide[i * BLOCK[0] : (i + 1) * BLOCK[0]]
        block *= np.repeat(row, BLOCK[1])[: block.shape[1]]
    return wide


def check_scales(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The scales of each fp8 tensor, by its name.

    Raises UserError if one has none, or scales of the wrong shape or type, or is no matrix.
    """
    found = {}
    for name, tensor in tensors.items():
        if tensor.dtype != KIND:
            continue
        scales = tensors.get(name + SUFFIX)
        if scales is None:
            raise UserError(f"{folder}: fp8 tensor {name} has no scales {name}{SUFFIX}: the file is incomplete")
        expected = tuple(math.ceil(size / block) for size, block in zip(tensor.shape, BLOCK, strict=False))
        if len(tensor.shape) != 2 or scales.shape != expected or scales.dtype not in ("F32", "BF16"):
            raise UserError(
                f"{folder}: fp8 tensor {name} of shape {tensor.shape} has scales of shape {scales.shape} in "
                f"{scales.dtype}: expected a matrix with scales of shape {expected} in F32 or BF16, one for each block "
                f"of {BLOCK[0]} x {BLOCK[1]}"
            )
        found[name] = scales
    return found
