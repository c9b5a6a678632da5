"""Tokenizers against the results of transformers and SentencePiece, and before and after a save."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from r1jax.errors import UserError
from r1jax.tokenizer import ByteTokenizer, JsonTokenizer, SentencePieceTokenizer, Tokenizer, byte_pieces, load_tokenizer
from tests.helpers.paths import FIXTURES
from tests.helpers.tokenizers import EXPECTED


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model trained on a few lines, with a control and a user-defined piece."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            ["seven and five make twelve", "<think> 7 + 5 = 12 </think>", "add the two numbers"] * 9
        ),
        model_writer=model,
        model_type="unigram",
        vocab_size=320,
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=3,
        control_symbols=["<|im", "<|im_start|>"],  # one begins the other
        user_defined_symbols=["<think>"],
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def test_bytes_are_their_own_ids() -> None:
    tokenizer = ByteTokenizer()
    text = "a é 七 \x00\n"
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.encode("1<eos>") == [ord("1"), *tokenizer.eos_ids]
    assert tokenizer.vocab_size == 259


@pytest.mark.parametrize("name", sorted(EXPECTED["ids"]))
def test_json_gives_the_ids_of_transformers(name: str) -> None:
    tokenizer = load_tokenizer(FIXTURES / "tokenizers" / name)
    assert [tokenizer.encode(text) for text in EXPECTED["texts"]] == EXPECTED["ids"][name]


def test_decode_inverts_encode_but_for_control_tokens() -> None:
    tokenizer = load_tokenizer(FIXTURES / "tokenizers" / "gpt-2")
    for text in EXPECTED["texts"]:
        plain = text.replace("<|im_start|>", "").replace("<|im_end|>", "").replace("<|endoftext|>", "")
        assert tokenizer.decode(tokenizer.encode(text)) == plain


@pytest.mark.parametrize("kind", [*sorted(EXPECTED["ids"]), "sentencepiece", "mixtral", "bytes"])
def test_many_texts_are_decoded_as_one_by_one(
    kind: str, sentencepiece_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also ids of no text: parts of characters, control tokens, and ids that only the model has."""
    folders = {"sentencepiece": sentencepiece_folder, "mixtral": FIXTURES / "mixtral"}
    folder = folders.get(kind, FIXTURES / "tokenizers" / kind)
    tokenizer = ByteTokenizer() if kind == "bytes" else load_tokenizer(folder)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, tokenizer.vocab_size + 9, rng.integers(0, 30)) for _ in range(300)]
    rows += [np.array(tokenizer.encode(text), np.int64) for text in EXPECTED["texts"]]
    want = [tokenizer.decode(row.tolist()) for row in rows]
    assert tokenizer.decode_batch(rows) == want and tokenizer.decode_batch([]) == []
    monkeypatch.setattr(byte_pieces, "_PART", 40)  # several parts, some of one row
    assert tokenizer.decode_batch(rows) == want


def test_ids_that_only_the_model_has_decode_to_nothing(sentencepiece_folder: Path) -> None:
    for tokenizer in (ByteTokenizer(), load_tokenizer(sentencepiece_folder)):
        ids = tokenizer.encode("seven")
        assert tokenizer.decode([*ids, tokenizer.vocab_size + 7]) == "seven"


def test_sentencepiece_gives_its_own_ids(sentencepiece_folder: Path) -> None:
    tokenizer = load_tokenizer(sentencepiece_folder)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    for text in ("seven and five", "<think> 12 </think>", "é 七", ""):
        assert tokenizer.encode(text) == reference.encode(text)
        assert tokenizer.decode(reference.encode(text)) == text
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (1, (2,), 3)
    assert tokenizer.vocab_size == reference.vocab_size()


def test_control_strings_become_ids_in_sentencepiece(sentencepiece_folder: Path) -> None:
    tokenizer = load_tokenizer(sentencepiece_folder)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    start = tokenizer.backend.piece_to_id("<|im_start|>")
    ids = tokenizer.encode("<|im_start|>five</s>")
    assert ids == [start, *tokenizer.backend.encode("five"), 2]
    assert tokenizer.decode(ids) == "five"


