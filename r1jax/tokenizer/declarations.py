"""Reading and writing the files beside a vocabulary: tokenizer_config.json, generation_config.json and others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from r1jax.errors import UserError

_NAMES = ("bos", "eos", "pad", "unk")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_config(folder: Path) -> dict[str, Any]:
    """Merges special_tokens_map.json and tokenizer_config.json of a folder; the second one takes precedence."""
    return {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}


def added_tokens(folder: Path, config: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Tokens, by id, that tokenizer_config.json or the older added_tokens.json adds to the vocabulary.

    Raises UserError if they are not in the format of transformers.
    """
    try:
        added = {int(id): AddedToken(token) for token, id in read_json(folder / "added_tokens.json").items()}
        for id, entry in (config.get("added_tokens_decoder") or {}).items():
            flags = {k: bool(v) for k, v in entry.items() if k in _FLAGS}
            added[int(id)] = AddedToken(entry["content"], **flags)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: its added tokens cannot be read ({error!r}): save the tokenizer again") from error
    return dict(sorted(added.items()))


def register(backend: tokenizers.Tokenizer, folder: Path, config: Mapping[str, Any]) -> None:
    """Adds the tokens that the config declares to a tokenizer.json, so that each is encoded as one id.

    Raises UserError if a token does not get the id that it is declared with.
    """
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for id, token in added_tokens(folder, config).items():
        if token.content not in known:
            backend.add_tokens([token])
        if (own := backend.token_to_id(token.content)) != id:
            raise UserError(
                f"{folder}: token {token.content!r} is declared with id {id} but has id {own} in tokenizer.json: save "
                "the tokenizer again from transformers"
            )
    names = [content(config.get(f"{name}_token")) for name in _NAMES]
    for key in ("additional_special_tokens", "extra_special_tokens"):  # the second is a list or an object
        more = config.get(key)
        more = list(more.values()) if isinstance(more, Mapping) else more
        names += [content(token) for token in (more if isinstance(more, list) else ())]
    add_control_tokens(backend, [name for name in names if name and backend.token_to_id(name) is not None])


def add_control_tokens(backend: tokenizers.Tokenizer, names: Sequence[str]) -> None:
    """Marks entries of the vocabulary as control tokens unless they are added tokens already."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names if n not in known])


def read_declarations(
    folder: Path,
    config: Mapping[str, Any],
    id_of: Callable[[str], int | None],
    token_of: Callable[[int], str | None],
    own: Mapping[str, str | None],
) -> dict[str, Any]:
    """Declared tokens, chat template and config files as keyword arguments of BaseTokenizer.

    Args:
      folder: holds the files.
      config: read_config(folder).
      id_of: id of a token; None if the vocabulary lacks it.
      token_of: token of an id; None if the vocabulary lacks it.
      own: the bos, eos and pad tokens that the vocabulary itself declares or adds.

    Raises:
      UserError: if no end token is declared, or a declared token has no id.
    """
    declared = {name: content(config.get(f"{name}_token")) or own.get(name) for name in ("bos", "eos", "pad")}
    ids = {name: None if token is None else id_of(token) for name, token in declared.items()}
    generation = read_json(folder / "generation_config.json")
    ends = [ids["eos"], *_end_ids(folder, generation, token_of)]
    eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))
    # add_bos_token takes precedence over the vocabulary's own setting. SmolLM2 declares bos and never adds it.
    asked = config.get("add_bos_token")
    adds_bos = "bos" in own if asked is None else asked
    template = _chat_template(folder, config)
    needed = {"eos": True, "bos": adds_bos or "bos_token" in (template or "")}
    for name, used in needed.items():
        if used and declared[name] is not None and ids[name] is None:
            raise UserError(
                f"{folder}: {name}_token {declared[name]!r} has no id in the vocabulary: correct "
                "tokenizer_config.json, or save the tokenizer again"
            )
    if not eos_ids:
        raise UserError(f"{folder}: no end token is declared: add eos_token to tokenizer_config.json")
    return {
        "bos_id": ids["bos"] if adds_bos else None,
        "bos_token": declared["bos"] or "",
        "eos_ids": eos_ids,
        "pad_id": eos_ids[0] if ids["pad"] is None else ids["pad"],
        "chat_template": template,
        "config": config,
        "generation": generation,
    }


def _end_ids(folder: Path, generation: Mapping[str, Any], token_of: Callable[[int], str | None]) -> list[int]:
    ids = []
    for name, source in (("generation_config.json", generation), ("config.json", read_json(folder / "config.json"))):
        value = source.get("eos_token_id")
        for id in value if isinstance(value, list) else [value]:
            if id is None or id == -1:  # some files write -1 for none
                continue
            if isinstance(id, bool) or not isinstance(id, int) or token_of(id) is None:
                raise UserError(
                    f"{folder / name}: eos_token_id {id!r} is not in the vocabulary: correct it, or copy the "
                    "tokenizer that belongs to the model"
                )
            ids.append(id)
    return ids


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if not file.is_file():
        return chosen_template(config.get("chat_template"), folder)
    try:
        return file.read_text(encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}): replace it") from error


def chosen_template(configured: Any, folder: Path) -> str | None:
    """The chat template of a config; of several named ones, "default" or else the first."""
    if isinstance(configured, list):
        try:
            named = {t["name"]: t["template"] for t in configured}
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder}: chat_template has an entry without name or template: correct it") from error
        configured = named.get("default") or next(iter(named.values()), None)
    if configured is not None and not isinstance(configured, str):
        raise UserError(f"{folder}: chat_template is {type(configured).__name__} and must be text: correct it")
    return configured


def content(token: Any) -> str | None:
    """The text of a token, given as text or as an object with flags; raises UserError for other types."""
    text = token.get("content") if isinstance(token, Mapping) else token
    if text is not None and not isinstance(text, str):
        raise UserError(f"tokenizer_config.json: token {text!r} is not text: correct it")
    return text


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file does not exist."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it contains {type(value).__name__} instead of an object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON ({error}): replace it") from error
    return value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Writes an object to a JSON file."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_declarations(
    folder: Path,
    config: Mapping[str, Any],
    own: Mapping[str, Any],
    generation: Mapping[str, Any],
    ids: Mapping[str, Any],
) -> None:
    """Writes tokenizer_config.json and generation_config.json; only the latter can hold several end ids.

    Args:
      folder: gets the files.
      config: tokenizer_config.json as it was read; keys outside ``own`` are kept.
      own: keys to set in tokenizer_config.json; an unchanged token keeps its flags.
      generation: generation_config.json as it was read; keys outside ``ids`` are kept.
      ids: keys to set in generation_config.json; None keeps the old value.
    """
    tokens = {f"{name}_token" for name in _NAMES}
    same = {k for k in tokens & set(own) if own[k] is not None and content(config.get(k)) == own[k]}
    rest = {k: v for k, v in config.items() if k != "auto_map"}  # the code that it names is not saved
    merged = {"clean_up_tokenization_spaces": False, **rest, **{k: v for k, v in own.items() if k not in same}}
    came = config.get("chat_template")
    if isinstance(came, list) and chosen_template(came, folder) == own.get("chat_template"):
        merged["chat_template"] = came
    if own.get("chat_template") is None:
        merged.pop("chat_template", None)
    write_json(folder / "tokenizer_config.json", merged)
    write_json(folder / "generation_config.json", {**generation, **{k: v for k, v in ids.items() if v is not None}})
