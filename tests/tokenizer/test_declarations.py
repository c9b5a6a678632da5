"""Declarations in a tokenizer's config files: read as in transformers, kept on save, refused if inconsistent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
import tokenizers
from gguf import TokenType

import r1jax
from r1jax.data.text.template import TEMPLATES
from r1jax.errors import UserError
from r1jax.rewards.completions import completions_from_samples
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import Samples
from r1jax.sampling.slots import END, LENGTH
from r1jax.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer
from tests.helpers.paths import FIXTURES
from tests.helpers.tokenizers import TAGS, of_gguf, pieces

COMPLETION = "seven</think><answer>12</answer>"


def words(tmp_path: Path, *added: dict[str, Any], vocabulary: dict[str, int] | None = None, **files: Any) -> Path:
    """A tokenizer.json of printable ASCII (ids 0 to 94), <eos> 95 and <s> 96, with added tokens and other files."""
    vocabulary = vocabulary or {chr(33 + i): i for i in range(94)} | {"Ġ": 94, "<eos>": 95, "<s>": 96}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    for token in added:
        backend.add_tokens([tokenizers.AddedToken(normalized=False, **token)])
    tmp_path.mkdir(parents=True, exist_ok=True)
    backend.save(str(tmp_path / "tokenizer.json"))
    for name, value in {"tokenizer_config": {"eos_token": "<eos>"}, **files}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return tmp_path


def saved(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    tokenizer.save(folder)
    return load_tokenizer(folder)


KINDS: dict[str, Callable[[Path], Tokenizer]] = {
    "json": lambda at: load_tokenizer(words(at, *({"content": tag, "special": True} for tag in TAGS))),
    "sentencepiece": lambda at: load_tokenizer(pieces(at, control_symbols=TAGS)),
    "sentencepiece without legacy": lambda at: load_tokenizer(pieces(at, {"legacy": False}, control_symbols=TAGS)),
    "gguf": lambda at: of_gguf(TokenType.CONTROL),
    "gguf user-defined": lambda at: of_gguf(TokenType.USER_DEFINED),
    "end token not special": lambda at: load_tokenizer(words(at, {"content": "<eos>", "special": False})),
    "end token an ordinary word": lambda at: load_tokenizer(
        words(at, tokenizer_config={}, generation_config={"eos_token_id": 95})
    ),
    "end piece user-defined": lambda at: load_tokenizer(
        pieces(at, {"eos_token": "<eos>"}, user_defined_symbols=["<eos>", *TAGS])
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", [False, True])
def test_rewards_read_tags_that_are_control_tokens_and_no_end_token(kind: str, again: bool, tmp_path: Path) -> None:
    tokenizer = KINDS[kind](tmp_path / "given")
    tokenizer = saved(tokenizer, tmp_path / "saved") if again else tokenizer
    ids = [*tokenizer.encode(COMPLETION), tokenizer.eos_ids[0]]
    rows, lengths = jnp.array([ids, [*ids[:-1], tokenizer.pad_id]]), jnp.array([len(ids), len(ids) - 1])
    none = jnp.zeros(rows.shape)
    samples = Samples(rows, lengths, jnp.array([END, LENGTH]), none, none, jnp.array(0))
    template = TEMPLATES["think"]
    for completion in completions_from_samples(samples, tokenizer, template, Sampling(max_tokens=99)):
        assert template.well_formed(completion.text)
        assert "".join(completion.text.split()) == "<think>" + COMPLETION
        assert completion.answer == "12"


def test_control_tokens_that_are_no_tags_are_left_out_of_texts(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(words(tmp_path, {"content": "<x>", "special": True}, {"content": "<y>"}))
    assert tokenizer.decode(tokenizer.encode("a<x>b<y>c<eos><s>")) == "ab<y>c<s>"


@pytest.mark.parametrize("added", [False, True])
def test_the_highest_id_decides_whether_a_model_holds_a_vocabulary(added: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "llama_tied", folder)  # 128 rows
    state = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = state["model"]["vocab"]
    if added:  # the next free id, which the library gives itself
        state["added_tokens"].append({**state["added_tokens"][-1], "content": "<new>", "id": 128})
    else:
        vocabulary["~"] = 200
    highest = 128 if added else 200
    (folder / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == highest + 1
    assert tokenizer.encode("<new>" if added else "~") == [highest]
    with pytest.raises(UserError, match=f"ids go up to {highest} and the model has 128 rows"):
        r1jax.load(folder)


def entry(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "special": True, "normalized": False, **flags}


@pytest.mark.parametrize(
    ("config", "text", "id"),
    [
        ({"eos_token": "<eos>", "added_tokens_decoder": {"95": entry("<eos>")}}, "<eos>", 95),
        ({"eos_token": "<end>", "added_tokens_decoder": {"97": entry("<end>")}}, "<end>", 97),
        ({"eos_token": {"content": "<eos>"}}, "<eos>", 95),
        ({"eos_token": "<eos>", "bos_token": "<s>"}, "<s>", 96),
        ({"eos_token": "<eos>", "additional_special_tokens": ["<s>"]}, "<s>", 96),
        ({"eos_token": "<eos>", "extra_special_tokens": {"other_token": "<s>"}}, "<s>", 96),
        ({"eos_token": "<eos>", "added_tokens_decoder": {"97": entry("<t>", special=False)}}, "<t>", 97),
    ],
)
def test_declared_tokens_are_cut_as_one(config: dict[str, Any], text: str, id: int, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(words(tmp_path / "a", tokenizer_config=config))
    for either in (tokenizer, saved(tokenizer, tmp_path / "b")):
        assert either.encode(f"a{text}b") == [64, id, 65]
        assert either.eos_ids == (97 if "<end>" in str(config) else 95,)


def test_control_tokens_that_a_gguf_file_marks_as_ordinary_words_are_cut_as_one(tmp_path: Path) -> None:
    tokenizer = of_gguf(TokenType.CONTROL, **{"tokenizer.ggml.token_type": [int(TokenType.NORMAL)] * 262})
    for either in (tokenizer, saved(tokenizer, tmp_path)):
        assert either.encode("<eos>1<s>") == [260, ord("1"), 261] and either.decode([261, ord("1"), 260]) == "1"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eos_token": "<gone>"}, "eos_token '<gone>' has no id"),
        ({"eos_token": "<eos>", "bos_token": "<gone>", "add_bos_token": True}, "bos_token '<gone>' has no id"),
        (
            {"eos_token": "<eos>", "bos_token": "<gone>", "chat_template": "{{ bos_token }}"},
            "bos_token '<gone>' has no id",
        ),
        ({"eos_token": "<eos>", "added_tokens_decoder": {"105": entry("<t>")}}, "'<t>' is declared with id 105"),
        ({"eos_token": "<eos>", "added_tokens_decoder": {"x": entry("<t>")}}, "added tokens cannot be read"),
        ({"eos_token": "<eos>", "added_tokens_decoder": [1]}, "added tokens cannot be read"),
        ({"eos_token": 5}, "token 5 is not text"),
        ({"eos_token": "<eos>", "additional_special_tokens": [["<s>"]]}, "is not text"),
        ({"eos_token": "<eos>", "chat_template": [{"name": "a"}]}, "entry without name or template"),
        ({"eos_token": "<eos>", "chat_template": 5}, "chat_template is int"),
    ],
)
def test_declarations_that_cannot_hold_are_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(words(tmp_path, tokenizer_config=config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ids", [400, [95, 400], "95", [True]])
def test_end_ids_outside_of_the_vocabulary_are_refused(ids: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id .* is not in the vocabulary"):
        load_tokenizer(words(tmp_path / "a", generation_config={"eos_token_id": ids}))
    with pytest.raises(UserError, match=r"config\.json: eos_token_id .* is not in the vocabulary"):
        folder = pieces(tmp_path / "b")
        (folder / "config.json").write_text(json.dumps({"eos_token_id": ids}))
        load_tokenizer(folder)


@pytest.mark.parametrize("declared", [True, False, None])
@pytest.mark.parametrize("adds", [True, False])
def test_a_save_keeps_add_bos_token(declared: bool | None, adds: bool, tmp_path: Path) -> None:
    config = {"eos_token": "<eos>", "bos_token": "<s>"} | ({} if declared is None else {"add_bos_token": declared})
    folder = words(tmp_path / "a", tokenizer_config=config)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    single = "<s> $A <eos>" if adds else "$A <eos>"
    special = [("<s>", 96), ("<eos>", 95)]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single=single, special_tokens=special)
    backend.save(str(folder / "tokenizer.json"))
    expected = 96 if (adds if declared is None else declared) else None
    tokenizer = load_tokenizer(folder)
    assert tokenizer.bos_id == expected
    again = saved(tokenizer, tmp_path / "b")
    assert again.bos_id == expected and saved(again, tmp_path / "c").bos_id == expected
    # Readers of tokenizer.json alone add the same token, and the end token as before.
    written = tokenizers.Tokenizer.from_file(str(tmp_path / "b" / "tokenizer.json")).encode("a").ids
    assert written == [*([96] if expected else []), 64, 95]
    assert json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())["add_bos_token"] is (expected is not None)


@pytest.mark.parametrize("declared", [True, False])
def test_a_save_keeps_add_bos_token_of_other_vocabularies(declared: bool, tmp_path: Path) -> None:
    for i, tokenizer in enumerate(
        [
            load_tokenizer(pieces(tmp_path / "a", {"add_bos_token": declared})),
            of_gguf(TokenType.CONTROL, **{"tokenizer.ggml.add_bos_token": declared}),
        ]
    ):
        again = saved(tokenizer, tmp_path / f"{i}")
        assert again.bos_id == tokenizer.bos_id and (again.bos_id is not None) == declared


TEXTS = ["<s>[ seven", "seven", "<x> seven", "<s>seven</s>five", "<s> [ 7</s>\n[", "seven<x>[ five", "<s>", ""]


@pytest.mark.parametrize("config", [{"legacy": False}, {"legacy": False, "add_prefix_space": False}])
def test_without_legacy_a_text_behind_a_control_token_has_no_prefix(config: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(pieces(tmp_path / "a", config, control_symbols=["<x>"]))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    model = tokenizer.backend
    bare = {"<s>": [1], "</s>": [2], "<x>": [4]}

    def behind(text: str) -> list[int]:  # "7" is joined with nothing here
        return model.encode("7" + text)[len(model.encode("7")) :]

    for either in (tokenizer, saved(tokenizer, tmp_path / "b")):
        assert [either.encode(text) for text in TEXTS] == [
            [*bare["<s>"], *behind("[ seven")],
            model.encode("seven") if config.get("add_prefix_space", True) else behind("seven"),
            [*bare["<x>"], *behind(" seven")],
            [*bare["<s>"], *behind("seven"), *bare["</s>"], *behind("five")],
            [*bare["<s>"], *behind(" [ 7"), *bare["</s>"], *behind("\n[")],
            [*either.encode("seven"), *bare["<x>"], *behind("[ five")],
            [1],
            [],
        ]
        # As transformers 5.24 has it.
        assert either.encode("<s>[") == [1, model.piece_to_id("[")]
        for text in TEXTS:
            plain = text.replace("<s>", "").replace("</s>", "").replace("<x>", "")
            assert either.decode(either.encode(text)) == plain
    written = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert written["legacy"] is False and written["add_prefix_space"] is config.get("add_prefix_space", True)


def test_with_legacy_a_text_behind_a_control_token_is_one_of_its_own(tmp_path: Path) -> None:
    for i, config in enumerate(({}, {"legacy": True}, {"legacy": None, "add_prefix_space": True})):
        tokenizer = load_tokenizer(pieces(tmp_path / f"a{i}", config))
        assert isinstance(tokenizer, SentencePieceTokenizer)
        for either in (tokenizer, saved(tokenizer, tmp_path / f"b{i}")):
            assert either.encode("<s>[ seven") == [1, *tokenizer.backend.encode("[ seven")]
            assert either.decode(either.encode("five<s>seven")) == "fiveseven"
    tokenizer = load_tokenizer(pieces(tmp_path / "c", {"legacy": True, "add_prefix_space": False}))
    assert tokenizer.encode("<s>[") == [1, *tokenizer.encode("[")] and len(tokenizer.encode("[")) == 1


def test_unknown_characters_are_not_lost_without_a_prefix(tmp_path: Path) -> None:
    folder = pieces(tmp_path, {"legacy": False, "add_prefix_space": False}, byte_fallback=False, character_coverage=1.0)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("<s>七seven")[:2] == [1, 0] and tokenizer.encode("七") == [0]


@pytest.mark.parametrize("kind", ["json", "sentencepiece"])
def test_a_save_keeps_what_others_declare(kind: str, tmp_path: Path) -> None:
    eos = {"content": "<eos>", "lstrip": False, "rstrip": False, "normalized": False, "__type": "AddedToken"}
    config = {
        "eos_token": eos if kind == "json" else "</s>",
        "unk_token": "<s>",
        "model_max_length": 4096,
        "padding_side": "left",
        "clean_up_tokenization_spaces": True,
        "additional_special_tokens": ["<s>"],
        "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
        "auto_map": {"AutoTokenizer": ["code.Own", None]},
    }
    generation = {"temperature": 0.6, "top_p": 0.95, "do_sample": True, "bos_token_id": 7, "eos_token_id": [2, 5]}
    make = words if kind == "json" else pieces
    folder = make(tmp_path / "a")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = load_tokenizer(folder)
    for name in ("b", "c"):
        tokenizer = saved(tokenizer, tmp_path / name)
        written = json.loads((tmp_path / name / "tokenizer_config.json").read_text())
        assert {k: written[k] for k in config if k != "auto_map"} == {
            k: v for k, v in config.items() if k != "auto_map"
        }
        assert "auto_map" not in written  # names code that is not copied
        sampling = json.loads((tmp_path / name / "generation_config.json").read_text())
        own = {k: sampling[k] for k in ("temperature", "top_p", "do_sample")}
        assert own == {"temperature": 0.6, "top_p": 0.95, "do_sample": True}
        assert sampling["eos_token_id"] == list(tokenizer.eos_ids) and 5 in tokenizer.eos_ids
        assert tokenizer.chat_template == "d"


def test_an_export_of_a_gguf_vocabulary_names_its_unknown_token(tmp_path: Path) -> None:
    of_gguf(TokenType.CONTROL, **{"tokenizer.ggml.unknown_token_id": ord("$")}).save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["unk_token"] == "$"


def test_tokens_beside_a_tokenizer_model_are_refused(tmp_path: Path) -> None:
    for id, text in (("900", "<extra>"), ("2", "<other>")):
        with pytest.raises(UserError, match=f"adds '{text}' to tokenizer.model as id {id}"):
            load_tokenizer(pieces(tmp_path, {"added_tokens_decoder": {id: entry(text)}}))
    load_tokenizer(pieces(tmp_path, {"added_tokens_decoder": {"2": entry("</s>")}}))
