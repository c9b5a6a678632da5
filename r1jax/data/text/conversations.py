"""Conversations as examples: the assistant's part is learned, the rest is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.data.formats.files import rows, shown
from r1jax.data.text.packing import Example
from r1jax.data.text.template import TAGS, unopened
from r1jax.errors import UserError
from r1jax.tokenizer import ANCHOR, Rendered, Tokenizer


def read_conversations(path: str | Path) -> list[list[dict[str, Any]]]:
    """The column ``messages`` of a .jsonl or .parquet file: of each row a list of {"role", "content"}.

    Keys of a message without a value are left out: parquet gives every message the keys of all.

    Raises:
      UserError: naming the line or row that holds no such list, or that there are none.
    """
    found = []
    for where, row in rows(path, ("messages",)):
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise UserError(f"{where}: column 'messages' must be a list of objects with role and content")
        messages = [_without_nulls(message) for message in messages]
        if wrong := _fault(messages):
            raise UserError(f"{where}: {wrong}")
        found.append(messages)
    if not found:
        raise UserError(f"{path} holds no conversations")
    return found


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _fault(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Why messages cannot be learned from; None where they can."""
    for message in messages:
        if not all(isinstance(message.get(name), str) for name in ("role", "content")):
            return f"a message needs role and content as text, not {shown(dict(message))}"
    if not messages or messages[-1]["role"] != "assistant":
        return "a conversation must end with a message of the role assistant: that is what is learned"
    return None


