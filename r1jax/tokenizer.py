"""One protocol for every tokenizer, its chat template included, and how each kind is read and saved."""

from __future__ import annotations

import abc
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
import tokenizers
from tokenizers import AddedToken

from r1jax.chat import Rendered, render
from r1jax.chat import render_chat as render_chat
from r1jax.errors import UserError


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tokens included; the model's own vocabulary may be larger."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Id that the model expects before a plain text; None where it was trained without one."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a generation, at least one; the first is the tokenizer's own end token."""
        ...

    @property
    def pad_id(self) -> int:
        """The declared padding id, else an end id."""
        ...

    @property
    def chat_template(self) -> str | None:
        """Jinja source that turns messages into a prompt."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of text: neither bos nor eos is added, and the strings of control tokens become their ids."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without control tokens."""
        ...

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> Rendered:
        """Text of messages (dicts of "role" and "content") in the chat template.

        Raises UserError where there is no template or the template refuses the messages.
        """
        ...

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Ids of what ``render`` gives."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes the files from which load_tokenizer reads the same tokenizer."""
        ...


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _Declared(abc.ABC):
    """What a tokenizer declares beside its vocabulary."""

    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int
    bos_token: str = ""  # what chat templates call so, also where bos_id is None
    chat_template: str | None = None

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]: ...

    @abc.abstractmethod
    def token(self, id: int) -> str:
        """String of one id."""

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> Rendered:
        """Text of messages in the chat template: Tokenizer.render."""
        if self.chat_template is None:
            raise UserError(
                "this tokenizer has no chat template: use a plain prompt, or put chat_template into its "
                "tokenizer_config.json"
            )
        eos_token = self.token(self.eos_ids[0])
        return render(self.chat_template, messages, self.bos_token, eos_token, add_generation_prompt)

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> list[int]:
        """Ids of messages in the chat template: Tokenizer.chat."""
        return self.encode(self.render(messages, add_generation_prompt).text)

    def save_declarations(self, folder: Path, tokenizer_class: str, **more: Any) -> None:
        """Writes tokenizer_config.json, and generation_config.json: only there can several end ids stand."""
        config = {
            "tokenizer_class": tokenizer_class,
            "bos_token": self.bos_token or None,
            "eos_token": self.token(self.eos_ids[0]),
            "pad_token": self.token(self.pad_id),
            "clean_up_tokenization_spaces": False,
            **more,
        }
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        _write_json(folder / "tokenizer_config.json", config)
        eos = self.eos_ids[0] if len(self.eos_ids) == 1 else list(self.eos_ids)
        ids = {"bos_token_id": self.bos_id, "eos_token_id": eos, "pad_token_id": self.pad_id}
        _write_json(folder / "generation_config.json", {k: v for k, v in ids.items() if v is not None})


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class JsonTokenizer(_Declared):
    """A tokenizer.json, or anything else that the tokenizers library can hold."""

    backend: tokenizers.Tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids: Tokenizer.vocab_size."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of text: Tokenizer.encode."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids: Tokenizer.decode."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def token(self, id: int) -> str:
        """String of one id."""
        return self.backend.id_to_token(id) or ""

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and generation_config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.backend.save(str(Path(folder) / "tokenizer.json"))
        self.save_declarations(Path(folder), "PreTrainedTokenizerFast")


class ByteTokenizer(JsonTokenizer):
    """Id = byte of the UTF-8 text; then <bos> 256, <eos> 257, <pad> 258: for toys and tests. It saves as JSON."""

    def __init__(self, chat_template: str | None = None) -> None:
        # Without merges, byte-level BPE is the identity; it names each byte by one printable character.
        vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = tokenizers.decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<bos>", "<eos>", "<pad>")])
        backend.post_processor = bos_processor("<bos>", 256)
        super().__init__(
            backend=backend, bos_id=256, bos_token="<bos>", eos_ids=(257,), pad_id=258, chat_template=chat_template
        )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SentencePieceTokenizer(_Declared):
    """A tokenizer.model."""

    backend: sentencepiece.SentencePieceProcessor

    @property
    def vocab_size(self) -> int:
        """Number of pieces: Tokenizer.vocab_size."""
        return self.backend.vocab_size()

    @functools.cached_property
    def _controls(self) -> dict[str, int]:
        # SentencePiece itself never matches these in a text.
        ids = range(self.backend.vocab_size())
        return {self.backend.id_to_piece(i): i for i in ids if self.backend.is_control(i)}

    @functools.cached_property
    def _cuts(self) -> re.Pattern[str]:
        names = sorted(self._controls, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Ids of text: Tokenizer.encode."""
        ids: list[int] = []
        for part in self._cuts.split(text):
            ids += [self._controls[part]] if part in self._controls else self.backend.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids: Tokenizer.decode; ids that a larger model vocabulary adds have none."""
        return self.backend.decode([int(i) for i in ids if i < self.backend.vocab_size()])

    def token(self, id: int) -> str:
        """Piece of one id."""
        return self.backend.id_to_piece(id)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.model, tokenizer_config.json and generation_config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "tokenizer.model").write_bytes(self.backend.serialized_model_proto())
        # transformers does not read these two from the model itself. Its LlamaTokenizer is exact for BPE models alone.
        prefix = self.backend.encode_as_pieces("a")[0].startswith("▁")
        adds_bos = self.bos_id is not None
        self.save_declarations(
            Path(folder), "LlamaTokenizer", add_bos_token=adds_bos, add_prefix_space=prefix, legacy=True
        )


