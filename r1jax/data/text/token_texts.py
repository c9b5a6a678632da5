"""The text of each sampled token."""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.data.text.template import completion_text
from r1jax.tokenizer import Tokenizer

_CONTEXT = 8  # ids before a token that it is decoded after


def token_texts(ids: Sequence[int], prompt: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text that each of the sampled ids adds; joined, they are completion_text(ids, prompt, tokenizer).

    A token has no text ("") if it is the end token, another control token, or one of several tokens that make up a
    character, except the last of them.
    """
    whole = completion_text(ids, prompt, tokenizer)
    known = [*prompt[-_CONTEXT:], *ids]
    first, done, texts = len(known) - len(ids), 0, []  # done: characters of ``whole`` that have a token
    begin = first  # of the tokens whose text is not complete
    for at in range(first, len(known)):
        before = known[max(0, begin - _CONTEXT) : begin]
        text = tokenizer.decode([*before, *known[begin : at + 1]])[len(tokenizer.decode(before)) :]
        complete = whole.startswith(text, done) and known[at] not in tokenizer.eos_ids
        texts.append(text if complete else "")
        if complete:
            done, begin = done + len(text), at + 1
    if done < len(whole):  # bytes that are no characters; the texts before them are exact
        last = max((i for i, id in enumerate(ids) if id not in tokenizer.eos_ids), default=0)
        texts[last] += whole[done:]
    return texts
