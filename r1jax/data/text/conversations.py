"""Conversations as training examples: the model learns the assistant's turns and reads the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.data.formats.conversations import check_messages
from r1jax.data.text.packing import Example
from r1jax.data.text.template import TAGS, unopened
from r1jax.errors import UserError
from r1jax.tokenizer import ANCHOR, Rendered, Tokenizer


def conversation_example(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> Example:
    """The conversation in the tokenizer's chat template, with a mask of the assistant's turns and their end tokens.

    The template's generation tags mark the turns. Without these tags, a turn starts where the conversation first
    differs from the prompt that the sampler would receive at that point. If the template omits a part of the last turn,
    as templates do that cut it at </think>, or opens the tag that the turn starts with, the turn is appended to that
    prompt unchanged. If the template does not end the last turn with an end token of the tokenizer, one is added, so
    that the model learns to stop.

    Raises:
      UserError: if a message has no text role and content, the last message is not the assistant's, the template omits
        reasoning or tool calls outside the content, or it renders earlier turns differently from the last one, as
        templates do that omit earlier reasoning.
    """
    check_messages(messages)
    whole = _rendered(messages, tokenizer)
    cut = _prompt_length(whole.text, messages, tokenizer)
    tokens = _ids(whole.text, cut, tokenizer)
    turns = [
        _turn(messages[: i + 1], tokens, i + 1 == len(messages), tokenizer)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    mask = np.zeros(len(tokens) + 1, bool)
    end, stopped = 0, False
    for begin, end in [_tokens_of_span(span, whole.text, cut, tokens, tokenizer) for span in whole.generated] or turns:
        stops = [k for k in range(begin, end) if tokens[k] in tokenizer.eos_ids]
        stopped = bool(stops)
        mask[begin : stops[0] + 1 if stops and not whole.generated else end] = True
    if not stopped:
        mask[end : len(tokens)] = True
        tokens = [*tokens, tokenizer.eos_ids[0]]
        mask[len(tokens) - 1] = True
    return Example(np.array(tokens, np.int32), mask[: len(tokens)])


def _rendered(messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> Rendered:
    """The text of a conversation whose last turn, the assistant's, is complete and opens its think tag only once."""
    by_template = tokenizer.render(messages, add_generation_prompt=False)
    prompt = tokenizer.render(messages[:-1]).text if len(messages) > 1 else ""
    content = messages[-1]["content"]
    _check_is_written(messages, by_template.text, tokenizer)
    rest = unopened(prompt, content)
    written = by_template.text[_common(by_template.text, prompt.rstrip().removesuffix("<think>")) :]
    # A reply may lack the tag that its prompt opened.
    inside = prompt.rstrip().endswith("<think>") and re.match(r"((?!<think>).)*</think>", content, re.DOTALL)
    follows = by_template.text.startswith(prompt)
    opens_twice = follows and by_template.text.removeprefix(prompt).lstrip().startswith("<think>")
    reply = content.rpartition("</think>")[2]
    # For reasoning without words, only a second rendering shows whether the template writes it.
    emptied = "</think>" in content and "</think>" not in written
    emptied = emptied and _with_last(messages, tokenizer, content=reply) == by_template.text
    if _holds(written, content) and not emptied and ((rest == content and not inside) or (follows and not opens_twice)):
        return by_template
    words = reply.strip()
    marked = content.removesuffix(reply) + reply.replace(words, ANCHOR) if words else content + ANCHOR
    _, found, end = _with_last(messages, tokenizer, content=marked).rpartition(ANCHOR)  # how the template ends a turn
    return Rendered(prompt + (rest.rstrip() if words else rest) + (end if found else ""))


def _check_is_written(messages: Sequence[Mapping[str, Any]], text: str, tokenizer: Tokenizer) -> None:
    """Raises UserError if the template omits reasoning or tool calls that the last message has beside its content."""
    for key in ("reasoning_content", "reasoning", "thinking", "tool_calls"):
        value, thought = messages[-1].get(key), messages[-1]["content"].rpartition("</think>")[0]
        if not value or (isinstance(value, str) and _holds(thought, value)):
            continue
        try:
            unwritten = _with_last(messages, tokenizer, **{key: _marked_strings(value)}) == text
        except UserError:  # the template reads the field, and refuses the marked value
            continue
        if unwritten:
            raise UserError(
                f"the chat template leaves out {key} of the assistant's turn: move it into the content, reasoning "
                "between <think> and </think>, or remove it"
            )


