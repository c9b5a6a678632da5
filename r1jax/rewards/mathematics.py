r"""Equality of two mathematical answers: as words, as numbers, or as expressions.

Markup that does not change the value (``\boxed``, ``$``, markdown emphasis, ``\left``, spaces, currency, thousands
separators, a full stop) is ignored. A unit or an "x =" that only one answer has is ignored, too. Words are compared as
words: "east" is not a product of four symbols. Expressions are compared in r1jax.rewards.expressions.
"""

from __future__ import annotations

import itertools
import re

from r1jax.rewards.comparison import same
from r1jax.rewards.evaluation import number
from r1jax.rewards.expressions import same_expressions
from r1jax.rewards.grammar import parse_value
from r1jax.rewards.lexer import is_word, word_set
from r1jax.rewards.notation import TEXT, Answer, read_answer
from r1jax.rewards.units import ratio
from r1jax.rewards.values import EMPTY_SET, REALS, Expr

_LONGEST = 2000  # characters; longer answers are not parsed and are equal only as texts
_DEEPEST = 10  # nested brackets or powers; deeper answers can take minutes to parse and are equal only as texts

_VECTOR = r"\\(?:vec|overline|overrightarrow|mathbf|boldsymbol|bm) ?\{[A-Za-z]{1,3}\}"
# A name before "=": a word, a command, a vector, the length of a vector or the modulus of z, an angle, a value of f.
_NAMED = re.compile(
    rf"(?:(?!(?:not|ln|log|lg|exp|sqrt)\b)[A-Za-z]+|(?!\\(?:ln|log|lg|exp|sqrt|pm|mp|lnot|neg)\b)\\[a-z]+|{_VECTOR}"
    rf"|\\text ?\{{[^{{}}]*\}}"
    r"|\\?(?:sin|cos|tan) ?(?:\\[a-z]+|[A-Za-z]|\([^()=]*\))|[PE]\([^()]*\)"
    rf"|\\?\|(?:z|[A-Z]{{2}}|{_VECTOR})\\?\||\\\|[a-z]\\\||\\angle ?[A-Z]{{1,3}})"
    r"(?:_(?:\w|\{[^{}]*\}))?(?:\([a-z0-9]\))? ?= ?([^=]+)"
)
# The domain of a parameter after a formula: 2k\pi, k \in \mathbb{Z}. After an inequality it would be a condition.
_DOMAIN = re.compile(
    r"\A(?!.*(?:[<>]|\\(?:le|ge|leq|geq|lt|gt|ne|neq|leqslant|geqslant)(?![a-z])|\\in\b.*\\in\b)).*?"
    r"(?P<at>(?:[,;]| where| for| with|\\text ?\{ *,? *(?:where|for|with) *\}|\()"
    r" ?([a-z]) ?\\in ?(?:\\mathbb ?\{?)(?P<set>[ZNQRC])\}?\)?)\Z"
)
_ROMAN = re.compile(r"\(?([ivx]{2,})\)?")

_LINKS = word_set("and or if for when where with the are answer result")
# Words that change the value of the number next to them.
_CHANGES = re.compile(
    r"(?<![a-z\\])(?:not?|more|less|least|most|over|under|above|below|greater|fewer|than|plus|minus|negative|times"
    r"|squared|cubed|doubled|tripled|factorial|modulo|mod|wrong|incorrect|false|hal(?:f|ves)|quarters?"
    r"|(?:third|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|[a-z]+(?:teen|tie)|hundred|thousand|million|billion)th)s?"
    r"|(?:dozen|hundred|thousand|million|billion|trillion)s?)(?![a-z])"
)
# Nouns after a number, which a count may have or not.
_COUNTED = re.compile(
    r"(?<=[0-9)}]) *(?:\\text ?\{ *([A-Za-z]+(?: [A-Za-z]+){0,2}) *\}|\\mathrm ?\{[ ~]*([A-Za-z]{2,}(?:/[A-Za-z]+)?)\}"
    r"|((?: (?:of|in|[a-z]{3,})){1,3}))\Z"
)
_BEYOND = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")  # operators that typed values do not have
_CHOICE = re.compile(r"\(([A-J])\)")
_SYNONYMS = {
    other: words
    for words, others in (
        ("does not exist", ("dne", "doesn t exist", "undefined")),
        ("no solution", ("no solutions", "no real solution", "no real solutions", "there is no solution", "none")),
        ("all real numbers", ("all reals", "all real values", "any real number", "every real number")),
    )
    for other in others
}
_NAMED_SETS = {"no solution": EMPTY_SET, "all real numbers": REALS}


