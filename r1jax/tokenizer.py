"""One protocol for every tokenizer, its chat template included, and how each kind is read and saved."""

from __future__ import annotations

import abc
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
import tokenizers
from tokenizers import AddedToken

from r1jax.chat import Rendered, render
from r1jax.data.text.template import TAGS
from r1jax.errors import UserError
from r1jax.tokenizer_config import added_tokens, read_config, read_declarations, register, write_declarations

ANCHOR = "\ue000"  # joins no piece: what stands behind it is encoded and decoded without the start of a text


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest id, control tokens included; the model's own vocabulary may be larger."""
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
        """Text of ids, without control tokens other than the tags of r1jax.data.text.template, which rewards read."""
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
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # tokenizer_config.json as it came
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # generation_config.json as it came

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
        """Writes tokenizer_config.json and generation_config.json."""
        own = {
            "tokenizer_class": tokenizer_class,
            "bos_token": self.bos_token or None,
            "eos_token": self.token(self.eos_ids[0]),
            "pad_token": self.token(self.pad_id),
            "add_bos_token": self.bos_id is not None,
            "chat_template": self.chat_template,
            **more,
        }
        eos = self.eos_ids[0] if len(self.eos_ids) == 1 else list(self.eos_ids)
        ids = {"bos_token_id": self.bos_id, "eos_token_id": eos, "pad_token_id": self.pad_id}
        write_declarations(folder, self.config, own, self.generation, ids)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class JsonTokenizer(_Declared):
    """A tokenizer.json, or anything else that the tokenizers library can hold."""

    backend: tokenizers.Tokenizer

    @property
    def vocab_size(self) -> int:
        """One more than the highest id: Tokenizer.vocab_size."""
        return self._highest + 1

    @functools.cached_property
    def _highest(self) -> int:
        # The number of entries may be smaller: a vocabulary can have holes.
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @functools.cached_property
    def _controls(self) -> frozenset[int]:
        added = self.backend.get_added_tokens_decoder()
        return frozenset(id for id, token in added.items() if token.special and token.content not in TAGS)

    def encode(self, text: str) -> list[int]:
        """Ids of text: Tokenizer.encode."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids: Tokenizer.decode."""
        return self.backend.decode([int(i) for i in ids if int(i) not in self._controls], skip_special_tokens=False)

    def token(self, id: int) -> str:
        """String of one id."""
        return self.backend.id_to_token(id) or ""

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and generation_config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._as_declared().save(str(Path(folder) / "tokenizer.json"))
        self.save_declarations(Path(folder), "PreTrainedTokenizerFast")

    def _as_declared(self) -> tokenizers.Tokenizer:
        """The backend, whose post-processor adds bos where the tokenizer has one, and else adds none."""
        before, after = _framing(self.backend)
        wanted = [] if self.bos_id is None else [self.bos_id]
        if before[:1] == wanted:
            return self.backend
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.post_processor = _frame(*([(self.token(i), i) for i in ids] for ids in (wanted, after)))
        return copy


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
    legacy: bool = True  # as transformers reads it: what stands behind a control token is a text of its own
    add_prefix_space: bool | None = None  # at the start; None: of each such text, where the model itself does

    @property
    def vocab_size(self) -> int:
        """Number of pieces: Tokenizer.vocab_size."""
        return self.backend.vocab_size()

    @functools.cached_property
    def _controls(self) -> dict[str, int]:
        # SentencePiece itself never matches control pieces in a text, and may cut pieces that are declared as tokens.
        ids = [i for i in range(self.backend.vocab_size()) if self.backend.is_control(i)]
        declared = [self.eos_ids[0], self.pad_id, *([] if self.bos_id is None else [self.bos_id])]
        return {self.backend.id_to_piece(i): i for i in (*ids, *declared)}

    @functools.cached_property
    def _cuts(self) -> re.Pattern[str]:
        names = sorted(self._controls, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, names)) + ")" if names else r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Ids of text: Tokenizer.encode."""
        ids: list[int] = []
        for i, part in enumerate(self._cuts.split(text)):
            if part in self._controls:
                ids.append(self._controls[part])
            elif self.add_prefix_space is None:
                ids += self.backend.encode(part)
            elif part:
                prefixed = i == 0 and self.add_prefix_space and not part.startswith(" ")
                ids += self._behind(" " + part if prefixed else part)
        return ids

    def _behind(self, text: str) -> list[int]:
        """Ids of a text that stands behind another."""
        before, unknown = self.backend.encode(ANCHOR), self.backend.unk_id()
        ids = self.backend.encode(ANCHOR + text)[len(before) :]
        # Without bytes to fall back on, the anchor and unknown characters behind it are one unknown piece.
        joined = before[-1] == unknown and self.backend.encode(text[0])[-1:] == [unknown]
        return [unknown, *ids] if joined else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids: Tokenizer.decode; ids that a larger model vocabulary adds have none."""
        controls = {id: name if name in TAGS else "" for name, id in self._controls.items()}
        text, part = "", []
        start = True
        for id in map(int, ids):
            if id in controls:
                text += self._text(part, start) + controls[id]
                part, start = [], False
            elif id < self.backend.vocab_size():
                part.append(id)
        return text + self._text(part, start)

    def _text(self, ids: list[int], start: bool) -> str:
        """Text of ids between control tokens, or from the start on."""
        if self.add_prefix_space is None or not ids:
            return self.backend.decode(ids)
        before = self.backend.encode(ANCHOR)
        text = self.backend.decode([*before, *ids])[len(self.backend.decode(before)) :]
        return text.removeprefix(" ") if start and self.add_prefix_space else text

    def token(self, id: int) -> str:
        """Piece of one id."""
        return self.backend.id_to_piece(id)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.model, tokenizer_config.json and generation_config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "tokenizer.model").write_bytes(self.backend.serialized_model_proto())
        # transformers does not read the prefix from the model itself. Its LlamaTokenizer is exact for BPE models alone.
        prefix = _prefixes(self.backend) if self.add_prefix_space is None else self.add_prefix_space
        self.save_declarations(Path(folder), "LlamaTokenizer", add_prefix_space=prefix, legacy=self.legacy)