def conversation_example(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> Example:
    """The conversation in the tokenizer's own chat template; the mask marks each assistant's turn and its end token.

    A turn is what the template's generation tags mark; without them it begins where the conversation first differs
    from the prompt that the sampler would be given there. Where the template leaves out a part of the last turn, as
    those do that cut at </think>, or opens a tag that it begins with, the turn follows that prompt as it stands. Where
    the template ends the last turn with none of the tokenizer's end tokens, one is added: a model must learn to stop.

    Raises:
      UserError: for messages without role and content as text, a conversation whose last message is not the
        assistant's, reasoning or tool calls beside the content that the template leaves out, or a template that writes
        earlier turns otherwise than last ones, as those do that leave earlier reasoning out.
    """
    if wrong := _fault(messages):
        raise UserError(wrong)
    whole = _rendered(messages, tokenizer)
    cut = _cut(whole.text, messages, tokenizer)
    tokens = _ids(whole.text, cut, tokenizer)
    turns = [
        _turn(messages[: i + 1], tokens, i + 1 == len(messages), tokenizer)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    mask = np.zeros(len(tokens) + 1, bool)
    end, stopped = 0, False
    for begin, end in [_marked(span, whole.text, cut, tokens, tokenizer) for span in whole.generated] or turns:
        stops = [k for k in range(begin, end) if tokens[k] in tokenizer.eos_ids]
        stopped = bool(stops)
        mask[begin : stops[0] + 1 if stops and not whole.generated else end] = True
    if not stopped:
        mask[end : len(tokens)] = True
        tokens = [*tokens, tokenizer.eos_ids[0]]
        mask[len(tokens) - 1] = True
    return Example(np.array(tokens, np.int32), mask[: len(tokens)])


def _rendered(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> Rendered:
    """A conversation that ends with the assistant's turn, which is whole in it and opens its think tag once."""
    by_template = tokenizer.render(messages, add_generation_prompt=False)
    prompt = tokenizer.render(messages[:-1]).text if len(messages) > 1 else ""
    content = messages[-1]["content"]
    _check_is_written(messages, by_template.text, tokenizer)
    rest = unopened(prompt, content)
    written = by_template.text[_common(by_template.text, prompt.rstrip().removesuffix("<think>")) :]
    # A reply may come without the tag that its prompt opened.
    inside = prompt.rstrip().endswith("<think>") and re.match(r"((?!<think>).)*</think>", content, re.DOTALL)
    follows = by_template.text.startswith(prompt)
    twice = follows and by_template.text.removeprefix(prompt).lstrip().startswith("<think>")
    reply = content.rpartition("</think>")[2]
    # A block without words: only another rendering tells whether the template writes it.
    emptied = "</think>" in content and "</think>" not in written
    emptied = emptied and _with_last(messages, tokenizer, content=reply) == by_template.text
    if _holds(written, content) and not emptied and ((rest == content and not inside) or (follows and not twice)):
        return by_template
    words = reply.strip()
    marked = content.removesuffix(reply) + reply.replace(words, ANCHOR) if words else content + ANCHOR
    _, found, end = _with_last(messages, tokenizer, content=marked).rpartition(ANCHOR)  # the template's end of a turn
    return Rendered(prompt + (rest.rstrip() if words else rest) + (end if found else ""))


def _check_is_written(messages: Sequence[Mapping[str, Any]], text: str, tokenizer: Tokenizer) -> None:
    """Raises UserError where the template writes nothing of what stands beside the content of the last message."""
    for key in ("reasoning_content", "reasoning", "thinking", "tool_calls"):
        value, thought = messages[-1].get(key), messages[-1]["content"].rpartition("</think>")[0]
        if not value or (isinstance(value, str) and _holds(thought, value)):
            continue
        try:
            unwritten = _with_last(messages, tokenizer, **{key: _marked_strings(value)}) == text
        except UserError:  # it reads what it refuses
            continue
        if unwritten:
            raise UserError(
                f"the chat template leaves out {key} of the assistant's turn: put it into the content, reasoning "
                "between <think> and </think>, or remove it"
            )


def _marked_strings(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _marked_strings(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_marked_strings(part) for part in value]
    return value + ANCHOR if isinstance(value, str) else value


def _with_last(messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, **changes: Any) -> str:
    """The conversation's text with other values in the last message."""
    return tokenizer.render([*messages[:-1], {**messages[-1], **changes}], add_generation_prompt=False).text


def _holds(text: str, content: str) -> bool:
    """Whether all that stands between the tags of a content is in a text, in order and whatever the white space."""
    text, at = "".join(text.split()), 0
    for part in re.split("|".join(TAGS), content):
        words = "".join(part.split())
        at = text.find(words, at)
        if at < 0:
            return False
        at += len(words)
    return True


def _cut(text: str, messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> int:
    """Characters of a conversation's text that the sampler would be given: its prompt, and the think tag behind it."""
    prompt = tokenizer.render(messages[:-1]).text if len(messages) > 1 else ""
    if not text.startswith(prompt):
        return 0
    opened = re.match(r"\s*<think>", text[len(prompt) :])
    return len(prompt) + (opened.end() if opened else 0)


def _ids(text: str, cut: int, tokenizer: Tokenizer) -> list[int]:
    """Ids of a text that begin with those of its first ``cut`` characters: no token joins the two sides."""
    ids, before = tokenizer.encode(text), tokenizer.encode(text[:cut])
    if ids[: len(before)] == before:
        return ids
    behind = tokenizer.encode(text[cut:])
    if tokenizer.decode([*before, *behind]) != tokenizer.decode(ids):  # it begins each text with a space
        behind = tokenizer.encode(ANCHOR + text[cut:])[len(tokenizer.encode(ANCHOR)) :]
    return [*before, *behind]


def _turn(
    messages: Sequence[Mapping[str, str]], tokens: Sequence[int], last: bool, tokenizer: Tokenizer
) -> tuple[int, int]:
    """Where in ``tokens`` of a conversation the last of these messages, its first ones, begins and ends."""
    turn = tokens if last else tokenizer.encode(_rendered(messages, tokenizer).text)
    if len(messages) > 1:
        begin = _common(tokens, tokenizer.chat(messages[:-1]))
    else:  # many templates have no prompt without messages
        begin = _common(tokens, tokenizer.encode(_with_last(messages, tokenizer, content=ANCHOR)))
    before = tokenizer.chat(messages[:-1], add_generation_prompt=False) if len(messages) > 1 else []
    end = _common(tokens, turn)
    # One token less: the last may have merged with what follows.
    if begin < len(before) - 1 or end < len(turn) - 1:
        raise UserError(
            "the chat template writes earlier turns otherwise than last ones: split the conversation into one for "
            "each of the assistant's turns, and leave out of the turns before it what the template leaves out"
        )
    return begin, end


def _marked(span: tuple[int, int], text: str, cut: int, tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens that hold the characters of a span, and an end token right behind them."""
    before, through = (_ids(text[:at], min(cut, at), tokenizer) for at in span)
    begin, end = _common(tokens, before), _common(tokens, through)
    if end < len(through):  # the last token goes on behind the span
        end += 1
    ended = any(token in tokenizer.eos_ids for token in through[begin:])
    return begin, end + (not ended and end < len(tokens) and tokens[end] in tokenizer.eos_ids)


def judged_ids(prompt: str, reply: str, tokenizer: Tokenizer) -> list[int]:
    """A prompt and its reply in the chat template: what a reward model reads, with its score at the last token.

    A tokenizer that pads with its end token hides that one: as transformers' classifiers do, the score is then read at
    the last token that is no padding.
    """
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    ids = tokenizer.chat(messages, add_generation_prompt=False)
    while len(ids) > 1 and ids[-1] == tokenizer.pad_id:
        ids = ids[:-1]
    return ids


def check_reasoning_is_kept(tokenizer: Tokenizer) -> None:
    """Raises UserError where the chat template leaves out what stands between a reply's think tags."""
    one, other = (judged_ids("?", f"<think>{thought}</think>!", tokenizer) for thought in ("yes", "no"))
    if one == other:
        raise UserError(
            "the chat template leaves the reasoning out of a reply, which is to be judged whole: change chat_template "
            "in the tokenizer_config.json of the reward model, or of the model that it is made from"
        )


def _common(a: Sequence[object], b: Sequence[object]) -> int:
    """How many ids, or characters, the two begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