def some_tokenizers(sentencepiece_folder: Path) -> list[Tokenizer]:
    chat = load_tokenizer(FIXTURES / "qwen3")
    assert isinstance(chat, JsonTokenizer) and len(chat.eos_ids) == 2
    names = sorted(EXPECTED["ids"])
    return [
        ByteTokenizer("{{ messages[0].content }}"),
        chat,
        load_tokenizer(sentencepiece_folder),
        *(load_tokenizer(FIXTURES / "tokenizers" / name) for name in names),
    ]


def test_save_and_load_keep_everything(sentencepiece_folder: Path, tmp_path: Path) -> None:
    for i, tokenizer in enumerate(some_tokenizers(sentencepiece_folder)):
        tokenizer.save(tmp_path / str(i))
        again = load_tokenizer(tmp_path / str(i))
        for text in EXPECTED["texts"]:
            assert again.encode(text) == tokenizer.encode(text)
            assert again.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))
        for field in ("vocab_size", "bos_id", "eos_ids", "pad_id", "chat_template", "bos_token"):
            assert getattr(again, field) == getattr(tokenizer, field), field


def edited(tmp_path: Path, **files: dict) -> Path:
    """The llama_tied fixture's tokenizer with some JSON files replaced."""
    folder = tmp_path / "edited"
    shutil.copytree(FIXTURES / "llama_tied", folder)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_end_ids_come_from_every_declaration(tmp_path: Path) -> None:
    folder = edited(
        tmp_path,
        tokenizer_config={"eos_token": {"content": "<|im_end|>"}},
        generation_config={"eos_token_id": [5, 4]},
        config={"eos_token_id": 1},
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_ids == (4, 5, 1)  # the tokenizer's own first
    assert tokenizer.pad_id == 4  # none is declared
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").write_text('{"eos_token": "</s>", "pad_token": "<pad>"}')
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_ids == (1, 5, 4)
    assert tokenizer.pad_id == 2


def test_bos_is_there_only_where_the_tokenizer_adds_it(tmp_path: Path) -> None:
    declared = {"eos_token": "</s>", "bos_token": "<s>"}
    folder = edited(tmp_path, tokenizer_config=declared)
    assert load_tokenizer(folder).bos_id == 0  # its tokenizer.json adds one
    (folder / "tokenizer_config.json").write_text(json.dumps({**declared, "add_bos_token": False}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.bos_id is None
    assert isinstance(tokenizer, JsonTokenizer) and tokenizer.bos_token == "<s>"  # still there for the template


def test_template_is_found_where_transformers_keeps_it(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    folder = edited(tmp_path, tokenizer_config={"eos_token": "</s>", "chat_template": named})
    assert load_tokenizer(folder).chat_template == (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    assert load_tokenizer(folder).chat_template == "plain"
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>", "chat_template": "only"}')
    assert load_tokenizer(folder).chat_template == "only"


def test_json_is_preferred_to_sentencepiece(sentencepiece_folder: Path, tmp_path: Path) -> None:
    folder = edited(tmp_path)
    shutil.copy(sentencepiece_folder / "tokenizer.model", folder)
    assert isinstance(load_tokenizer(folder), JsonTokenizer)


def test_errors_name_the_file(sentencepiece_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no tokenizer\.json and no tokenizer\.model"):
        load_tokenizer(tmp_path)

    nameless = edited(tmp_path, tokenizer_config={}, generation_config={}, config={})
    with pytest.raises(UserError, match="no end token is declared"):
        load_tokenizer(nameless)
    (nameless / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        load_tokenizer(nameless)
    (nameless / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"edited/tokenizer\.json is not a readable"):
        load_tokenizer(nameless)

    folder = tmp_path / "model"
    shutil.copytree(sentencepiece_folder, folder)
    (folder / "added_tokens.json").write_text('{"<extra>": 32000}')
    with pytest.raises(UserError, match="adds '<extra>'"):
        load_tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"tokenizer\.model is not a readable"):
        load_tokenizer(folder)
