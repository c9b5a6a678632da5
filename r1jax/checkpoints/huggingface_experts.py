"""Experts, latent attention and YaRN in the config.json of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1jax.errors import UserError
from r1jax.models.config import Architecture, Experts, Latent, ModelConfig, Yarn, check_positive, check_whole

LATENT: tuple[Architecture, ...] = ("deepseek_v2", "deepseek_v3")  # architectures with latent attention
ROUTED: tuple[Architecture, ...] = ("mixtral", "qwen3_moe", "olmoe", *LATENT)  # architectures with experts

_NUMBER = ("n_routed_experts", "num_experts", "num_local_experts")  # each version of transformers writes another


def read_latent(raw: Mapping[str, Any]) -> Latent:
    """Reads latent attention; raises as huggingface_config.parse_config."""
    if raw.get("attention_bias"):
        raise UserError("attention_bias is not supported with latent attention")
    return Latent(
        kv_rank=_whole(raw, "kv_lora_rank"),
        nope_dim=_whole(raw, "qk_nope_head_dim"),
        rope_dim=_whole(raw, "qk_rope_head_dim"),
        value_dim=_whole(raw, "v_head_dim"),
        query_rank=_whole(raw, "q_lora_rank", 0),
    )


def read_experts(raw: Mapping[str, Any], architecture: Architecture) -> Experts:
    """Reads the experts; raises as huggingface_config.parse_config."""
    number = next((_whole(raw, key) for key in _NUMBER if raw.get(key) is not None), None)
    if number is None:
        raise KeyError(_NUMBER[0] if architecture in LATENT else "num_experts")
    active = _whole(raw, "num_experts_per_tok")
    if architecture not in LATENT:
        dense = _leading_dense(raw) if architecture == "qwen3_moe" else 0
        return Experts(
            number=number,
            active=active,
            width=_whole(raw, "moe_intermediate_size" if architecture == "qwen3_moe" else "intermediate_size"),
            dense_layers=dense,
            normalise=architecture == "mixtral" or bool(raw.get("norm_topk_prob")),
        )

    if (frequency := raw.get("moe_layer_freq", 1)) != 1:
        raise UserError(f"moe_layer_freq {frequency} is not supported, only 1: experts in all layers after the first")
    newest = architecture == "deepseek_v3"
    scores = "sigmoid" if newest else "softmax"
    if (asked := raw.get("scoring_func", scores)) != scores:
        raise UserError(f"scoring_func {asked} is not supported for {architecture}, only {scores}")
    methods = ("noaux_tc",) if newest else ("greedy", "group_limited_greedy")
    if (method := raw.get("topk_method", methods[0])) not in methods:
        raise UserError(f"topk_method {method} is not supported for {architecture}; supported: {', '.join(methods)}")
    if not newest and raw.get("norm_topk_prob"):
        raise UserError("norm_topk_prob is not supported for deepseek_v2: transformers ignores it")
    groups = 1 if method == "greedy" else _whole(raw, "n_group", 1)
    width = _whole(raw, "moe_intermediate_size")
    return Experts(
        number=number,
        active=active,
        width=width,
        shared_width=width * _whole(raw, "n_shared_experts", 0),
        dense_layers=_whole(raw, "first_k_dense_replace", 0),
        scores=scores,
        normalise=newest and bool(raw.get("norm_topk_prob", True)),
        scale=check_positive("routed_scaling_factor", raw.get("routed_scaling_factor", 1.0)),
        groups=groups,
        active_groups=1 if groups == 1 else _whole(raw, "topk_group"),
        group_score="two highest" if newest and groups > 1 else "highest",
        bias=newest,
    )


def _leading_dense(raw: Mapping[str, Any]) -> int:
    """The number of leading layers without experts of Qwen3-MoE."""
    if (step := raw.get("decoder_sparse_step", 1)) != 1:
        raise UserError(f"decoder_sparse_step {step} is not supported, only 1: experts in all layers after the first")
    dense = raw.get("mlp_only_layers") or []
    if dense != list(range(len(dense))):
        raise UserError(f"mlp_only_layers {dense} is not supported: only the first layers can be without experts")
    return len(dense)


def read_yarn(rope: Mapping[str, Any], context: Any) -> Yarn:
    """Reads YaRN of DeepSeek; ``context`` is the default of original_max_position_embeddings."""
    everywhere = _number(rope, "mscale_all_dim", 0.0)
    factor, truncate = rope.get("attention_factor"), rope.get("truncate")
    if not isinstance(truncate, bool | None):
        raise ValueError(f"truncate is {truncate!r} and must be true or false")
    return Yarn(
        factor=check_positive("rope factor", rope["factor"]),
        original_context=check_whole(
            "original_max_position_embeddings", rope.get("original_max_position_embeddings") or context
        ),
        beta_fast=_number(rope, "beta_fast", 32.0),
        beta_slow=_number(rope, "beta_slow", 1.0),
        mscale=_number(rope, "mscale", 0.0 if everywhere else 1.0),
        mscale_all_dim=everywhere,
        attention_factor=None if factor is None else check_positive("attention_factor", factor),
        truncate=truncate is not False,
    )


def _number(rope: Mapping[str, Any], key: str, default: float) -> float:
    """A number above 0, or the default, which null and 0 mean in transformers too."""
    value = rope.get(key)
    return default if value is None or (value == 0 and not isinstance(value, bool)) else check_positive(key, value)


def _whole(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number of at least 1, or ``default``, which a missing, null or 0 entry means."""
    value = raw.get(key)
    if default is not None and (value is None or (value == 0 and default == 0)):
        return default
    if value is None:
        raise KeyError(key)
    return check_whole(key, value)


