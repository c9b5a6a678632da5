"""Texts of completions as arrays of character codes, and what templates with tags read from them.

A code is the ASCII code of a character, or one of the codes below for other characters; 0 is padding.
"""

from __future__ import annotations

import itertools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.data.text.numbers import DASHES
from r1jax.data.text.template import ANY, TAGS, Template, completion_text
from r1jax.errors import UserError
from r1jax.tokenizer import Tokenizer

OTHER, SPACE, DASH, PLUS, MARK = 128, 129, 130, 131, 132  # beyond ASCII: see code_of
_MARKS = "\u3002\uff0c"  # Chinese punctuation that may follow a number
_CHECKED = 64  # random sequences whose text is compared with that of the tokenizer


@flax.struct.dataclass
class TokenCodes:
    """The text of each token, and the text before a completion that rewards judge, too."""

    codes: jax.Array  # [V, L] uint8
    lengths: jax.Array  # [V] int32
    opening: jax.Array  # [O] uint8


def code_of(character: str) -> int:
    """The code of a character: ASCII, or the class of another character."""
    if "\0" < character < "\x80":
        return ord(character)
    if character.isspace():
        return SPACE
    if character in DASHES:
        return DASH
    if character == "\uff0b":
        return PLUS
    return MARK if character in _MARKS else OTHER


def codes_of(text: str) -> list[int]:
    """The codes of a text."""
    return [code_of(character) for character in text]


def token_codes(template: Template, tokenizer: Tokenizer, vocab_size: int) -> TokenCodes:
    """The codes of all tokens in completions of a template's prompts.

    Raises UserError if the text of a completion is not the texts of its tokens side by side.
    """
    prompt = template.prompt_ids(ANY, tokenizer)
    ends = tokenizer.eos_ids
    texts = [[] if i in ends else codes_of(completion_text([i], prompt, tokenizer)) for i in range(vocab_size)]
    usual = [i for i in range(vocab_size) if i not in ends]
    draws = np.random.default_rng(0)
    for length in draws.integers(1, 24, _CHECKED):
        ids = draws.choice(usual, length).tolist()
        whole, parts = codes_of(completion_text(ids, prompt, tokenizer)), [c for i in ids for c in texts[i]]
        # Several bytes of one character are one code in the whole, and as many codes side by side.
        if _joined(whole) != _joined(parts):
            raise UserError(
                "this tokenizer's text of a token depends on the tokens before it, so rewards have no form in an "
                "ablation's program: use a base model that is pretrained here, or a byte-level tokenizer"
            )
    table = np.zeros((vocab_size, max(1, *map(len, texts))), np.uint8)
    for row, text in zip(table, texts, strict=True):
        row[: len(text)] = text
    lengths = np.array([len(text) for text in texts], np.int32)
    opening = np.array(codes_of(template.opening(tokenizer)), np.uint8)
    return TokenCodes(jnp.asarray(table), jnp.asarray(lengths), jnp.asarray(opening))


def _joined(codes: list[int]) -> list[int]:
    return [c for i, c in enumerate(codes) if c != OTHER or codes[i - 1 : i] != [OTHER]]


def completion_codes(tokens: jax.Array, lengths: jax.Array, table: TokenCodes) -> jax.Array:
    """The text that rewards judge, opening and completion: [B, C] uint8 for tokens [B, M] and lengths [B]."""
    B, M = tokens.shape
    O, L = len(table.opening), table.codes.shape[1]
    sizes = jnp.where(jnp.arange(M) < lengths[:, None], table.lengths[tokens], 0)  # [B, M]
    starts = O + jnp.cumsum(sizes, axis=1) - sizes
    within = jnp.arange(L) < sizes[..., None]  # [B, M, L]
    C = O + M * L
    place = jnp.where(within, starts[..., None] + jnp.arange(L), C)
    codes = jnp.zeros((B, C), jnp.uint8).at[:, :O].set(table.opening)
    return codes.at[jnp.arange(B)[:, None, None], place].set(table.codes[tokens], mode="drop")


