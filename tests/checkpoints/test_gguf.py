"""GGUF files, written from the fixtures with the writer of the gguf library, against the logits of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from r1jax.checkpoints.gguf import load_gguf, read_config, recover_rope_scaling
from r1jax.checkpoints.huggingface import load_huggingface, save_huggingface
from r1jax.checkpoints.huggingface import read_config as read_huggingface_config
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig, RopeScaling
from r1jax.models.rotary import frequencies
from r1jax.models.transformer import forward
from tests.checkpoints.helpers import NAMES, weights_of, write_fixture, write_gguf
from tests.helpers.paths import FIXTURES


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = load_gguf(write_fixture(name, tmp_path / "model.gguf"))
    expected = np.load(FIXTURES / name / "logits.npz")
    logits = forward(model.params, jnp.asarray(expected["tokens"]), model.config)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)


def test_an_output_matrix_beside_a_tied_config_is_used(tmp_path: Path) -> None:
    weights = weights_of("llama_tied")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"][::-1].copy()  # tokens in reverse order
    config = read_huggingface_config(FIXTURES / "llama_tied")
    model = load_gguf(write_gguf(tmp_path / "model.gguf", config, weights))
    expected = np.load(FIXTURES / "llama_tied" / "logits.npz")
    logits = forward(model.params, jnp.asarray(expected["tokens"]), model.config)
    np.testing.assert_allclose(logits, expected["logits"][..., ::-1], atol=1e-4, rtol=0)


def test_a_file_is_parsed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    reader = gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: parsed.append(path) or reader(path))
    path = write_fixture("qwen2", tmp_path / "model.gguf")
    for _ in range(2):
        assert read_config(path).architecture == "qwen2"
        load_gguf(path)
    assert parsed == [path]
    write_fixture("llama_tied", path)
    assert read_config(path).architecture == "llama" and len(parsed) == 2


@pytest.mark.parametrize("name", NAMES)
def test_config_is_that_of_the_huggingface_folder(name: str, tmp_path: Path) -> None:
    path = write_fixture(name, tmp_path / "model.gguf")
    assert read_config(path) == read_huggingface_config(FIXTURES / name)


# Root mean square of the error in the logits, where the logits themselves have 1.04.
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        (Type.F16, 0.001),
        (Type.BF16, 0.01),
        (Type.Q8_0, 0.03),
        (Type.Q5_1, 0.2),
        (Type.Q5_0, 0.2),
        (Type.Q4_1, 0.4),
        (Type.Q4_0, 0.4),
        (Type.MXFP4, 0.5),
    ],
)
def test_quantised_logits_are_near(kind: Type, tolerance: float, tmp_path: Path) -> None:
    model = load_gguf(write_fixture("llama_bias", tmp_path / "model.gguf", kind))
    expected = np.load(FIXTURES / "llama_bias" / "logits.npz")
    logits = forward(model.params, jnp.asarray(expected["tokens"]), model.config)
    error = float(np.sqrt(np.mean((logits - expected["logits"]) ** 2)))
    assert error < tolerance


def can_dequantise(kind: Type) -> bool:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, 256 // block * size), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


KINDS = [kind for kind in gguf.GGML_QUANT_SIZES if can_dequantise(kind)]
WIDE = ModelConfig(vocab_size=128, hidden_size=256, intermediate_size=256, num_layers=1, head_dim=64, num_kv_heads=4)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_quantisation_is_loaded_into_the_right_weights(kind: Type, tmp_path: Path) -> None:
    written: list[np.ndarray] = []

    def encode(array: np.ndarray, kind: Type) -> np.ndarray:
        shape = gguf.quant_shape_to_byte_shape(array.shape, kind)
        written.append(np.random.default_rng(len(written)).integers(0, 60, shape, np.uint8))
        itself = {Type.F32: np.float32, Type.F16: np.float16}
        return written[-1].view(itself.get(kind, np.uint8))

    matrices = {
        "model.embed_tokens.weight": (128, 256),
        "model.layers.0.self_attn.q_proj.weight": (256, 256),
        "model.layers.0.self_attn.k_proj.weight": (256, 256),
        "model.layers.0.self_attn.v_proj.weight": (256, 256),
        "model.layers.0.self_attn.o_proj.weight": (256, 256),
        "model.layers.0.mlp.gate_proj.weight": (256, 256),
        "model.layers.0.mlp.up_proj.weight": (256, 256),
        "model.layers.0.mlp.down_proj.weight": (256, 256),
    }
    vectors = ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm")
    weights = {name: np.zeros(shape, np.float32) for name, shape in matrices.items()}
    weights |= {f"{name}.weight": np.ones(256, np.float32) for name in vectors}
    params = load_gguf(write_gguf(tmp_path / "model.gguf", WIDE, weights, kind, encode)).params
    expected = dict(zip(matrices, (gguf.dequantize(data, kind) for data in written), strict=True))
    layer = params["layers"]
    np.testing.assert_array_equal(params["embedding"], expected["model.embed_tokens.weight"])
    np.testing.assert_array_equal(layer["mlp"]["down"][0], expected["model.layers.0.mlp.down_proj.weight"].T)
    value = expected["model.layers.0.self_attn.v_proj.weight"].reshape(4, 64, 256)
    np.testing.assert_array_equal(layer["attention"]["value"][0], value.transpose(2, 0, 1))


def test_the_kinds_of_the_published_files_are_among_those_tried() -> None:
    assert {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ2_XXS", "IQ4_XS", "Q8_0"} <= {k.name for k in KINDS}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general__architecture": "gemma"}, "architecture gemma is not supported; supported: llama, qwen2, qwen3"),
        ({"llama__rope__scaling__type": "yarn"}, "rope type yarn"),
        ({"llama__rope__dimension_count": 4}, "rope.dimension_count below the head size 8"),
        ({"llama__expert_count": 8}, "8 experts"),
        ({"llama__block_count": None}, "key llama.block_count is missing"),
        ({"llama__attention__head_count": 0}, "llama.attention.head_count is 0 and must be at least 1"),
        ({"llama__attention__head_count": [4, 4]}, r"llama.attention.head_count is \[4, 4\] and must be a whole"),
        ({"llama__attention__head_count_kv": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"llama__attention__key_length": 7, "llama__rope__dimension_count": None}, "head_dim 7 is odd"),
        ({"llama__rope__freq_base": -1.0}, "llama.rope.freq_base is -1.0 and must be finite and above 0"),
        ({"llama__embedding_length": "32"}, "llama.embedding_length is '32' and must be a whole number"),
        ({"llama__block_count": 3}, r"tensor blk\.2\.attn_k\.weight of shape \(32, 32\) is missing"),
        ({"llama__block_count": 1}, r"tensor blk\.1\.attn_k\.bias and 12 more is not part of this architecture"),
        (
            {"llama__feed_forward_length": 48},
            r"ffn_down\.weight has shape \(32, 64\) but the config expects \(32, 48\)",
        ),
        ({"split__count": 3}, "one of 3 parts"),
        ({"tokenizer__ggml__model": "t5"}, "tokenizer.ggml.model=t5 is not supported"),
        ({"tokenizer__ggml__pre": "tekken"}, "tokenizer.ggml.pre=tekken is not supported; supported: default"),
        ({"tokenizer__ggml__eos_token_id": None}, "no end token is declared"),
        ({"tokenizer__ggml__merges": ["a c"]}, "vocabulary is inconsistent"),
        ({"tokenizer__ggml__token_type": [1, 1]}, "vocabulary is inconsistent"),
    ],
)
def test_unsupported_and_wrong_files_are_refused(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_fixture("llama_bias", tmp_path / "model.gguf", **metadata)
    with pytest.raises(UserError, match=message) as caught:
        load_gguf(path)
    assert str(path) in str(caught.value)


def test_a_type_without_values_is_named(tmp_path: Path) -> None:
    def encode(array: np.ndarray, kind: Type) -> np.ndarray:
        return array.astype(np.int32)

    path = write_gguf(
        tmp_path / "model.gguf", read_huggingface_config(FIXTURES / "qwen2"), weights_of("qwen2"), Type.I32, encode
    )
    with pytest.raises(UserError, match=r"tensor token_embd\.weight is of type I32"):
        load_gguf(path)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write_fixture("qwen2", tmp_path / "model.gguf")
    whole = path.read_bytes()
    # Inside the magic, the counts, the metadata, the tensors' table, and the last tensor.
    for cut in (0, 3, 20, 200, 2000, len(whole) // 4, len(whole) - 32):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"model\.gguf is damaged or not a GGUF file") as caught:
            load_gguf(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"# a text file\n" * 9)
    with pytest.raises(UserError, match="not a GGUF file"):
        load_gguf(path)
    with pytest.raises(UserError, match=r"nowhere\.gguf cannot be read"):
        load_gguf(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize(
    ("theta", "scaling"),
    [
        (500_000.0, RopeScaling(factor=8.0)),  # Llama 3.1
        (500_000.0, RopeScaling(factor=32.0)),  # Llama 3.2
        (10_000.0, RopeScaling(factor=4.0, high_freq_factor=8.0, original_context=2048)),
    ],
)
def test_rope_scaling_is_recovered_from_its_factors(theta: float, scaling: RopeScaling) -> None:
    bare = ModelConfig(head_dim=128, rope_theta=theta)
    factors = frequencies(bare) / frequencies(ModelConfig(head_dim=128, rope_theta=theta, rope_scaling=scaling))
    assert recover_rope_scaling(factors, bare) == scaling


def test_other_rope_factors_are_refused(tmp_path: Path) -> None:
    bare = ModelConfig(head_dim=128, rope_theta=10_000.0)
    for factors in (np.ones(5), np.linspace(1, 4, 64), np.linspace(4, 1, 64), np.where(np.arange(64) % 2, 1.0, 8.0)):
        assert recover_rope_scaling(factors.astype(np.float32), bare) is None

    weights = weights_of("qwen2") | {"rope_freqs.weight": np.linspace(1, 4, 4, dtype=np.float32)}
    path = write_gguf(tmp_path / "model.gguf", read_huggingface_config(FIXTURES / "qwen2"), weights)
    with pytest.raises(UserError, match=r"tensor rope_freqs\.weight"):
        load_gguf(path)


def test_a_gguf_file_exports_as_a_huggingface_folder(tmp_path: Path) -> None:
    model = load_gguf(write_fixture("llama_tied", tmp_path / "model.gguf"))
    save_huggingface(model, tmp_path / "export")
    again = load_huggingface(tmp_path / "export")
    assert again.config == model.config
    original = load_huggingface(FIXTURES / "llama_tied")
    jax.tree.map(np.testing.assert_array_equal, again.params, original.params)
    assert again.tokenizer.chat([{"role": "user", "content": "ab<pad>"}]) == [127, 2, 1]
