"""Experts, latent attention and YaRN in the metadata of GGUF files."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from r1jax.errors import UserError
from r1jax.models.config import Experts, Latent, Yarn, check_positive, check_whole

KV_UP, KEY_UP, VALUE_UP = ("attn_kv_b.weight", "attn_k_b.weight", "attn_v_b.weight")
_SIGMOID = int(gguf.ExpertGatingFuncType.SIGMOID)
_SOFTMAX = int(gguf.ExpertGatingFuncType.SOFTMAX)


@dataclasses.dataclass(frozen=True)
class Keys:
    """The metadata of one architecture, whose keys begin with its name."""

    metadata: Mapping[str, Any]
    architecture: str
    path: Path

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a key; raises UserError if it is missing and there is no default."""
        found = self.metadata.get(f"{self.architecture}.{key}", default)
        if found is None:
            raise UserError(f"{self.path}: key {self.architecture}.{key} is missing: convert the model again")
        return found

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1; raises ValueError for others. The default may be 0."""
        value = self.value(key, default)
        return 0 if default == value == 0 else check_whole(f"{self.architecture}.{key}", value)

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above 0, as the shortest decimal of a float32: 1e-05 instead of 9.999999747378752e-06.

        Raises ValueError for others.
        """
        number = check_positive(f"{self.architecture}.{key}", self.value(key, default))
        return float(str(np.float32(number)))


def read_latent(keys: Keys) -> Latent:
    """Reads latent attention; the keys of old and new versions of llama.cpp have other names."""
    new = f"{keys.architecture}.attention.key_length_mla" in keys.metadata
    rope = keys.whole("rope.dimension_count")
    return Latent(
        kv_rank=keys.whole("attention.kv_lora_rank"),
        nope_dim=check_whole("the key size without position", keys.whole(_length("key", new)) - rope),
        rope_dim=rope,
        value_dim=keys.whole(_length("value", new)),
        query_rank=keys.whole("attention.q_lora_rank", 0),
    )


def _length(part: str, new: bool) -> str:
    return f"attention.{part}_length{'_mla' if new else ''}"


def read_experts(keys: Keys, tensors: Mapping[str, Any]) -> Experts:
    """Reads the experts; without keys for their groups, all experts are one group, as in llama.cpp."""
    width, latent = keys.whole("expert_feed_forward_length"), keys.architecture == "deepseek2"
    if not latent:
        return Experts(number=keys.whole("expert_count"), active=keys.whole("expert_used_count"), width=width)
    function = keys.value("expert_gating_func", _SOFTMAX)
    if function not in (_SOFTMAX, _SIGMOID):
        raise UserError(f"{keys.path}: deepseek2.expert_gating_func {function} is not supported: convert it again")
    sigmoid = function == _SIGMOID
    groups = keys.whole("expert_group_count", 1)
    if sigmoid and f"{keys.architecture}.expert_group_count" not in keys.metadata:
        warnings.warn(
            f"{keys.path}: key deepseek2.expert_group_count is missing: each token chooses among all experts, as in "
            "llama.cpp, although DeepSeek-V3 has 8 groups",
            stacklevel=1,
        )
    scale = keys.value("expert_weights_scale", 1.0)
    return Experts(
        number=keys.whole("expert_count"),
        active=keys.whole("expert_used_count"),
        width=width,
        shared_width=width * keys.whole("expert_shared_count", 0),
        dense_layers=keys.whole("leading_dense_block_count", 0),
        scores="sigmoid" if sigmoid else "softmax",
        normalise=bool(keys.value("expert_weights_norm", False)),
        scale=keys.positive("expert_weights_scale", 1.0) if scale else 1.0,  # some files write 0 for none
        groups=groups,
        active_groups=keys.whole("expert_group_used_count", 1),
        group_score="two highest" if sigmoid and groups > 1 else "highest",
        bias=any(name.endswith("exp_probs_b.bias") for name in tensors),
    )


def read_yarn(keys: Keys) -> Yarn:
    """Reads YaRN of DeepSeek: yarn_log_multiplier is 0.1 mscale_all_dim, and the tables have no factor."""
    everywhere = 0.0
    if keys.value("rope.scaling.yarn_log_multiplier", 0.0):
        everywhere = round(10 * keys.positive("rope.scaling.yarn_log_multiplier"), 6)
    return Yarn(
        factor=keys.positive("rope.scaling.factor"),
        original_context=keys.whole("rope.scaling.original_context_length"),
        beta_fast=keys.positive("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.positive("rope.scaling.yarn_beta_slow", 1.0),
        mscale=everywhere or 1.0,
        mscale_all_dim=everywhere,
        attention_factor=None if everywhere else 1.0,
    )