def written_rope(own: Yarn) -> dict[str, Any]:
    """The entries of rope_scaling for old and new versions of transformers."""
    return {
        "type": "yarn",  # read by the code that DeepSeek published with the weights
        "rope_type": "yarn",
        "factor": own.factor,
        "original_max_position_embeddings": own.original_context,
        "beta_fast": own.beta_fast,
        "beta_slow": own.beta_slow,
        "mscale": own.mscale,
        "mscale_all_dim": own.mscale_all_dim,
        **({} if own.attention_factor is None else {"attention_factor": own.attention_factor}),
        **({} if own.truncate else {"truncate": False}),
    }


def written_parts(config: ModelConfig) -> dict[str, Any]:
    """The entries of config.json for the experts and latent attention of a config."""
    entries: dict[str, Any] = {}
    if (latent := config.latent) is not None:
        entries |= {
            "kv_lora_rank": latent.kv_rank,
            "q_lora_rank": latent.query_rank or None,
            "qk_nope_head_dim": latent.nope_dim,
            "qk_rope_head_dim": latent.rope_dim,
            "v_head_dim": latent.value_dim,
            "head_dim": latent.rope_dim,  # so transformers computes the rotary frequencies
            "rope_interleave": True,
            "num_nextn_predict_layers": config.mtp_layers,
        }
    if (experts := config.experts) is None:
        return entries
    entries |= {"num_experts_per_tok": experts.active, "norm_topk_prob": experts.normalise}
    if config.latent is None:
        entries |= {"num_experts": experts.number, "num_local_experts": experts.number}
        if config.architecture == "qwen3_moe":
            dense = list(range(experts.dense_layers))
            entries |= {"moe_intermediate_size": experts.width, "decoder_sparse_step": 1, "mlp_only_layers": dense}
        else:
            entries["intermediate_size"] = experts.width
        return entries
    newest = config.architecture == "deepseek_v3"
    method = "noaux_tc" if newest else "greedy" if experts.groups == 1 else "group_limited_greedy"
    return entries | {
        "n_routed_experts": experts.number,
        "n_shared_experts": experts.shared_width // experts.width,
        "moe_intermediate_size": experts.width,
        "first_k_dense_replace": experts.dense_layers,
        "moe_layer_freq": 1,
        "scoring_func": experts.scores,
        "topk_method": method,
        "n_group": experts.groups,
        "topk_group": experts.active_groups,
        "routed_scaling_factor": experts.scale,
    }