def byte_characters() -> list[str]:
    """The printable character by which byte-level BPE names each byte, in byte order (GPT-2's convention)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = {byte: 256 + i for i, byte in enumerate(sorted(set(range(256)) - set(kept)))}
    return [chr(moved.get(byte, byte)) for byte in range(256)]


def bos_processor(token: str, id: int) -> tokenizers.processors.TemplateProcessing:
    """What makes a tokenizer.json put a token before each text."""
    return _frame([(token, id)], [])


def _frame(
    before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]
) -> tokenizers.processors.TemplateProcessing:
    single, pair = ([*(token for token, _ in before), text, *(token for token, _ in after)] for text in ("$A", "$B"))
    return tokenizers.processors.TemplateProcessing(
        single=single, pair=[*single, *pair], special_tokens=[*dict.fromkeys([*before, *after])]
    )


def _framing(backend: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that a tokenizer.json puts before each text, and behind it."""
    plain, full = (backend.encode("a", add_special_tokens=added).ids for added in (False, True))
    at = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    return full[:at], full[at + len(plain) :]


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads a folder's tokenizer.json, else its tokenizer.model.

    Raises UserError where it has neither, one is damaged, no end token is declared, or a declared one has no id.
    """
    folder = Path(folder)
    config = read_config(folder)
    if (file := folder / "tokenizer.json").is_file():
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{file} is no readable tokenizer.json ({error}): replace it") from error
        backend.no_truncation()
        backend.no_padding()
        register(backend, folder, config)
        before, _ = _framing(backend)
        own = {"bos": backend.id_to_token(before[0])} if before else {}
        fields = read_declarations(folder, config, backend.token_to_id, backend.id_to_token, own)
        return JsonTokenizer(backend=backend, **fields)
    if (file := folder / "tokenizer.model").is_file():
        return _load_sentencepiece(file, config)
    raise UserError(f"{folder} holds no tokenizer.json and no tokenizer.model: copy one there")


def _prefixes(model: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether a SentencePiece model puts a space before each text."""
    return model.encode_as_pieces("a")[0].startswith("▁")


def _load_sentencepiece(file: Path, config: Mapping[str, Any]) -> SentencePieceTokenizer:
    folder, model = file.parent, sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(file.read_bytes())
    except Exception as error:  # RuntimeError, or the binding's own types
        raise UserError(f"{file} is no readable SentencePiece model: replace it") from error

    def token_of(id: int) -> str | None:
        return model.id_to_piece(id) if 0 <= id < model.vocab_size() else None

    def id_of(piece: str) -> int | None:
        id = model.piece_to_id(piece)
        return None if id == model.unk_id() and piece != token_of(id) else id

    for id, token in added_tokens(folder, config).items():
        if token_of(id) != token.content:
            raise UserError(
                f"{folder} adds {token.content!r} to tokenizer.model as id {id}: save the tokenizer from transformers "
                "as tokenizer.json, which holds both"
            )
    ids = {"bos": model.bos_id(), "eos": model.eos_id(), "pad": model.pad_id()}
    own = {name: model.id_to_piece(id) for name, id in ids.items() if id >= 0}
    legacy = True if config.get("legacy") is None else bool(config["legacy"])
    prefix = True if config.get("add_prefix_space") is None else bool(config["add_prefix_space"])
    if legacy and (prefix or not _prefixes(model)):
        prefix = None
    fields = read_declarations(folder, config, id_of, token_of, own)
    return SentencePieceTokenizer(backend=model, legacy=legacy, add_prefix_space=prefix, **fields)