def is_space(codes: jax.Array) -> jax.Array:
    """White space, as str.isspace defines it: bool, the shape of codes."""
    return (codes == 32) | ((codes >= 9) & (codes <= 13)) | ((codes >= 28) & (codes <= 31)) | (codes == SPACE)


def _starts(codes: jax.Array, tag: str) -> jax.Array:
    """True where a tag starts: [B, C] bool."""
    wide = jnp.pad(codes, ((0, 0), (0, len(tag))))
    C = codes.shape[1]
    found = jnp.ones(codes.shape, bool)
    for i, character in enumerate(tag):
        found &= wide[:, i : i + C] == ord(character)
    return found


def well_formed(codes: jax.Array, prose: bool) -> jax.Array:
    """Template.well_formed of texts [B, C] for a template with tags: [B] bool."""
    found = [_starts(codes, tag) for tag in TAGS]
    once = jnp.stack([x.sum(axis=1) == 1 for x in found]).all(axis=0)
    begins = [jnp.argmax(x, axis=1)[:, None] for x in found]
    in_order = jnp.concatenate([a < b for a, b in itertools.pairwise(begins)], axis=1).all(axis=1)
    at, blank = jnp.arange(codes.shape[1]), is_space(codes) | (codes == 0)
    outside = at < begins[0]
    if not prose:
        outside |= (at >= begins[1] + len(TAGS[1])) & (at < begins[2])
        outside |= at >= begins[3] + len(TAGS[3])
    return once & in_order & (blank | ~outside).all(axis=1)


def answers(codes: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """Template.answer of texts [B, C] for a template with tags: the answer [B, width] uint8, and its length [B].

    The length is -1 if there is no answer; of a longer answer than ``width`` the rest is missing.
    """
    kept = _without_reasoning(codes)
    first, last = _starts(kept, TAGS[2]), _starts(kept, TAGS[3])
    begin, end = jnp.argmax(first, axis=1)[:, None], jnp.argmax(last, axis=1)[:, None]
    found = (first.sum(axis=1) == 1) & (last.sum(axis=1) == 1) & (begin < end)[:, 0]
    at = jnp.arange(kept.shape[1])
    content = (at >= begin + len(TAGS[2])) & (at < end) & ~is_space(kept)
    start = jnp.argmax(content, axis=1)
    length = kept.shape[1] - jnp.argmax(content[:, ::-1], axis=1) - start
    length = jnp.where(found & content.any(axis=1), length, 0)
    place = start[:, None] + jnp.arange(width)
    text = jnp.take_along_axis(kept, jnp.minimum(place, kept.shape[1] - 1), axis=1)
    return jnp.where(jnp.arange(width) < length[:, None], text, 0), jnp.where(found, length, -1)


def _without_reasoning(codes: jax.Array) -> jax.Array:
    """The texts without their reasoning and its tags, moved together: [B, C]."""
    B, C = codes.shape
    opens, closes = _starts(codes, TAGS[0]), _starts(codes, TAGS[1])
    at = jnp.arange(C)
    # The newest tag up to each position: even if it opens the reasoning, odd if it closes it, -1 before the first tag.
    newest = jax.lax.cummax(jnp.where(opens, 2 * at, jnp.where(closes, 2 * at + 1, -1)), axis=1)
    tags = opens | closes
    opened_before = jnp.take_along_axis(closes, jnp.argmax(tags, axis=1)[:, None], axis=1)  # by the prompt
    outside = jnp.where(newest < 0, ~opened_before, newest % 2 == 1)
    size = jnp.where(newest % 2 == 1, len(TAGS[1]), len(TAGS[0]))
    in_tag = (newest >= 0) & (at - newest // 2 < size)
    kept = outside & ~in_tag & (codes != 0)
    place = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, C)
    return jnp.zeros_like(codes).at[jnp.arange(B)[:, None], place].set(codes, mode="drop")
