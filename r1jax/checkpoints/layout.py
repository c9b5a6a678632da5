"""Names and layouts of each weight in Hugging Face and GGUF files: one table for import and export."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.sharding import Params, ParamSpec

TreePath = tuple[str, ...]  # path of a weight in the parameter tree


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Names and layout of one weight in Hugging Face and GGUF files.

    ``axes`` lists, for each axis of the stored array, the axes of the parameter tree that it flattens: ((1, 2), (0,))
    stores [D, H, K] as [H*K, D]. Both formats store matrices as [out, in].
    """

    huggingface: str  # name, with {} for the layer index
    gguf: str
    axes: tuple[tuple[int, ...], ...]


_VECTOR = ((0,),)
_MATRIX = ((1,), (0,))
_HEADS_OUT = ((1, 2), (0,))  # [D, H, K], stored [H*K, D]
_HEADS_IN = ((2,), (0, 1))  # [H, K, D], stored [D, H*K]
_HEADS_BIAS = ((0, 1),)  # [H, K], stored [H*K]

TABLE: dict[TreePath, Foreign] = {
    ("embedding",): Foreign("model.embed_tokens.weight", "token_embd.weight", ((0,), (1,))),
    ("final_norm",): Foreign("model.norm.weight", "output_norm.weight", _VECTOR),
    ("unembedding",): Foreign("lm_head.weight", "output.weight", _MATRIX),
    ("score",): Foreign("score.weight", "cls.output.weight", _MATRIX),
} | {
    ("layers", *path.split(".")): Foreign(f"model.layers.{{}}.{huggingface}", f"blk.{{}}.{gguf}", axes)
    for path, huggingface, gguf, axes in (
        ("attention_norm", "input_layernorm.weight", "attn_norm.weight", _VECTOR),
        ("attention.query", "self_attn.q_proj.weight", "attn_q.weight", _HEADS_OUT),
        ("attention.key", "self_attn.k_proj.weight", "attn_k.weight", _HEADS_OUT),
        ("attention.value", "self_attn.v_proj.weight", "attn_v.weight", _HEADS_OUT),
        ("attention.output", "self_attn.o_proj.weight", "attn_output.weight", _HEADS_IN),
        ("attention.query_bias", "self_attn.q_proj.bias", "attn_q.bias", _HEADS_BIAS),
        ("attention.key_bias", "self_attn.k_proj.bias", "attn_k.bias", _HEADS_BIAS),
        ("attention.value_bias", "self_attn.v_proj.bias", "attn_v.bias", _HEADS_BIAS),
        ("attention.output_bias", "self_attn.o_proj.bias", "attn_output.bias", _VECTOR),
        ("attention.query_norm", "self_attn.q_norm.weight", "attn_q_norm.weight", _VECTOR),
        ("attention.key_norm", "self_attn.k_norm.weight", "attn_k_norm.weight", _VECTOR),
        ("mlp_norm", "post_attention_layernorm.weight", "ffn_norm.weight", _VECTOR),
        ("mlp.gate", "mlp.gate_proj.weight", "ffn_gate.weight", _MATRIX),
        ("mlp.up", "mlp.up_proj.weight", "ffn_up.weight", _MATRIX),
        ("mlp.down", "mlp.down_proj.weight", "ffn_down.weight", _MATRIX),
        ("mlp.gate_bias", "mlp.gate_proj.bias", "ffn_gate.bias", _VECTOR),
        ("mlp.up_bias", "mlp.up_proj.bias", "ffn_up.bias", _VECTOR),
        ("mlp.down_bias", "mlp.down_proj.bias", "ffn_down.bias", _VECTOR),
    )
}


@dataclasses.dataclass(frozen=True)
class Stored:
    """One array of a Hugging Face or GGUF file and its place in the parameter tree."""

    name: str
    path: TreePath
    layer: int | None  # index on the leading axis of the stacked weight
    shape: tuple[int, ...]  # as stored
    own_shape: tuple[int, ...]  # of one layer in the parameter tree
    axes: tuple[tuple[int, ...], ...]

    def to_own(self, array: np.ndarray) -> np.ndarray:
        """Converts a stored array to the layout of the parameter tree."""
        order = [i for group in self.axes for i in group]
        return array.reshape([self.own_shape[i] for i in order]).transpose(np.argsort(order))

    def from_own(self, array: np.ndarray) -> np.ndarray:
        """Converts the weight of one layer to the stored layout, contiguous."""
        order = [i for group in self.axes for i in group]
        return np.ascontiguousarray(array.transpose(order).reshape(self.shape))


def stored_arrays(config: ModelConfig, style: str) -> Iterator[Stored]:
    """All arrays of a checkpoint of this config; ``style`` ("huggingface" or "gguf") selects the names."""
    specs = cast(dict[TreePath, ParamSpec], flax.traverse_util.flatten_dict(param_specs(config)))
    for path, spec in specs.items():
        entry = TABLE[path]
        stacked = spec.axes[0] == "layers"
        shape = spec.shape[1:] if stacked else spec.shape
        stored_shape = tuple(math.prod(shape[i] for i in group) for group in entry.axes)
        for layer in range(spec.shape[0]) if stacked else (None,):
            name = getattr(entry, style).format(layer)
            yield Stored(name, path, layer, stored_shape, shape, entry.axes)


def check_arrays(expected: list[Stored], found: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """Raises UserError for the first array of ``source`` that is missing, unknown or of the wrong shape."""
    for array in expected:
        if array.name not in found:
            raise UserError(
                f"{source}: tensor {array.name} of shape {array.shape} is missing: the file is incomplete, or its "
                "config describes another model"
            )
        if tuple(found[array.name]) != array.shape:
            raise UserError(
                f"{source}: tensor {array.name} has shape {tuple(found[array.name])} but the config expects "
                f"{array.shape}: one of the two belongs to another model"
            )
    if unknown := sorted(set(found) - {array.name for array in expected}):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{source}: tensor {unknown[0]}{more} is not part of this architecture, whose results would differ "
            "without it"
        )


def assemble(expected: list[Stored], read: Callable[[Stored], np.ndarray], dtype: str, shardings: Any | None) -> Params:
    """Builds the parameter tree from the arrays that ``read`` returns, cast to ``dtype``.

    Stacked weights are built on the host and moved to their shardings, if given, one at a time. The host needs memory
    for one weight beside the model.
    """
    placements = cast(dict[TreePath, NamedSharding], flax.traverse_util.flatten_dict(shardings or {}))
    params: dict[TreePath, jax.Array] = {}
    for path in dict.fromkeys(array.path for array in expected):
        layers = [array for array in expected if array.path == path]
        stacked = layers[0].layer is not None
        own_shape = layers[0].own_shape
        weight = np.empty((len(layers), *own_shape) if stacked else own_shape, jnp.dtype(dtype))
        for array in layers:
            weight[... if array.layer is None else array.layer] = array.to_own(read(array))
        if not placements:
            params[path] = jnp.asarray(weight)
        else:
            # Each device takes its part of the host array.
            params[path] = jax.make_array_from_callback(weight.shape, placements[path], weight.__getitem__)
    return flax.traverse_util.unflatten_dict(params)