def equivalent(expected: str, given: str) -> bool:
    """True if a given answer is equal to the expected one; an empty answer is equal to none.

    A decimal with at least six places and digits is equal to a value that it rounds: 0.333333 is equal to 1/3, and
    neither 0.33 nor 0.333334 is.
    """
    if max(len(expected), len(given)) > _LONGEST:
        return bool(given.strip()) and expected.strip() == given.strip()
    one, other = read_answer(expected), read_answer(given)
    if not one.formula or not other.formula:
        return False
    if _is_deep(one.formula) or _is_deep(other.formula):
        return one == other
    if one.letter and not other.unit:
        one = Answer(f"{one.formula} {one.letter}", "")
    if other.letter and not one.unit:
        other = Answer(f"{other.formula} {other.letter}", "")
    units = {one.unit, other.unit} - {""}
    if len(units) == 1 and _COUNTED.search((other if one.unit else one).formula) and one.unit != other.unit:
        return False  # a unit and a counted noun
    if units & {"am", "pm"}:
        return len(units) == 1 and _same_time(one, other)
    if (choice := _CHOICE.fullmatch(one.formula)) and other.formula.strip("()").upper() == choice[1]:
        return True
    if one.unit.startswith("base ") and other.unit.startswith("base "):
        values = [_in_base(each) for each in (one, other)]
        return values[0] is not None and values[0] == values[1]
    if {one.unit, other.unit} == {"%", ""}:
        return _same_percent(one, other)
    if len(units) == 2:
        return _same_converted(one, other)
    if units == {"°"} and one.unit != other.unit and r"\pi" in (other if one.unit else one).formula:
        return _same_angle(one, other)
    return one.formula == other.formula or _same(one.formula, other.formula)


def _is_deep(text: str) -> bool:
    """True if brackets or powers are nested more than _DEEPEST levels deep."""
    depths = itertools.accumulate((char in "([{") - (char in ")]}") for char in text)
    return (
        max(map(abs, depths), default=0) > _DEEPEST
        or re.search(rf"(?:\^[^\^+,=]{{0,3}}){{{_DEEPEST}}}", text) is not None
    )


def _same_percent(one: Answer, other: Answer) -> bool:
    """True if p% is equal to the number beside it: as p/100, or, since questions ask for percent, as p from 1 on."""
    percent, bare = (one, other) if one.unit else (other, one)
    if _same(rf"\frac{{{percent.formula}}}{{100}}", bare.formula):
        return True
    value = parse_value(percent.formula)
    size = number(value) if isinstance(value, Expr) else None
    return size is not None and abs(size) >= 1 and _same(percent.formula, bare.formula)


def _same_converted(one: Answer, other: Answer) -> bool:
    """True if two quantities with different units are equal: 1 m is equal to 100 cm."""
    if {one.unit, other.unit} == {"°", "rad"}:
        return _same_angle(one, other)
    factor = ratio(one.unit, other.unit)
    if factor is None:
        return False
    above, below = factor.numerator, factor.denominator
    return _same(rf"({one.formula})\frac{{{above}}}{{{below}}}", other.formula) or _same(
        one.formula, rf"({other.formula})\frac{{{below}}}{{{above}}}"
    )