def byte_characters() -> list[str]:
    """The printable character by which byte-level BPE names each byte, in byte order (GPT-2's convention)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = {byte: 256 + i for i, byte in enumerate(sorted(set(range(256)) - set(kept)))}
    return [chr(moved.get(byte, byte)) for byte in range(256)]


def bos_processor(token: str, id: int) -> tokenizers.processors.TemplateProcessing:
    """What makes a tokenizer.json put a token before each text."""
    return tokenizers.processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, id)]
    )


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads a folder's tokenizer.json, else its tokenizer.model.

    Raises UserError where it has neither, one is damaged, or no end token is declared.
    """
    folder = Path(folder)
    if (file := folder / "tokenizer.json").is_file():
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{file} is no readable tokenizer.json ({error}): replace it") from error
        backend.no_truncation()
        backend.no_padding()
        plain, full = (backend.encode("a", add_special_tokens=added).ids for added in (False, True))
        own = {"bos": backend.id_to_token(full[0])} if full[:1] != plain[:1] else {}
        return JsonTokenizer(backend=backend, **_read_declarations(folder, backend.token_to_id, own))
    if (file := folder / "tokenizer.model").is_file():
        model = sentencepiece.SentencePieceProcessor()
        try:
            model.LoadFromSerializedProto(file.read_bytes())
        except Exception as error:  # RuntimeError, or the binding's own types
            raise UserError(f"{file} is no readable SentencePiece model: replace it") from error

        def id_of(piece: str) -> int | None:
            id = model.piece_to_id(piece)
            return None if id == model.unk_id() else id

        beyond = [t for t, id in _read_json(folder / "added_tokens.json").items() if id >= model.vocab_size()]
        if beyond:
            raise UserError(
                f"{folder}/added_tokens.json adds {beyond[0]!r} to tokenizer.model: save the tokenizer from "
                "transformers as tokenizer.json, which holds both"
            )
        ids = {"bos": model.bos_id(), "eos": model.eos_id(), "pad": model.pad_id()}
        own = {name: model.id_to_piece(id) for name, id in ids.items() if id >= 0}
        return SentencePieceTokenizer(backend=model, **_read_declarations(folder, id_of, own))
    raise UserError(f"{folder} holds no tokenizer.json and no tokenizer.model: copy one there")


def _read_declarations(
    folder: Path, id_of: Callable[[str], int | None], own: Mapping[str, str | None]
) -> dict[str, Any]:
    """Fields of _Declared; ``own`` holds the bos, eos and pad tokens that the vocabulary itself declares or adds."""
    config = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
    declared = {name: _content(config.get(f"{name}_token")) or own.get(name) for name in ("bos", "eos", "pad")}
    ids = {name: None if token is None else id_of(token) for name, token in declared.items()}

    ends = [ids["eos"]]
    for name in ("generation_config.json", "config.json"):
        value = _read_json(folder / name).get("eos_token_id")
        ends += value if isinstance(value, list) else [value]
    eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
    if not eos_ids:
        raise UserError(f"{folder}: no end token is declared: put eos_token into its tokenizer_config.json")

    # The vocabulary's own habit decides, unless the config says otherwise: SmolLM2 declares a bos and never adds it.
    adds_bos = config.get("add_bos_token", "bos" in own)
    return {
        "bos_id": ids["bos"] if adds_bos else None,
        "bos_token": declared["bos"] or "",
        "eos_ids": eos_ids,
        "pad_id": eos_ids[0] if ids["pad"] is None else ids["pad"],
        "chat_template": _chat_template(folder, config.get("chat_template")),
    }


def _chat_template(folder: Path, configured: str | list[dict[str, str]] | None) -> str | None:
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(configured, list):
        named = {t["name"]: t["template"] for t in configured}
        return named.get("default") or next(iter(named.values()), None)
    return configured


def _content(token: str | dict[str, Any] | None) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is no valid JSON ({error}): replace it") from error


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
