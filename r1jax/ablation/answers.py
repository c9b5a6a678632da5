"""Answers compared with the expected ones inside a program, on arrays of character codes (r1jax.ablation.text).

``number`` reads decimal numbers as r1jax.data.text.numbers.read_number does: an optional sign, digits with or without
commas between thousands, an optional fraction, a unit of letters, and punctuation after it. It differs from read_number
in these texts, which are no number here:

- a number with a currency, a scale, a percentage, or a unit with a power or a quotient ($5, 2 million, 50%, 5 m2);
- a fraction, also a vulgar one, and a number with an exponent or a power (10/2, 5e0);
- a number in LaTeX or markdown (\\boxed{5}, **5**), inside other tags, or with spaces between thousands;
- an answer of more than WIDTH characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.ablation.text import DASH, MARK, PLUS, codes_of, is_space
from r1jax.data.problems.problem import Problem
from r1jax.data.text.numbers import UNITS, read_number, unit_of
from r1jax.errors import UserError

WIDTH = 32  # characters of an answer that are read
CHECKERS = ("number", "exact")

_WORDS = [unit for unit in UNITS if unit.isascii() and unit.isalpha() and unit_of(unit) != "%"]
_UNITS = np.array([[*codes_of(word), *[0] * (max(map(len, _WORDS)) + 1 - len(word))] for word in _WORDS], np.uint8)


@flax.struct.dataclass
class Expected:
    """The expected answers of n problems."""

    exact: jax.Array  # [n] bool, True for the checker "exact", False for "number"
    text: jax.Array  # [n, WIDTH] uint8, for "exact"
    length: jax.Array  # [n] int32, of text
    negative: jax.Array  # [n] bool, for "number"
    whole: jax.Array  # [n, WIDTH] uint8, digits before the point without leading zeros
    whole_length: jax.Array  # [n] int32
    fraction: jax.Array  # [n, WIDTH] uint8, digits after the point, with zeros up to WIDTH
    fraction_length: jax.Array  # [n] int32, without these zeros


def expected_answers(problems: Sequence[Problem]) -> Expected:
    """The expected answers of problems; raises UserError for other checkers and answers that have no such form."""
    n = len(problems)
    text, whole = np.zeros((n, WIDTH), np.uint8), np.zeros((n, WIDTH), np.uint8)
    fraction = np.full((n, WIDTH), ord("0"), np.uint8)
    length, whole_length, fraction_length = (np.zeros(n, np.int32) for _ in range(3))
    negative = np.zeros(n, bool)
    for i, problem in enumerate(problems):
        if problem.checker not in CHECKERS:
            raise UserError(
                f"checker {problem.checker!r} has no form in an ablation's program: choose problems whose checker is "
                f"one of {', '.join(CHECKERS)}"
            )
        answer = problem.answer.strip()
        if problem.checker == "exact":
            if not answer.isascii() or "\0" in answer or len(answer) > WIDTH:
                raise UserError(
                    f"the answer {answer!r} has no form in an ablation's program: it must be at most {WIDTH} "
                    "characters of ASCII"
                )
            text[i, : len(answer)], length[i] = codes_of(answer), len(answer)
            continue
        number = read_number(answer)
        digits = None if number is None or number.unit else _decimal_digits(abs(number.value))
        if number is None or digits is None:
            raise UserError(
                f"the answer {answer!r} has no form in an ablation's program: it must be a decimal number without a "
                f"unit, of fewer than {WIDTH} digits"
            )
        negative[i] = number.value < 0
        for row, part in zip((whole, fraction), digits, strict=True):
            row[i, : len(part)] = codes_of(part)
        whole_length[i], fraction_length[i] = map(len, digits)
    exact = np.array([problem.checker == "exact" for problem in problems])
    fields = (exact, text, length, negative, whole, whole_length, fraction, fraction_length)
    return Expected(*map(jnp.asarray, fields))


def _decimal_digits(value: Fraction) -> tuple[str, str] | None:
    """Digits before and after the point, without zeros at the ends; None if there are WIDTH or more in total."""
    places = next((n for n in range(WIDTH) if (value * 10**n).denominator == 1), None)
    if places is None:
        return None
    digits = str(int(value * 10**places)).rjust(places, "0")
    whole, fraction = digits[: len(digits) - places].lstrip("0"), digits[len(digits) - places :]
    return None if len(whole) + len(fraction) >= WIDTH else (whole, fraction)


def correct(answers: jax.Array, lengths: jax.Array, expected: Expected) -> jax.Array:
    """True where an answer [B, WIDTH] uint8 of ``lengths`` [B] is correct: [B] bool; expected: of the B problems."""
    found = (lengths > 0) & (lengths <= WIDTH)
    same = (answers == expected.text).all(axis=1) & (lengths == expected.length)
    numbers = _without_unit(answers)
    return found & jnp.where(expected.exact, same, _is_number(numbers) & _equals(numbers, expected))


def _without_unit(answers: jax.Array) -> jax.Array:
    """Answers [B, WIDTH] with white space in place of the unit after a number, if it is one of _UNITS."""
    letter = ((answers | 32) >= ord("a")) & ((answers | 32) <= ord("z"))
    at, start = jnp.arange(WIDTH), jnp.argmax(letter, axis=1)[:, None]
    run = (at >= start) & (jnp.cumsum(~letter & (at >= start), axis=1) == 0)  # the first letters
    place = jnp.minimum(start + jnp.arange(_UNITS.shape[1]), WIDTH - 1)
    inside = jnp.take_along_axis(run, place, axis=1) & (start + jnp.arange(_UNITS.shape[1]) < WIDTH)
    word = jnp.where(inside, jnp.take_along_axis(answers, place, axis=1), 0)
    known = (word[:, None] == jnp.asarray(_UNITS)).all(axis=2).any(axis=1) & (run.sum(axis=1) < _UNITS.shape[1])
    digit = (answers >= ord("0")) & (answers <= ord("9"))
    newest = jax.lax.cummax(jnp.where((answers == ord(" ")) | (at >= start), -1, 2 * at + digit), axis=1)[:, -1]
    return jnp.where(run & (known & (newest % 2 == 1) & (newest >= 0))[:, None], ord(" "), answers)


# States of the reader of numbers, and the state after a character of each class. A number may end in the states of
# _ENDS; NONE is the state of a text that is no number.
_CLASSES = "0", "1", ",", ".", "+", " ", "!", "x", ""  # zero, other digits, comma, point, sign, space, mark, rest, end
_STATES = {
    #           0        1        ,        .        +        sp       mark
    "START": ("PLAIN", "LEAD1", "NONE", "BARE", "SIGN", "NONE", "NONE"),
    "SIGN": ("PLAIN", "LEAD1", "NONE", "BARE", "NONE", "NONE", "NONE"),
    "LEAD1": ("LEAD2", "LEAD2", "COMMA", "POINT", "NONE", "SPACE", "MARKS"),
    "LEAD2": ("LEAD3", "LEAD3", "COMMA", "POINT", "NONE", "SPACE", "MARKS"),
    "LEAD3": ("PLAIN", "PLAIN", "COMMA", "POINT", "NONE", "SPACE", "MARKS"),
    "PLAIN": ("PLAIN", "PLAIN", "MARKS", "POINT", "NONE", "SPACE", "MARKS"),  # digits that no comma may follow
    "COMMA": ("GROUP1", "GROUP1", "MARKS", "MARKS", "NONE", "AFTER", "MARKS"),
    "GROUP1": ("GROUP2", "GROUP2", "NONE", "NONE", "NONE", "NONE", "NONE"),
    "GROUP2": ("GROUP3", "GROUP3", "NONE", "NONE", "NONE", "NONE", "NONE"),
    "GROUP3": ("NONE", "NONE", "COMMA", "POINT", "NONE", "SPACE", "MARKS"),
    "POINT": ("DECIMAL", "DECIMAL", "MARKS", "MARKS", "NONE", "AFTER", "MARKS"),
    "BARE": ("DECIMAL", "DECIMAL", "NONE", "NONE", "NONE", "NONE", "NONE"),  # a point without digits before it
    "DECIMAL": ("DECIMAL", "DECIMAL", "MARKS", "MARKS", "NONE", "SPACE", "MARKS"),
    "SPACE": ("NONE", "NONE", "MARKS", "MARKS", "NONE", "SPACE", "MARKS"),
    "MARKS": ("NONE", "NONE", "MARKS", "MARKS", "NONE", "AFTER", "MARKS"),
    "AFTER": ("NONE", "NONE", "NONE", "NONE", "NONE", "AFTER", "NONE"),
    "NONE": ("NONE",) * 7,
}
_NAMES = tuple(_STATES)
_ENDS = tuple(name not in ("START", "SIGN", "GROUP1", "GROUP2", "BARE", "NONE") for name in _NAMES)
_NEXT = (
    np.array(  # [states, classes]; with a character of no other class it is no number, and the padding changes nothing
        [[*map(_NAMES.index, row), _NAMES.index("NONE"), i] for i, row in enumerate(_STATES.values())], np.int32
    )
)


def _classes(codes: jax.Array) -> jax.Array:
    """Index in _CLASSES of each code."""
    kinds = jnp.full(codes.shape, _CLASSES.index("x"), jnp.int32)
    marks = jnp.isin(codes, jnp.array([*codes_of(";:!?"), MARK], jnp.uint8))
    signs = jnp.isin(codes, jnp.array([*codes_of("+-"), DASH, PLUS], jnp.uint8))
    for which, name in (
        (codes == ord("0"), "0"),
        ((codes >= ord("1")) & (codes <= ord("9")), "1"),
        (codes == ord(","), ","),
        (codes == ord("."), "."),
        (signs, "+"),
        (is_space(codes), " "),
        (marks, "!"),
        (codes == 0, ""),
    ):
        kinds = jnp.where(which, _CLASSES.index(name), kinds)
    return kinds


def _is_number(answers: jax.Array) -> jax.Array:
    """True where an answer [B, WIDTH] is a number: [B] bool."""
    table = jnp.asarray(_NEXT)

    def read(state: jax.Array, kinds: jax.Array) -> tuple[jax.Array, None]:
        return table[state, kinds], None

    start = jnp.full(len(answers), _NAMES.index("START"), jnp.int32)
    state, _ = jax.lax.scan(read, start, _classes(answers).T)
    return jnp.asarray(_ENDS)[state]


def _equals(answers: jax.Array, expected: Expected) -> jax.Array:
    """True where the number of an answer [B, WIDTH] has the expected value: [B] bool. The answer is a number."""
    digit = (answers >= ord("0")) & (answers <= ord("9"))
    # A point before a digit, and not one that ends the sentence.
    point = (answers == ord(".")) & jnp.pad(digit, ((0, 0), (0, 1)))[:, 1:]
    after = jnp.cumsum(point, axis=1) > 0
    whole, fraction = digit & ~after, digit & after
    significant = whole & (jnp.cumsum(whole & (answers != ord("0")), axis=1) > 0)

    def matches(part: jax.Array, wanted: jax.Array) -> jax.Array:
        index = jnp.clip(jnp.cumsum(part, axis=1) - 1, 0, WIDTH - 1)
        return (~part | (answers == jnp.take_along_axis(wanted, index, axis=1))).all(axis=1)

    minus = (answers[:, 0] == ord("-")) | (answers[:, 0] == DASH)
    zero = (expected.whole_length == 0) & (expected.fraction_length == 0)
    same_whole = matches(significant, expected.whole) & (significant.sum(axis=1) == expected.whole_length)
    same_fraction = matches(fraction, expected.fraction) & (fraction.sum(axis=1) >= expected.fraction_length)
    return same_whole & same_fraction & (zero | (minus == expected.negative))
