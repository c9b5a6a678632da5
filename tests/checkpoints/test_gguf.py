"""GGUF files, written from the fixtures with the writer of the gguf library, against the logits of transformers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import sentencepiece
from gguf import GGMLQuantizationType as Type
from gguf import TokenType

from r1jax.checkpoints.gguf import load_gguf, read_config, recover_rope_scaling
from r1jax.checkpoints.huggingface import load_huggingface, save_huggingface
from r1jax.checkpoints.huggingface import read_config as read_huggingface_config
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig, RopeScaling
from r1jax.models.rotary import frequencies
from r1jax.models.transformer import forward
from r1jax.tokenizer import load_tokenizer
from r1jax.tokenizer.byte_level import byte_characters
from r1jax.tokenizer.gguf_vocabulary import read_vocabulary

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ["llama_tied", "llama_bias", "llama_mlp_bias", "qwen2", "qwen3"]
EXPECTED = json.loads((FIXTURES / "tokenizers" / "expected.json").read_text())
ARCHS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head reordered so that the pairs (i, i + K/2) become neighbours, as llama.cpp keeps Llama's."""
    size = len(array) // heads
    order = [h * size + i + half * size // 2 for h in range(heads) for i in range(size // 2) for half in range(2)]
    return array[order]


def weights_of(name: str) -> dict[str, np.ndarray]:
    weights = {}
    for file in sorted((FIXTURES / name).glob("*.safetensors")):
        with safetensors.safe_open(file, framework="numpy") as f:
            weights |= {key: f.get_tensor(key).astype(np.float32) for key in f.keys()}  # noqa: SIM118
    return weights


def write_gguf(
    path: Path,
    config: ModelConfig,
    weights: dict[str, np.ndarray],
    kind: Type = Type.F32,
    encode: Callable[[np.ndarray, Type], np.ndarray] = gguf.quantize,
    **metadata: Any,
) -> Path:
    """A GGUF file of Hugging Face ``weights``, its matrices encoded as ``kind``.

    ``metadata`` adds or replaces keys ("." is written "__" in them); None drops one.
    """
    names = gguf.get_tensor_name_map(ARCHS[config.architecture], config.num_layers)
    arrays: dict[str, np.ndarray] = {}
    for key, array in weights.items():
        if config.architecture == "llama" and "q_proj" in key:
            array = interleaved(array, config.num_heads)
        if config.architecture == "llama" and "k_proj" in key:
            array = interleaved(array, config.num_kv_heads)
        arrays[names.get_name(key, try_suffixes=(".weight", ".bias")) or key] = array
    if config.rope_scaling is not None:
        bare = frequencies(ModelConfig(head_dim=config.head_dim, rope_theta=config.rope_theta))
        arrays["rope_freqs.weight"] = bare / frequencies(config)

    tokens = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", *byte_characters()[:122], "ab"]
    values: dict[str, Any] = {
        "block_count": config.num_layers,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
    }
    values = {f"{config.architecture}.{key}": value for key, value in values.items()}
    values |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(TokenType.CONTROL)] * 5 + [int(TokenType.NORMAL)] * (len(tokens) - 5),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.chat_template": "{{ messages[0].content }}</s>",
    }
    values |= {key.replace("__", "."): value for key, value in metadata.items()}

    writer = gguf.GGUFWriter(path, values.pop("general.architecture", config.architecture))
    add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
    for key, value in values.items():
        if value is not None:
            add[type(value)](key, value)
    for key, array in arrays.items():
        if array.ndim == 2:
            writer.add_tensor(key, encode(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_fixture(name: str, path: Path, kind: Type = Type.F32, **metadata: Any) -> Path:
    return write_gguf(path, read_huggingface_config(FIXTURES / name), weights_of(name), kind, **metadata)


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
def test_every_quantisation_arrives_in_its_place(kind: Type, tmp_path: Path) -> None:
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
def test_what_is_not_supported_is_named(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
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


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
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


def bpe_metadata(name: str, pre: str) -> dict[str, Any]:
    """The vocabulary of a tokenizers fixture as a GGUF file's metadata."""
    model = json.loads((FIXTURES / "tokenizers" / name / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=lambda token: model["vocab"][token])
    kinds = [TokenType.CONTROL if token.startswith("<|") else TokenType.NORMAL for token in tokens]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 0,
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
    }


@pytest.mark.parametrize("name", sorted(EXPECTED["ids"]))
def test_byte_level_vocabularies_give_the_ids_of_transformers(name: str, tmp_path: Path) -> None:
    tokenizer = read_vocabulary(bpe_metadata(name, name), Path("model.gguf"))
    tokenizer.save(tmp_path)
    for either in (tokenizer, load_tokenizer(tmp_path)):
        assert [either.encode(text) for text in EXPECTED["texts"]] == EXPECTED["ids"][name]
        assert either.eos_ids == (2, 0)
        assert either.pad_id == 2
        assert either.bos_id == (1 if name == "llama-bpe" else None)
        assert either.chat([{"role": "user", "content": "hi"}]) == [1, *either.encode("hi"), 2]
        assert either.decode([1, *either.encode("hi"), 2]) == "hi"


def test_the_default_pre_tokenizer_cuts_digits_in_threes_and_punctuation_apart() -> None:
    def pieces(pre: str, text: str) -> list[str]:
        tokenizer = read_vocabulary(bpe_metadata("gpt-2", pre), Path("model.gguf"))
        return [tokenizer.decode([i]) for i in tokenizer.encode(text)]

    assert pieces("gpt-2", " 1234567") == [" 12", "3456", "7"]
    assert pieces("default", " 1234567") == [" ", "12", "3", "4", "56", "7"]
    assert pieces("gpt-2", "it's") == ["i", "t", "'s"]
    assert pieces("default", "it's") == ["i", "t", "'", "s"]


def test_ids_beyond_the_vocabulary_mean_none() -> None:
    none = {f"tokenizer.ggml.{name}_token_id": 2**32 - 1 for name in ("bos", "padding", "eot")}
    tokenizer = read_vocabulary(bpe_metadata("gpt-2", "llama-bpe") | none, Path())
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (None, (2,), 2)


def test_add_bos_token_takes_precedence_over_the_default() -> None:
    metadata = bpe_metadata("gpt-2", "gpt-2")
    assert read_vocabulary(metadata, Path()).bos_id is None
    assert read_vocabulary(metadata | {"tokenizer.ggml.add_bos_token": True}, Path()).bos_id == 1
    llama = metadata | {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}
    assert read_vocabulary(llama, Path()).bos_id is None


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_vocabularies_give_its_own_ids(prefix: bool, tmp_path: Path) -> None:
    texts = [text for text in EXPECTED["texts"] if "<|" not in text]
    texts += [
        "seven and five make twelve, and twelve and five",
        "the naïve café of the café",
        "a+b=c, b+c=d, and so on",
    ]
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=stream,
        model_type="bpe",
        vocab_size=430,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        user_defined_symbols=["<think>"],
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=stream.getvalue())
    ids = range(model.vocab_size())
    kinds = {model.is_unknown: TokenType.UNKNOWN, model.is_control: TokenType.CONTROL, model.is_byte: TokenType.BYTE}
    types = [int(next((kind for test, kind in kinds.items() if test(i)), TokenType.NORMAL)) for i in ids]
    types[model.piece_to_id("<think>")] = int(TokenType.USER_DEFINED)
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [model.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    tokenizer = read_vocabulary(metadata, Path("model.gguf"))
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    if not prefix:  # with one, llama.cpp prefixes what follows <think>, and SentencePiece what stands before it
        texts.append("five <think>seven</think>")
    for text in [*texts, "nineevenne cafés, \x00 and 七 unseen"]:
        assert tokenizer.encode(text) == again.encode(text) == model.encode(text), text
        assert tokenizer.decode(model.encode(text)) == model.decode(model.encode(text)) == text
    assert tokenizer.encode("</s>") == [model.eos_id()]
    assert again.bos_id == tokenizer.bos_id == model.bos_id()


def test_a_gguf_file_exports_as_a_huggingface_folder(tmp_path: Path) -> None:
    model = load_gguf(write_fixture("llama_tied", tmp_path / "model.gguf"))
    save_huggingface(model, tmp_path / "export")
    again = load_huggingface(tmp_path / "export")
    assert again.config == model.config
    original = load_huggingface(FIXTURES / "llama_tied")
    jax.tree.map(np.testing.assert_array_equal, again.params, original.params)
    assert again.tokenizer.chat([{"role": "user", "content": "ab<pad>"}]) == [127, 2, 1]