def _same_angle(one: Answer, other: Answer) -> bool:
    """True if an angle in degrees is equal to one in radians."""
    degrees, radians = (one, other) if one.unit == "°" else (other, one)
    return _same(rf"({degrees.formula})\frac{{\pi}}{{180}}", radians.formula)


def _same_time(one: Answer, other: Answer) -> bool:
    """True if two times of day show the same hour and minute."""
    clocks = [re.fullmatch(r"([0-9]{1,2})(?::([0-9]{2}))?", each.formula) for each in (one, other)]
    return all(clocks) and len({(int(c[1]), int(c[2] or 0)) for c in clocks if c}) == 1


def _in_base(answer: Answer) -> int | None:
    """The value of a numeral in the base that its unit names."""
    base = int(answer.unit.removeprefix("base "))
    try:
        return int(answer.formula, base) if 2 <= base <= 36 else None
    except ValueError:
        return None


def _same(one: str, other: str) -> bool:
    """True if two formulas without units are equal."""
    roman = _ROMAN.fullmatch(one), _ROMAN.fullmatch(other)
    if roman[0] and roman[1]:
        return roman[0][1] == roman[1][1]
    words = _words(one), _words(other)
    if words[0] or words[1]:
        return _meaning(words[0]) == _meaning(words[1]) if all(words) else _same_named_set(*words, one, other)
    domains = [_DOMAIN.match(text) if r"\in" in text else None for text in (one, other)]
    if domains[0] and domains[1] and domains[0]["set"] != domains[1]["set"]:
        return False
    one, other = (text[: m.start("at")] if m else text for m, text in zip(domains, (one, other), strict=True))
    named = [_NAMED.fullmatch(text) for text in (one, other)]
    if bool(named[0]) != bool(named[1]) and not ("=" in one and "=" in other):
        one, other = (match[1].strip() if match else text for match, text in zip(named, (one, other), strict=True))
    loose = [_loose_words(text) for text in (one, other)]
    if all(loose) and loose[0] != loose[1]:
        return False
    if set(_CHANGES.findall(one.casefold())) != set(_CHANGES.findall(other.casefold())):
        return False
    counted = [_COUNTED.search(text) for text in (one, other)]
    nouns = [next(filter(None, match.groups()), "").strip() if match else "" for match in counted]
    if all(nouns) and nouns[0] != nouns[1] and not all(loose):
        return False
    first, second = (parse_value(_COUNTED.sub("", text)) for text in (one, other))
    try:
        verdict = None if first is None or second is None else same(first, second)
    except RecursionError:
        verdict = None
    if verdict is None and loose[0] == loose[1] and (_BEYOND.search(one) or _BEYOND.search(other)):
        return same_expressions(one, other)
    return verdict is True


def _meaning(words: str) -> str:
    """The words without an article, or the first of those that mean the same."""
    words = re.sub(r"\A(?:an?|the) (?=..)", "", words)
    return _SYNONYMS.get(words, words)


def _same_named_set(first: str, second: str, one: str, other: str) -> bool:
    """True if the words of one answer name the set that the other one is in symbols."""
    named = _NAMED_SETS.get(_meaning(first or second))
    value = parse_value(other if first else one)
    return named is not None and value is not None and same(named, value) is True


def _words(text: str) -> str:
    """The words of a text that contains only words, in lower case; "" for any other text."""
    text = TEXT.sub(r" \1 ", text)
    tokens = re.findall(r"[^\W\d_]+", text)
    if not re.fullmatch(r"(?:[^\W\d_]|[\s'’.,()\"-])*", text) or not any(map(is_word, tokens)):
        return ""
    return " ".join(tokens).casefold()


def _loose_words(text: str) -> list[str]:
    """Separate words among formulas, sorted and without the words that link formulas."""
    tokens = re.findall(r"(?<![^\s(,])[^\W\d_]{3,}(?![^\s),.])", TEXT.sub(r" \1 ", text))
    return sorted(t.casefold() for t in tokens if is_word(t) and t.casefold() not in _LINKS)
