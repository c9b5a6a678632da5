r"""Equality of two mathematical answers: as words, as numbers, or as expressions.

Markup that does not change the value (``\boxed``, ``$``, markdown emphasis, ``\left``, spaces, currency, thousands
separators, a full stop) is ignored. A unit or an "x =" that only one answer has is ignored, too. Words are compared as
words: "east" is not a product of four symbols. Expressions are compared in r1jax.rewards.expressions.
"""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

from r1jax.data.text.numbers import read_number
from r1jax.rewards.expressions import equal_when_rounded, same_expressions
from r1jax.rewards.notation import TEXT, read_answer

_LONGEST = 2000  # characters; longer answers are not parsed and are equal only as texts
_DEEPEST = 10  # nested brackets or powers; deeper answers can take minutes to parse and are equal only as texts

_NAMED = re.compile(r"(?:[A-Za-z]+|\\[a-z]+)(?:_(?:\w|\{[^{}]*\}))?(?:\([a-z]\))? ?= ?([^=]+)")


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names that are mathematics, not words.
_NAMES = _word_set(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim max min gcd lcm mod det sqrt "
    "frac pi theta alpha beta gamma infinity infty inf cup cap times cdot div le ge ne"
)
_LINKS = _word_set("and or if for when where with the are answer result")
# Words that change the value of the number next to them.
_CHANGES = _word_set(
    "not no more less least most over under above below greater fewer than plus minus times squared cubed "
    "factorial half halves third thirds quarter quarters fifths sixths eighths tenths hundredths thousandths "
    "dozen hundred thousand million billion trillion"
)
_SHORT = _word_set("no on up us am an as at be by do go he hi if in is it me my of oh ok or so to we")


def equivalent(expected: str, given: str) -> bool:
    """True if a given answer is equal to the expected one; an empty answer is equal to none.

    A decimal is equal to a value that it rounds to six places: 0.333333 is equal to 1/3, and 0.33 is not.
    """
    if max(len(expected), len(given)) > _LONGEST:
        return bool(given.strip()) and expected.strip() == given.strip()
    one, other = read_answer(expected), read_answer(given)
    if not one.formula or not other.formula or (one.unit and other.unit and one.unit != other.unit):
        return False
    if one.formula == other.formula:
        return True
    if _is_deep(one.formula) or _is_deep(other.formula):
        return False
    if {one.unit, other.unit} == {"%", ""}:  # 50% is equal to 50, since questions may ask for percent, and to 0.5
        parts = [rf"\frac{{{a.formula}}}{{100}}" if a.unit else a.formula for a in (one, other)]
        if _same(*parts):
            return True
    return _same(one.formula, other.formula)


def _is_deep(text: str) -> bool:
    """True if brackets or powers are nested more than _DEEPEST levels deep."""
    depths = itertools.accumulate((char in "([{") - (char in ")]}") for char in text)
    return (
        max(map(abs, depths), default=0) > _DEEPEST
        or re.search(rf"(?:\^[^\^+,=]{{0,3}}){{{_DEEPEST}}}", text) is not None
    )


def _same(one: str, other: str) -> bool:
    """True if two formulas without units are equal."""
    words = _words(one), _words(other)
    if words[0] or words[1]:
        return words[0] == words[1]
    named = [_NAMED.fullmatch(text) for text in (one, other)]
    if bool(named[0]) != bool(named[1]) and not ("=" in one and "=" in other):
        one, other = (match[1].strip() if match else text for match, text in zip(named, (one, other), strict=True))
    if _loose_words(one) and _loose_words(other) and _loose_words(one) != _loose_words(other):
        return False
    first, second = _plain_number(one), _plain_number(other)
    if first is not None and second is not None:
        return first == second or (_repeats(first) != _repeats(second) and equal_when_rounded(first, second))
    changes = [_CHANGES & set(re.findall(r"(?<![a-z\\])[a-z]+", text.casefold())) for text in (one, other)]
    return changes[0] == changes[1] and same_expressions(*map(_both_signs, (one, other)))


def _both_signs(text: str) -> str:
    """A text with one plus-minus sign as a list of its two values; any other text unchanged."""
    parts = re.split(r"\\pm(?![A-Za-z])|±", text)
    if len(parts) != 2 or "," in text or r"\mp" in text:
        return text
    return f"{'+'.join(parts)}, {'-'.join(parts)}"


def _words(text: str) -> str:
    """The words of a text that contains only words, in lower case; "" for any other text."""
    text = TEXT.sub(r" \1 ", text)
    tokens = re.findall(r"[^\W\d_]+", text)
    if not re.fullmatch(r"(?:[^\W\d_]|[\s'’.,()\"-])*", text) or not any(map(_is_word, tokens)):
        return ""
    return " ".join(tokens).casefold()


def _is_word(token: str) -> bool:
    """True if letters are a word, and not a mathematical name or a product such as xy, which has no vowel."""
    if not token.isascii():
        return True
    if len(token) < 2 or token in _NAMES:
        return False
    return (
        token.isupper() or token.lower() in _SHORT or (len(token) > 2 and re.search("[aeiouAEIOU]", token) is not None)
    )


def _loose_words(text: str) -> list[str]:
    """Separate words among formulas, sorted and without the words that link formulas."""
    tokens = re.findall(r"(?<![^\s(,])[^\W\d_]{3,}(?![^\s),.])", TEXT.sub(r" \1 ", text))
    return sorted(t.casefold() for t in tokens if _is_word(t) and t.casefold() not in _LINKS)


def _plain_number(text: str) -> Fraction | None:
    """The value of a text that is one number; None for 5m, whose letter may be a symbol, and for 3!."""
    number = read_number(text)
    return None if number is None or number.unit or text.endswith("!") else number.value


def _repeats(value: Fraction) -> bool:
    """True if the decimal digits of a fraction never end, as those of 1/3."""
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below > 1
