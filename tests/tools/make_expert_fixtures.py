"""Makes the checkpoints of tests/fixtures that have experts, with the logits of transformers.

It adds to what tests/tools/make_fixtures.py makes, and runs in the same environment:

    .venv-torch/bin/python tests/tools/make_expert_fixtures.py

In each layer with experts, some routers are nearly equal, so that the choice is near a tie for many tokens, and two
experts are exactly equal. The script checks that the choice is the same in float64.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from make_fixtures import COMMON, FIXTURES, edit_config, letters, randomise
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

LATENT = {"num_key_value_heads": 4, "kv_lora_rank": 12, "qk_nope_head_dim": 10, "qk_rope_head_dim": 8, "v_head_dim": 6}
DEEPSEEK = COMMON | LATENT | {"num_hidden_layers": 3, "moe_intermediate_size": 8, "num_experts_per_tok": 3}
# Small enough that the four frequencies include kept, interpolated and divided ones.
YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0, "beta_slow": 1.0, "rope_theta": 100.0}
YARN |= {"original_max_position_embeddings": 32}


def gates(model: PreTrainedModel) -> list[torch.nn.Module]:
    return [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]


def set_routers(model: PreTrainedModel, near: int, seed: int) -> None:
    """Makes the routers of experts near, ..., 2 near - 1 nearly those of 0, ..., near - 1, and the last two equal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.model.layers:
            if not hasattr(layer.mlp, "gate"):
                continue
            gate, experts = layer.mlp.gate, layer.mlp.experts
            for weight in (experts.gate_up_proj, experts.down_proj):
                weight.copy_(torch.randn(weight.shape, generator=generator) * (2 / weight.shape[-1]) ** 0.5)
                weight[-1] = weight[-2]
            noise = torch.randn(gate.weight[:near].shape, generator=generator)
            gate.weight[near : 2 * near] = gate.weight[:near] + 1e-3 * noise
            gate.weight[-1] = gate.weight[-2]
            if hasattr(gate, "e_score_correction_bias"):
                bias = 0.2 * torch.randn(gate.weight.shape[0], generator=generator)
                bias[near : 2 * near], bias[-1] = bias[:near], bias[-2]
                gate.e_score_correction_bias.copy_(bias)


def choices(model: PreTrainedModel, tokens: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and the sorted experts of each token in each layer; the last expert counts as the one before it."""
    chosen, hooks = [], []
    for gate in gates(model):

        def keep(_: object, __: object, out: tuple, top: int = gate.weight.shape[0] - 2) -> None:
            chosen.append(out[2].clamp(max=top))

        hooks.append(gate.register_forward_hook(keep))
    with torch.no_grad():
        logits = model(tokens).logits.numpy()
    for own in hooks:
        own.remove()
    return logits, np.sort(torch.stack(chosen).numpy(), axis=-1)


def save(name: str, model: PreTrainedModel, near: int, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    randomise(model, seed)
    set_routers(model, near, seed)
    model.to(dtype).save_pretrained(folder)
    letters().save_pretrained(folder)
    # The grouped product of torch has no float64.
    model = type(model).from_pretrained(folder, dtype=torch.float32, experts_implementation="eager").eval()
    tokens = torch.from_numpy(np.random.default_rng(seed).integers(0, 128, (2, 24)))
    logits, chosen = choices(model, tokens)
    exact, same = choices(model.double(), tokens)
    assert (chosen == same).all(), f"{name}: the choice of experts is not the same in float64"
    assert np.abs(logits - exact).max() < 2e-5, f"{name}: logits are not accurate"
    np.savez_compressed(folder / "logits.npz", tokens=tokens.numpy().astype(np.int32), logits=logits)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size:,} bytes, logits up to {np.abs(logits).max():.1f}, {len(np.unique(chosen))} experts used")
    return folder


def make_models() -> None:
    config = DeepseekV3Config(
        **DEEPSEEK,
        q_lora_rank=16,
        n_routed_experts=12,
        n_shared_experts=1,
        n_group=4,
        topk_group=2,
        first_k_dense_replace=1,
        rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        num_nextn_predict_layers=0,
    )
    save("deepseek_v3", DeepseekV3ForCausalLM(config), 3, 10)

    # As published: rope_scaling with "type", and rope_theta at the top level.
    config = DeepseekV2Config(
        **DEEPSEEK,
        q_lora_rank=16,
        n_routed_experts=12,
        n_shared_experts=2,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        first_k_dense_replace=1,
        routed_scaling_factor=2.0,
        rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 0.707},
    )
    folder = save("deepseek_v2", DeepseekV2ForCausalLM(config), 3, 11)
    scaling = {"mscale": 1.0, "mscale_all_dim": 0.707, "type": "yarn"}
    scaling |= {key: YARN[key] for key in YARN if key not in ("rope_type", "rope_theta")}
    edit_config(folder, ("rope_parameters", "head_dim"), rope_theta=100.0, rope_scaling=scaling)

    config = DeepseekV2Config(
        **(DEEPSEEK | {"num_hidden_layers": 2}),
        q_lora_rank=None,
        n_routed_experts=8,
        n_shared_experts=2,
        topk_method="greedy",
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    )
    save("deepseek_v2_lite", DeepseekV2ForCausalLM(config), 2, 12, torch.bfloat16)

    config = MixtralConfig(**(COMMON | {"intermediate_size": 16}), num_local_experts=6, num_experts_per_tok=3)
    save("mixtral", MixtralForCausalLM(config), 2, 13)

    config = Qwen3MoeConfig(
        **COMMON,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=8,
        norm_topk_prob=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    save("qwen3_moe", Qwen3MoeForCausalLM(config), 2, 14)

    config = OlmoeConfig(**(COMMON | {"intermediate_size": 16}), num_experts=8, num_experts_per_tok=3)
    save("olmoe", OlmoeForCausalLM(config), 2, 15)


if __name__ == "__main__":
    make_models()
