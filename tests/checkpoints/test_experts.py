"""Checkpoints with experts and latent attention, compared with the logits that transformers computed from them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from r1jax.checkpoints.fp8 import dequantise
from r1jax.checkpoints.gguf import load_gguf
from r1jax.checkpoints.huggingface import config_json, load_huggingface, read_config
from r1jax.checkpoints.huggingface_config import config_of
from r1jax.checkpoints.layout import stored_arrays
from r1jax.errors import UserError
from r1jax.models.config import Experts, ModelConfig, Yarn
from r1jax.models.rotary import score_factor, table_factor
from r1jax.models.transformer import hidden_states, param_specs, unembedding
from r1jax.sharding import param_count
from r1jax.tokenizer import ByteTokenizer
from tests.checkpoints.expert_files import fp8_copy, fused_copy, write_expert_gguf, write_safetensors
from tests.checkpoints.helpers import EXPERTS, copy_of, edit_weights, weights_of
from tests.helpers.paths import FIXTURES

TOKENS = ByteTokenizer()


def ranked(scores: np.ndarray, bias: np.ndarray | float, own: Experts) -> np.ndarray:
    """The scores that decide, [..., E]: -inf outside the groups with the highest sums of their best scores."""
    biased = np.asarray(scores, np.float64) + bias
    if own.groups == 1:
        return biased
    grouped = biased.reshape(*biased.shape[:-1], own.groups, -1)
    best = np.sort(grouped, axis=-1)[..., -2 if own.group_score == "two highest" else -1 :].sum(axis=-1)
    limit = np.sort(best, axis=-1)[..., [-own.active_groups]]
    return np.where((best >= limit)[..., None], grouped, -np.inf).reshape(biased.shape)


@pytest.mark.parametrize("name", EXPERTS)
def test_logits_are_those_of_transformers_even_near_ties(name: str) -> None:
    model = load_huggingface(FIXTURES / name)
    own = model.config.experts
    assert own is not None
    expected = np.load(FIXTURES / name / "logits.npz")
    x, extras = hidden_states(model.params, jnp.asarray(expected["tokens"]), model.config)
    logits = x @ unembedding(model.params, model.config)
    assert np.ptp(expected["logits"]) > 5  # far more than the tolerance
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)

    routing, bias = extras.routing[-1], model.params["layers"]["mlp"].get("router_bias")
    order = ranked(routing.scores, 0.0 if bias is None else np.asarray(bias)[:, None, None], own)
    ascending = np.sort(order, axis=-1)
    gap = ascending[..., -own.active] - ascending[..., -own.active - 1]  # to the first expert that is left out
    assert ((gap > 1e-6) & (gap < 2e-3)).sum() >= 3
    if bias is not None:  # it changes the choice
        assert (np.argmax(order, axis=-1) != np.argmax(ranked(routing.scores, 0.0, own), axis=-1)).any()


def test_the_bias_of_routers_is_not_rounded() -> None:
    params = load_huggingface(FIXTURES / "deepseek_v3", "bfloat16").params
    stored = weights_of("deepseek_v3")["model.layers.2.mlp.gate.e_score_correction_bias"]
    np.testing.assert_array_equal(params["layers"]["mlp"]["router_bias"][1], stored)
    assert params["layers"]["mlp"]["router"].dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["deepseek_v3", "mixtral"])
def test_experts_in_one_array_are_those_in_many(name: str, tmp_path: Path) -> None:
    fused = load_huggingface(fused_copy(name, tmp_path / "model"))
    jax.tree.map(np.testing.assert_array_equal, fused.params, load_huggingface(FIXTURES / name).params)


@pytest.mark.parametrize(
    ("name", "split"), [("deepseek_v3", False), ("deepseek_v3", True), ("deepseek_v2_lite", True), ("qwen3_moe", False)]
)
def test_a_gguf_file_is_the_huggingface_folder(name: str, split: bool, tmp_path: Path) -> None:
    expected = load_huggingface(FIXTURES / name)
    model = load_gguf(write_expert_gguf(name, tmp_path / "model.gguf", split))
    assert model.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, model.params, expected.params)


def test_a_gguf_file_without_groups_is_read_with_a_warning(tmp_path: Path) -> None:
    path = write_expert_gguf(
        "deepseek_v3", tmp_path / "m.gguf", deepseek2__expert_group_count=None, deepseek2__expert_group_used_count=None
    )
    with pytest.warns(UserWarning, match=r"expert_group_count is missing: each token chooses among all experts"):
        config = load_gguf(path).config
    assert config.experts is not None
    assert (config.experts.groups, config.experts.group_score) == (1, "highest")


def test_without_a_multiplier_in_a_gguf_file_yarn_has_no_factors(tmp_path: Path) -> None:
    absent = {"deepseek2__rope__scaling__yarn_log_multiplier": None}
    config = load_gguf(write_expert_gguf("deepseek_v3", tmp_path / "model.gguf", **absent)).config
    assert (table_factor(config), score_factor(config)) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"deepseek2__expert_gating_func": 3}, "expert_gating_func 3 is not supported"),
        ({"deepseek2__rope__dimension_count": 18}, "the key size without position is 0 and must be at least 1"),
        ({"deepseek2__attention__kv_lora_rank": None}, "key deepseek2.attention.kv_lora_rank is missing"),
        ({"deepseek2__rope__scaling__type": "linear"}, "rope type linear"),
        ({"deepseek2__expert_count": 16}, r"ffn_down_exps.weight has shape \(12, 32, 8\) but the config expects \(16"),
    ],
)
def test_wrong_gguf_files_are_refused(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_expert_gguf("deepseek_v3", tmp_path / "model.gguf", **metadata)
    with pytest.raises(UserError, match=message):
        load_gguf(path)


def test_fp8_weights_are_multiplied_by_the_scale_of_their_block(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 300)).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.uniform(1, 2, size=(2, 3)).astype(np.float32)
    wide = dequantise(values, scales)
    for row, column in ((0, 0), (127, 128), (128, 127), (199, 299), (130, 256)):
        assert wide[row, column] == np.float32(values[row, column]) * scales[row // 128, column // 128]

    meant = fp8_copy("deepseek_v3", tmp_path / "fp8")
    write_safetensors(copy_of("deepseek_v3", tmp_path / "wide") / "model.safetensors", meant)
    expected = load_huggingface(tmp_path / "wide").params
    jax.tree.map(np.testing.assert_array_equal, load_huggingface(tmp_path / "fp8").params, expected)


def test_wrong_fp8_scales_are_named(tmp_path: Path) -> None:
    name = "model.layers.2.mlp.experts.3.up_proj.weight"
    meant = fp8_copy("deepseek_v3", tmp_path / "model")
    low = {key: array.astype(ml_dtypes.float8_e4m3fn) if key == name else array for key, array in meant.items()}
    write_safetensors(tmp_path / "model" / "model.safetensors", low)
    with pytest.raises(UserError, match=f"fp8 tensor {name} has no scales {name}_scale_inv"):
        load_huggingface(tmp_path / "model")
    low[f"{name}_scale_inv"] = np.ones((1, 2), np.float32)
    write_safetensors(tmp_path / "model" / "model.safetensors", low)
    with pytest.raises(UserError, match=r"has scales of shape \(1, 2\) in F32: expected .* scales of shape \(1, 1\)"):
        load_huggingface(tmp_path / "model")
    folder = copy_of("deepseek_v3", tmp_path / "plain")
    write_safetensors(folder / "model.safetensors", low)
    with pytest.raises(UserError, match=r"is of type F8_E4M3|is not part of this architecture"):
        load_huggingface(folder)


def test_missing_experts_are_named_and_counted(tmp_path: Path) -> None:
    folder = copy_of("deepseek_v3", tmp_path / "model")
    lost = [f"model__layers__{layer}__mlp__experts__7__up_proj__weight" for layer in (1, 2)]
    edit_weights(folder, **dict.fromkeys(lost))
    with pytest.raises(
        UserError, match=r"tensor model\.layers\.1\.mlp\.experts\.7\.up_proj\.weight .* 2 experts of 24 incomplete"
    ):
        load_huggingface(folder)


def test_rotary_pairs_may_be_stored_as_halves(tmp_path: Path) -> None:
    """With rope_interleave false, the rows of each rotated part are in another order."""
    folder = copy_of("deepseek_v3", tmp_path / "model", rope_interleave=False)
    edited = {}
    for key, array in weights_of("deepseek_v3").items():
        if "q_b_proj" in key or "kv_a_proj" in key:
            heads = array.reshape(4 if "q_b" in key else 1, -1, array.shape[1])
            end = heads[:, -8:]
            moved = np.concatenate([heads[:, :-8], end[:, ::2], end[:, 1::2]], axis=1)
            edited[key.replace(".", "__")] = moved.reshape(array.shape)
    edit_weights(folder, **edited)
    expected = load_huggingface(FIXTURES / "deepseek_v3").params
    jax.tree.map(np.testing.assert_array_equal, load_huggingface(folder).params, expected)


def test_old_and_new_spelling_of_yarn_agree(tmp_path: Path) -> None:
    new = read_config(FIXTURES / "deepseek_v3")
    values = json.loads((FIXTURES / "deepseek_v3" / "config.json").read_text())
    rope = values["rope_parameters"]
    theta = rope.pop("rope_theta")
    scaling = {"type": rope.pop("rope_type"), **rope}
    dropped = dict.fromkeys(("rope_parameters", "rope_interleave"))
    old = copy_of("deepseek_v3", tmp_path / "old", rope_theta=theta, rope_scaling=scaling, **dropped)
    assert read_config(old) == new
    assert new.rope_scaling == Yarn(4.0, 32, beta_fast=4.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)


def test_every_field_of_the_experts_is_read() -> None:
    assert read_config(FIXTURES / "deepseek_v2").experts == Experts(
        number=12,
        active=3,
        width=8,
        shared_width=16,
        dense_layers=1,
        normalise=False,
        scale=2.0,
        groups=4,
        active_groups=2,
    )
    v3 = read_config(FIXTURES / "deepseek_v3")
    assert v3.experts == Experts(
        number=12,
        active=3,
        width=8,
        shared_width=8,
        dense_layers=1,
        scores="sigmoid",
        scale=2.5,
        groups=4,
        active_groups=2,
        group_score="two highest",
        bias=True,
    )
    assert v3.latent is not None
    assert dataclasses.astuple(v3.latent) == (12, 10, 8, 6, 16)
    assert (v3.head_dim, v3.rotary_dim) == (18, 8)


def test_the_published_config_of_deepseek_v3_gives_its_number_of_parameters(tmp_path: Path) -> None:
    published = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "ep_size": 1,
        "first_k_dense_replace": 3,
        "hidden_act": "silu",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "quantization_config": {"fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "vocab_size": 129280,
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = read_config(tmp_path)
    assert param_count(param_specs(config)) == 671_026_419_200
    arrays = {array.name: array.shape for array in stored_arrays(config, "huggingface")}
    assert len(arrays) == 61 * 9 + 3 * 3 + 58 * (2 + 3 + 3 * 256) + 3
    assert arrays["model.layers.60.mlp.experts.255.down_proj.weight"] == (7168, 2048)
    assert arrays["model.layers.2.mlp.gate_proj.weight"] == (18432, 7168)
    assert arrays["model.layers.3.mlp.gate.e_score_correction_bias"] == (256,)
    assert arrays["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"] == (576, 7168)
    assert arrays["model.layers.0.self_attn.kv_b_proj.weight"] == (32768, 512)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func softmax is not supported for deepseek_v3"),
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method greedy is not supported for deepseek_v3"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq 2 is not supported"),
        ("deepseek_v3", {"attention_bias": True}, "attention_bias is not supported with latent attention"),
        ("deepseek_v3", {"topk_group": 5}, "5 active groups of experts, but there are only 4 groups"),
        ("deepseek_v3", {"n_group": 5}, "12 experts do not divide into 5 groups"),
        ("deepseek_v3", {"first_k_dense_replace": 3}, "3 dense layers of 3 leave none with experts"),
        ("deepseek_v3", {"num_experts_per_tok": None}, "key 'num_experts_per_tok' is missing"),
        ("deepseek_v3", {"kv_lora_rank": "12"}, "kv_lora_rank is '12' and must be a whole number"),
        ("deepseek_v3", {"rope_parameters": {"rope_type": "llama3"}}, "rope type llama3 is not supported"),
        ("deepseek_v3", {"rope_parameters": {"rope_type": "yarn"}}, "key 'factor' is missing"),
        (
            "deepseek_v3",
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}},
            r"weight_block_size \[64, 64\] are not supported",
        ),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob is not supported for deepseek_v2"),
        ("mixtral", {"sliding_window": 64}, "sliding_window 64 is not supported"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step 2 is not supported"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, r"mlp_only_layers \[1\] is not supported: only the first layers"),
        ("qwen3_moe", {"num_local_experts": None, "num_experts": None}, "key 'num_experts' is missing"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv 8.0 is not supported"),
    ],
)
def test_unsupported_and_wrong_configs_are_refused(
    name: str, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_config(copy_of(name, tmp_path / "model", **config))
    assert "\n" not in str(caught.value)


def test_leading_dense_layers_of_qwen(tmp_path: Path) -> None:
    config = read_config(copy_of("qwen3_moe", tmp_path / "model", mlp_only_layers=[0], num_hidden_layers=3))
    assert config.experts is not None
    assert config.experts.dense_layers == 1
    assert config_json(config, "float32", TOKENS)["mlp_only_layers"] == [0]


def test_export_keeps_a_config_or_refuses_it() -> None:
    def refused(name: str, message: str, **changes: Any) -> None:
        config = read_config(FIXTURES / name)
        assert config.experts is not None
        experts = dataclasses.replace(config.experts, **changes)
        with pytest.raises(UserError, match=message):
            config_json(dataclasses.replace(config, experts=experts), "float32", TOKENS)

    yarn = Yarn(attention_factor=1.0, truncate=False)  # as from a GGUF file without yarn_log_multiplier
    config = dataclasses.replace(read_config(FIXTURES / "deepseek_v2"), rope_scaling=yarn)
    assert config_of(config_json(config, "float32", TOKENS)).rope_scaling == yarn
    refused("mixtral", "MixtralForCausalLM does not support experts=", scores="sigmoid")
    refused("deepseek_v3", "DeepseekV3ForCausalLM does not support experts=", bias=False)
    refused("deepseek_v2", "DeepseekV2ForCausalLM does not support .*norm_topk_prob", normalise=True)
    refused("deepseek_v3", "DeepseekV3ForCausalLM needs shared experts", shared_width=0)
    dense = ModelConfig(architecture="deepseek_v3", num_kv_heads=4)
    with pytest.raises(UserError, match="DeepseekV3ForCausalLM does not support this config"):
        config_json(dense, "float32", TOKENS)