def _marked_strings(value: Any) -> Any:
    """The value with ANCHOR appended to each string in it."""
    if isinstance(value, Mapping):
        return {key: _marked_strings(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_marked_strings(part) for part in value]
    return value + ANCHOR if isinstance(value, str) else value


def _with_last(messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, **changes: Any) -> str:
    """The text of the conversation with some values of its last message changed."""
    return tokenizer.render([*messages[:-1], {**messages[-1], **changes}], add_generation_prompt=False).text


def _holds(text: str, content: str) -> bool:
    """True if all parts of the content between tags appear in the text, in order; white space is ignored."""
    text, at = "".join(text.split()), 0
    for part in re.split("|".join(TAGS), content):
        words = "".join(part.split())
        at = text.find(words, at)
        if at < 0:
            return False
        at += len(words)
    return True


def _prompt_length(text: str, messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> int:
    """Characters at the start of a conversation's text that the sampler would receive: prompt and opened think tag."""
    prompt = tokenizer.render(messages[:-1]).text if len(messages) > 1 else ""
    if not text.startswith(prompt):
        return 0
    opened = re.match(r"\s*<think>", text[len(prompt) :])
    return len(prompt) + (opened.end() if opened else 0)


def _ids(text: str, cut: int, tokenizer: Tokenizer) -> list[int]:
    """Ids of a text that start with the ids of its first ``cut`` characters, so that no token crosses that position."""
    ids, before = tokenizer.encode(text), tokenizer.encode(text[:cut])
    if ids[: len(before)] == before:
        return ids
    after = tokenizer.encode(text[cut:])
    if tokenizer.decode([*before, *after]) != tokenizer.decode(ids):  # the tokenizer starts each text with a space
        after = tokenizer.encode(ANCHOR + text[cut:])[len(tokenizer.encode(ANCHOR)) :]
    return [*before, *after]


def _turn(
    messages: Sequence[Mapping[str, str]], tokens: Sequence[int], last: bool, tokenizer: Tokenizer
) -> tuple[int, int]:
    """(begin, end) in ``tokens`` of the last of these messages, which are the first ones of the conversation."""
    turn = tokens if last else tokenizer.encode(_rendered(messages, tokenizer).text)
    if len(messages) > 1:
        begin = _common(tokens, tokenizer.chat(messages[:-1]))
    else:  # many templates cannot render a prompt without messages
        begin = _common(tokens, tokenizer.encode(_with_last(messages, tokenizer, content=ANCHOR)))
    before = tokenizer.chat(messages[:-1], add_generation_prompt=False) if len(messages) > 1 else []
    end = _common(tokens, turn)
    # One token fewer, since the last token may have merged with the text that follows.
    if begin < len(before) - 1 or end < len(turn) - 1:
        raise UserError(
            "the chat template renders earlier turns differently from the last one: split the conversation into one "
            "for each of the assistant's turns, and remove from earlier turns what the template leaves out"
        )
    return begin, end


def _tokens_of_span(
    span: tuple[int, int], text: str, cut: int, tokens: Sequence[int], tokenizer: Tokenizer
) -> tuple[int, int]:
    """(begin, end) of the tokens that cover a span of characters, and of an end token directly after them."""
    before, through = (_ids(text[:at], min(cut, at), tokenizer) for at in span)
    begin, end = _common(tokens, before), _common(tokens, through)
    if end < len(through):  # the last token extends beyond the span
        end += 1
    ended = any(token in tokenizer.eos_ids for token in through[begin:])
    return begin, end + (not ended and end < len(tokens) and tokens[end] in tokenizer.eos_ids)


def judged_ids(prompt: str, reply: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of a prompt and its reply in the chat template, for a reward model that gives its score at the last token.

    Padding ids at the end are removed. If the padding token is also the end token, this removes the end token, as in
    the classifiers of transformers.
    """
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    ids = tokenizer.chat(messages, add_generation_prompt=False)
    while len(ids) > 1 and ids[-1] == tokenizer.pad_id:
        ids = ids[:-1]
    return ids


def check_reasoning_is_kept(tokenizer: Tokenizer) -> None:
    """Raises UserError if the chat template omits the reasoning between the think tags of a reply."""
    one, other = (judged_ids("?", f"<think>{thought}</think>!", tokenizer) for thought in ("yes", "no"))
    if one == other:
        raise UserError(
            "the chat template leaves the reasoning out of a reply, but the reward model judges all of it: "
            "change chat_template in tokenizer_config.json of the reward model, or of the model that it is made from"
        )


def _common(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the common prefix of two sequences."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
