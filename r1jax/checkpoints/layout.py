"""Names and layouts of each weight in Hugging Face and GGUF files: one table for import and export."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, cast

import flax.traverse_util
import numpy as np

from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.layers import runs
from r1jax.models.transformer import param_specs
from r1jax.sharding import ParamSpec

TreePath = tuple[str, ...]  # path of a weight in the parameter tree
Axes = tuple[tuple[int, ...], ...]
Style = Literal["huggingface", "fused", "gguf", "gguf split"]
"""The names: of Hugging Face, with an array for each expert or one for all experts of a layer ("fused"); of GGUF, with
latent attention's keys and values in one array or in two ("gguf split")."""


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Name and layout of a weight of one layer, or of a part of it, in a file.

    ``axes`` lists, for each axis of the stored array, the axes of the parameter tree that it flattens: ((1, 2), (0,))
    stores [D, H, K] as [H*K, D]. Both formats store matrices as [out, in].
    """

    name: str  # with {} for the layer index, and for the expert index if each expert is stored alone
    axes: Axes
    stacked: bool = False  # the stored array has a leading axis over all experts
    rows: tuple[int, int] = (0, 1)  # (k, n): the k-th of n equal parts of the first axis after that of the experts
    columns: Literal["all", "keys", "values"] = "all"  # of latent attention's kv_up, whose last axis has both


_VECTOR = ((0,),)
_MATRIX = ((1,), (0,))
_HEADS_OUT = ((1, 2), (0,))  # [D, H, K], stored [H*K, D]
_HEADS_IN = ((2,), (0, 1))  # [H, K, D], stored [D, H*K]
_HEADS_BIAS = ((0, 1),)  # [H, K], stored [H*K]

_Row = tuple[str, str, Axes]  # name in Hugging Face files, name in GGUF files, axes

_WHOLE: dict[str, _Row] = {
    "embedding": ("model.embed_tokens.weight", "token_embd.weight", ((0,), (1,))),
    "final_norm": ("model.norm.weight", "output_norm.weight", _VECTOR),
    "unembedding": ("lm_head.weight", "output.weight", _MATRIX),
    "score": ("score.weight", "cls.output.weight", _MATRIX),
}
_GROUPED: dict[str, _Row] = {
    "attention.query": ("self_attn.q_proj.weight", "attn_q.weight", _HEADS_OUT),
    "attention.key": ("self_attn.k_proj.weight", "attn_k.weight", _HEADS_OUT),
    "attention.value": ("self_attn.v_proj.weight", "attn_v.weight", _HEADS_OUT),
    "attention.output": ("self_attn.o_proj.weight", "attn_output.weight", _HEADS_IN),
    "attention.query_bias": ("self_attn.q_proj.bias", "attn_q.bias", _HEADS_BIAS),
    "attention.key_bias": ("self_attn.k_proj.bias", "attn_k.bias", _HEADS_BIAS),
    "attention.value_bias": ("self_attn.v_proj.bias", "attn_v.bias", _HEADS_BIAS),
    "attention.output_bias": ("self_attn.o_proj.bias", "attn_output.bias", _VECTOR),
    "attention.query_norm": ("self_attn.q_norm.weight", "attn_q_norm.weight", _VECTOR),
    "attention.key_norm": ("self_attn.k_norm.weight", "attn_k_norm.weight", _VECTOR),
}
_LATENT: dict[str, _Row] = {
    "attention.query": _GROUPED["attention.query"],
    "attention.query_down": ("self_attn.q_a_proj.weight", "attn_q_a.weight", _MATRIX),
    "attention.query_norm": ("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight", _VECTOR),
    "attention.query_up": ("self_attn.q_b_proj.weight", "attn_q_b.weight", _HEADS_OUT),
    "attention.kv_down": ("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight", _MATRIX),
    "attention.kv_norm": ("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight", _VECTOR),
    "attention.kv_up": ("self_attn.kv_b_proj.weight", "attn_kv_b.weight", _HEADS_OUT),
    "attention.output": _GROUPED["attention.output"],
}
_BLOCK: dict[str, _Row] = {
    "attention_norm": ("input_layernorm.weight", "attn_norm.weight", _VECTOR),
    "mlp_norm": ("post_attention_layernorm.weight", "ffn_norm.weight", _VECTOR),
    "mlp.gate": ("mlp.gate_proj.weight", "ffn_gate.weight", _MATRIX),
    "mlp.up": ("mlp.up_proj.weight", "ffn_up.weight", _MATRIX),
    "mlp.down": ("mlp.down_proj.weight", "ffn_down.weight", _MATRIX),
    "mlp.gate_bias": ("mlp.gate_proj.bias", "ffn_gate.bias", _VECTOR),
    "mlp.up_bias": ("mlp.up_proj.bias", "ffn_up.bias", _VECTOR),
    "mlp.down_bias": ("mlp.down_proj.bias", "ffn_down.bias", _VECTOR),
    "mlp.router": ("mlp.gate.weight", "ffn_gate_inp.weight", _MATRIX),
    "mlp.router_bias": ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias", _VECTOR),
    "mlp.shared_gate": ("mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight", _MATRIX),
    "mlp.shared_up": ("mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight", _MATRIX),
    "mlp.shared_down": ("mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight", _MATRIX),
}
# A layer of multi-token prediction has these besides the weights of a decoder's layer.
_MTP: dict[str, _Row] = {
    "embedding_norm": ("enorm.weight", "nextn.enorm.weight", _VECTOR),
    "state_norm": ("hnorm.weight", "nextn.hnorm.weight", _VECTOR),
    "projection": ("eh_proj.weight", "nextn.eh_proj.weight", _MATRIX),
    "final_norm": ("shared_head.norm.weight", "nextn.shared_head_norm.weight", _VECTOR),
}
_EXPERT = ("gate", "up", "down")
_MIXTRAL = {"mlp.gate": "w1", "mlp.up": "w3", "mlp.down": "w2"}


def _foreign(path: str, expert: bool, config: ModelConfig, style: Style) -> tuple[Foreign, ...]:
    """The arrays of a file that hold the weight ``path`` of one layer, or of one of its experts."""
    huggingface, gguf, axes = ((_GROUPED if config.latent is None else _LATENT) | _BLOCK | _MTP)[path]
    if path in ("attention.query_norm", "attention.key_norm") and config.qk_norm_joint:
        axes = _HEADS_BIAS
    if style in ("gguf", "gguf split"):
        if path == "attention.kv_up" and style == "gguf split":
            keys = Foreign("blk.{}.attn_k_b.weight", ((1,), (0,), (2,)), columns="keys")  # [H, R, nope]
            return keys, Foreign("blk.{}.attn_v_b.weight", ((1,), (2,), (0,)), columns="values")  # [H, value, R]
        name = gguf.replace(".weight", "_exps.weight") if expert else gguf
        return (Foreign(f"blk.{{}}.{name}", axes, stacked=expert),)
    own_names = style == "huggingface" and config.architecture == "mixtral"
    if own_names and path == "mlp.router":
        huggingface = "block_sparse_moe.gate.weight"
    if expert and own_names:
        huggingface = f"block_sparse_moe.experts.{{}}.{_MIXTRAL[path]}.weight"
    elif expert and style == "huggingface":
        huggingface = huggingface.replace("mlp.", "mlp.experts.{}.")
    elif expert:
        name = "down_proj" if path == "mlp.down" else "gate_up_proj"
        rows = {"mlp.gate": (0, 2), "mlp.up": (1, 2), "mlp.down": (0, 1)}[path]
        return (Foreign(f"model.layers.{{}}.mlp.experts.{name}", axes, stacked=True, rows=rows),)
    return (Foreign(f"model.layers.{{}}.{huggingface}", axes),)


@dataclasses.dataclass(frozen=True)
class Stored:
    """An array of a Hugging Face or GGUF file, or a part of one, and its place in the parameter tree."""

    name: str
    shape: tuple[int, ...]  # of the whole array, as stored
    part: tuple[int | slice, ...]  # index of the part in the array; () for all of it
    path: TreePath
    weight: tuple[int, ...]  # shape of the whole weight in the parameter tree
    start: tuple[int, ...]  # where the part begins in the weight, whose leading axes are layer and expert
    own_shape: tuple[int, ...]  # of the part in the parameter tree, without layer and expert
    axes: Axes
    pairs: int  # numbers at the end of the last axis that the file stores as neighbouring pairs
    dtype: str | None  # of the weight in the parameter tree, if it is not that of the others

    @property
    def index(self) -> tuple[int, ...]:
        """Layer and expert in the weight of the parameter tree."""
        return self.start[: len(self.weight) - len(self.own_shape)]

    def to_own(self, array: np.ndarray) -> np.ndarray:
        """Converts a stored part to the layout of the parameter tree."""
        order = [i for group in self.axes for i in group]
        own = array.reshape([self.own_shape[i] for i in order]).transpose(np.argsort(order))
        if not self.pairs:
            return own
        kept, turned = np.split(own, [own.shape[-1] - self.pairs], axis=-1)
        return np.concatenate([kept, turned[..., 0::2], turned[..., 1::2]], axis=-1)

    def from_own(self, array: np.ndarray) -> np.ndarray:
        """Converts the part of one layer, and of one expert, to the stored layout, contiguous."""
        if self.pairs:
            kept, turned = np.split(array, [array.shape[-1] - self.pairs], axis=-1)
            halves = np.stack(np.split(turned, 2, axis=-1), axis=-1)  # [..., pairs / 2, 2]
            array = np.concatenate([kept, halves.reshape(turned.shape)], axis=-1)
        order = [i for group in self.axes for i in group]
        stored = array.transpose(order)
        return np.ascontiguousarray(stored.reshape([math.prod(array.shape[i] for i in group) for group in self.axes]))


def stored_arrays(config: ModelConfig, style: Style, interleaved: bool | None = None) -> Iterator[Stored]:
    """All arrays of a checkpoint of this config, in the order of the parameter tree.

    ``interleaved``: rotary pairs are stored as neighbours, not as two halves; by default as Hugging Face and llama.cpp
    store this architecture.
    """
    if interleaved is None:
        interleaved = config.latent is not None or (style == "gguf" and config.architecture == "llama")
    first = {"mtp": config.num_layers}  # the index in the decoder of the first layer of a run
    before = 0
    for run in runs(config):
        first[run.name], before = before, before + run.layers
    specs = cast(dict[TreePath, ParamSpec], flax.traverse_util.flatten_dict(param_specs(config)))
    for path, spec in specs.items():
        if path[0] not in first:
            huggingface, gguf, axes = _WHOLE[path[0]]
            name = huggingface if style in ("huggingface", "fused") else gguf
            yield _place(Foreign(name, axes), path, spec, (), (), 0, config)
            continue
        pairs = _pairs(path, config) if interleaved else 0
        expert = spec.axes[1] == "experts" and path[-1] in _EXPERT
        places = _foreign(".".join(path[1:]), expert, config, style)
        for layer in range(spec.shape[0]):
            for index in ((layer, e) for e in range(spec.shape[1])) if expert else ((layer,),):
                numbers = (first[path[0]] + layer, *index[1:])
                for foreign in places:
                    yield _place(foreign, path, spec, index, numbers, pairs, config)


def mtp_copies(config: ModelConfig) -> list[Stored]:
    """The arrays that Hugging Face files of DeepSeek-V3 store again in each layer of multi-token prediction.

    They are the embedding and the output matrix, which these layers share with the decoder.
    """
    specs = param_specs(config)
    copies = {"embed_tokens": "embedding", "shared_head.head": "embedding" if config.tie_embeddings else "unembedding"}
    return [
        _place(Foreign(f"model.layers.{layer}.{name}.weight", _WHOLE[own][2]), (own,), specs[own], (), (), 0, config)
        for layer in range(config.num_layers, config.num_layers + config.mtp_layers)
        for name, own in copies.items()
    ]


def _pairs(path: TreePath, config: ModelConfig) -> int:
    rotated = ("query", "query_up", "kv_down") if config.latent else ("query", "key", "query_bias", "key_bias")
    return config.rotary_dim if path[1] == "attention" and path[-1] in rotated else 0


def _place(
    foreign: Foreign,
    path: TreePath,
    spec: ParamSpec,
    index: tuple[int, ...],
    numbers: tuple[int, ...],
    pairs: int,
    config: ModelConfig,
) -> Stored:
    own_shape, begin = spec.shape[len(index) :], 0
    if foreign.columns != "all":
        assert config.latent is not None
        begin = 0 if foreign.columns == "keys" else config.latent.nope_dim
        width = config.latent.nope_dim if foreign.columns == "keys" else config.latent.value_dim
        own_shape = (*own_shape[:-1], width)
    shape = tuple(math.prod(own_shape[i] for i in group) for group in foreign.axes)
    part: tuple[int | slice, ...] = ()
    if foreign.stacked:
        k, n = foreign.rows
        part = (index[1], slice(k * shape[0], (k + 1) * shape[0]))
        shape = (spec.shape[1], n * shape[0], *shape[1:])
    start = (*index, *[0] * (len(own_shape) - 1), begin)
    name = foreign.name.format(*numbers)
    return Stored(name, shape, part, path, spec.shape, start, own_shape, foreign.axes, pairs, spec.dtype)


def _experts(arrays: list[Stored]) -> int:
    """The number of experts in all layers."""
    return len({(array.path[0], array.index) for array in arrays if len(array.index) == 2})


def check_arrays(expected: list[Stored], found: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """Raises UserError for the first array of ``source`` that is missing, unknown or of the wrong shape."""
    if missing := [array for array in expected if array.name not in found]:
        experts = _experts(missing)
        incomplete = f"; {experts} expert{'s' * (experts > 1)} of {_experts(expected)} incomplete" if experts else ""
        raise UserError(
            f"{source}: tensor {missing[0].name} of shape {missing[0].shape} is missing{incomplete}: the file is "
            "incomplete, or its config describes another model"
        )
    for array in expected:
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
