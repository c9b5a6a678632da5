"""Vocabularies of GGUF files, compared with the tokenizers that they come from."""

from __future__ import annotations

import functools
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf import TokenType
from tokenizers import Regex, pre_tokenizers

from r1jax.tokenizer import load_tokenizer
from r1jax.tokenizer.gguf_vocabulary import read_vocabulary
from r1jax.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from tests.helpers.paths import FIXTURES
from tests.helpers.tokenizers import EXPECTED


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("12345 + 6", ["123", "45", " +", " ", "6"]),
        ("it's (so) far", ["it", "'s", " (", "so", ")", " far"]),
        ("x=$a\n\n b", ["x", "=$", "a", "\n\n", " b"]),
        ("_name.py", ["_name", ".py"]),
        ("数学 ひらカタ8", ["数学", " ", "ひらカタ", "8"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
    ],
)
def test_the_words_of_deepseek_v3(text: str, words: list[str]) -> None:
    assert words_of("deepseek-v3", text) == words


@pytest.mark.parametrize("pre", ["deepseek-llm", "deepseek-coder"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("12 + x\n\n y", ["1", "2", " +", " x", "\n", "\n", " y"]),
        ("it's (so)  far ", ["it", "'", "s", " (", "so", ")", " ", " far", " "]),
        ("a数学ひら한8", ["a", "数学ひら한", "8"]),
        # The range of Chinese characters begins at U+0800, and splits the space from the quotation mark.
        ("= \u201ex\u201c \u2018y\u2019。", ["=", " ", "\u201e", "x", "\u201c", " ", "\u2018", "y", "\u2019。"]),
    ],
)
def test_the_words_of_earlier_deepseek_models(pre: str, text: str, words: list[str]) -> None:
    assert words_of(pre, text) == words


def test_deepseek_llm_and_coder_differ_in_letters_and_symbols() -> None:
    """Enumerated letters and ASCII symbols, and Unicode's letters and punctuation."""
    for text, llm, coder in (
        ("x =+", ["x", " =+"], ["x", " =+"]),
        ("= $(", ["=", " $("], ["= $", "("]),
        ("\u05d0\u05d1\u05d2 \u0431", ["\u05d0\u05d1\u05d2", " \u0431"], ["\u05d0\u05d1\u05d2", " \u0431"]),
        ("\u2460 \u05d0", ["\u2460", " \u05d0"], ["\u2460", " \u05d0"]),
        ("1\u05d0 \u05d1", ["1", "\u05d0 \u05d1"], ["1", "\u05d0", " \u05d1"]),
    ):
        assert (words_of("deepseek-llm", text), words_of("deepseek-coder", text)) == (llm, coder)


def test_the_letters_of_deepseek_llm_have_case() -> None:
    """All those since Unicode 3.2 but two blocks, and none that has no case in the present Unicode."""
    split = pre_tokenizers.Split(Regex(PRE_TOKENIZERS["deepseek-llm"][1]), behavior="isolated")
    absent = [*range(0x561, 0x588), *range(0x1D400, 0x1D7CC)]  # Armenian small letters, mathematical letters
    for code in [*range(0xD800), *range(0xE000, 0x1E944)]:
        letter = chr(code)
        now, then = (version.category(letter) in ("Lu", "Ll", "Lt") for version in (unicodedata, unicodedata.ucd_3_2_0))
        found = len(split.pre_tokenize_str(f"1 {letter}")) == 2
        assert now if found else not (now and then) or code in absent, hex(code)
    assert words_of("deepseek-llm", "café") == ["caf", "é"]  # the pattern of punctuation has ASCII letters


def words_of(pre: str, text: str) -> list[str]:
    backend = pre_tokenizer(pre)
    return [text[begin:end] for _, (begin, end) in backend.pre_tokenize_str(text)]


@functools.cache
def pre_tokenizer(pre: str) -> Any:
    return read_vocabulary(bpe_metadata("gpt-2", pre), Path("model.gguf")).backend.pre_tokenizer


def test_ids_beyond_the_vocabulary_mean_none() -> None:
    none = {f"tokenizer.ggml.{name}_token_id": 2**32 - 1 for name in ("bos", "padding", "eot")}
    tokenizer = read_vocabulary(bpe_metadata("gpt-2", "llama-bpe") | none, Path())
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (None, (2,), 2)


def test_a_declared_add_bos_token_overrides_the_default() -> None:
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
