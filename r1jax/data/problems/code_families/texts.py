"""Families about texts."""

from __future__ import annotations

import itertools
import re
import string
from collections import Counter
from typing import Any

from r1jax.data.problems.code_families.draws import ITEMS, SMALL, TEXT, integers, letters, sentence
from r1jax.data.problems.code_families.template import Family, Template

_VOWELS = "aeiouAEIOU"


def _shift(text: str, k: int) -> str:
    def one(c: str) -> str:
        if not c.isalpha():
            return c
        first = ord("a") if c.islower() else ord("A")
        return chr((ord(c) - first + k) % 26 + first)

    return "".join(map(one, text))


def _depth(text: str) -> int:
    level = most = 0
    for c in text:
        level += (c == "(") - (c == ")")
        most = max(most, level)
    return most


def _balanced(text: str) -> bool:
    closing, open_ones = {")": "(", "]": "["}, []
    for c in text:
        if c in "([":
            open_ones.append(c)
        elif c in closing and (not open_ones or open_ones.pop() != closing[c]):
            return False
    return not open_ones


def _runs(items: Any) -> list[tuple[Any, int]]:
    return [(key, len(list(group))) for key, group in itertools.groupby(items)]


TEXTS: dict[str, Family] = {
    "letters": (
        Template(
            "returns the text with every vowel (a, e, i, o, u) in upper case and all other characters unchanged.",
            "text",
            lambda t: "".join(c.upper() if c in _VOWELS else c for c in t),
            TEXT,
        ),
        Template(
            "removes every vowel (a, e, i, o, u, in both cases) from a text.",
            "text",
            lambda t: "".join(c for c in t if c not in _VOWELS),
            TEXT,
        ),
        Template(
            "returns every {k}th character of a text, starting with the first one.",
            "text",
            lambda t, k: t[::k],
            TEXT,
            SMALL,
        ),
        Template(
            'puts the text "{w}" between all neighbouring characters of a text.',
            "text",
            lambda t, w: w.join(t),
            TEXT,
            words=("-", "*", ", ", "ab"),
        ),
        Template(
            'replaces each space in a text with "{w}" and reverses the result.',
            "text",
            lambda t, w: t.replace(" ", w)[::-1],
            TEXT,
            words=("_", "--", "xy"),
        ),
        Template(
            "swaps the first and the last character of a text. Texts with fewer than two characters are unchanged.",
            "text",
            lambda t: t if len(t) < 2 else t[-1] + t[1:-1] + t[0],
            (letters("abcdef"),),
        ),
    ),
    "counting": (
        Template(
            "returns the number of words in a text that have more than {k} letters. Words are separated by spaces.",
            "text",
            lambda t, k: sum(len(x) > k for x in t.split()),
            TEXT,
            range(2, 7),
        ),
        Template(
            "returns the number of characters of a text that are upper-case letters.",
            "text",
            lambda t: sum(map(str.isupper, t)),
            TEXT,
        ),
        Template(
            "counts how many elements of a list are divisible by {k}.",
            "items",
            lambda x, k: sum(n % k == 0 for n in x),
            ITEMS,
            SMALL,
        ),
        Template(
            "counts the elements of a list that are greater than the element before them.",
            "items",
            lambda x: sum(b > a for a, b in itertools.pairwise(x)),
            ITEMS,
        ),
        Template(
            "returns how many different characters a text has, where upper and lower case are the same and spaces "
            "do not count.",
            "text",
            lambda t: len(set(t.lower()) - {" "}),
            TEXT,
        ),
        Template(
            "returns the number of elements that occur exactly once in a list.",
            "items",
            lambda x: sum(n == 1 for n in Counter(x).values()),
            (integers(0, 6),),
        ),
    ),
    "palindromes": (
        Template(
            "returns True if a text reads the same backwards, where upper and lower case are the same and spaces "
            "are ignored, else False.",
            "text",
            lambda t: (c := t.lower().replace(" ", "")) == c[::-1],
            (lambda rng: rng.choice(["Never odd or even", "Radar", "noon", "level up", sentence(1, 2)(rng)]),),
        ),
        Template(
            "returns True if two words have the same letters equally often, else False.",
            "a, b",
            lambda a, b: sorted(a) == sorted(b),
            (letters("ab", 2, 3), letters("ab", 2, 3)),
        ),
        Template(
            'appends to a text its own reverse without the first character of the reverse: "abc" becomes "abcba".',
            "text",
            lambda t: t + t[::-1][1:],
            (letters("abcxyz"),),
        ),
        Template(
            "returns the words of a list that are the same backwards and have more than {k} letters.",
            "words",
            lambda x, k: [t for t in x if t == t[::-1] and len(t) > k],
            (
                lambda rng: [
                    rng.choice(["level", "noon", "radar", "civic", "anna", "eve", "moon", "desk"])
                    for _ in range(rng.randint(0, 6))
                ],
            ),
            range(2, 5),
        ),
        Template(
            "returns the number of positions at which a text differs from its own reverse.",
            "text",
            lambda t: sum(a != b for a, b in zip(t, t[::-1], strict=True)),
            (letters("abc"),),
        ),
    ),
    "ciphers": (
        Template(
            "moves each letter of a text {k} places forward in the alphabet, from z back to a; the case stays, "
            "and other characters are unchanged.",
            "text",
            _shift,
            TEXT,
            range(1, 13),
        ),
        Template(
            "takes characters from two texts in turn, starting with the first text; the rest of the longer text "
            "follows.",
            "a, b",
            lambda a, b: "".join(x + y for x, y in itertools.zip_longest(a, b, fillvalue="")),
            (letters("abc", 0, 6), letters("xyz", 0, 6)),
        ),
        Template(
            "reverses each word of a text; the order of the words stays.",
            "text",
            lambda t: " ".join(x[::-1] for x in t.split()),
            TEXT,
        ),
        Template(
            'replaces each lower-case letter by its number in the alphabet (a is 1), with "{w}" between the numbers.',
            "text",
            lambda t, w: w.join(str(string.ascii_lowercase.index(c) + 1) for c in t),
            (letters("abcxyz"),),
            words=("-", " ", "."),
        ),
        Template(
            "replaces a by z, b by y and so on in a text of lower-case letters and spaces; spaces are unchanged.",
            "text",
            lambda t: "".join(c if c == " " else chr(219 - ord(c)) for c in t),
            (lambda rng: sentence()(rng).lower(),),
        ),
    ),
    "brackets": (
        Template(
            "returns the largest depth of nested round brackets in a text in which they are balanced.",
            "text",
            _depth,
            (
                lambda rng: "".join(
                    rng.choice(["(a)", "((b))", "x", "(a(b)c)", "(((y)))"]) for _ in range(rng.randint(0, 4))
                ),
            ),
        ),
        Template(
            "returns True if the brackets ( ) and [ ] in a text are balanced and correctly nested, else False.",
            "text",
            _balanced,
            (lambda rng: rng.choice(["", "([])", "(]", "([)]", "[()]()", "((", "())"]) + letters("()[]", 0, 3)(rng),),
        ),
        Template(
            'returns the text between the first "{w}" and the next "{w}" after it, or an empty text if there are '
            "not two.",
            "text",
            lambda t, w: t.split(w)[1] if t.count(w) > 1 else "",
            (letters("ab*|", 0, 9),),
            words=("*", "|"),
        ),
        Template(
            "removes all characters in round brackets from a text, and the brackets themselves. Brackets are not "
            "nested.",
            "text",
            lambda t: re.sub(r"\([^)]*\)", "", t),
            (lambda rng: "".join(rng.choice(["(ab)", "x", "yz", "()", " (c)"]) for _ in range(rng.randint(0, 5))),),
        ),
    ),
    "runs": (
        Template(
            'compresses a text by writing each run of equal characters as the character and its length: "aaab" '
            'becomes "a3b1".',
            "text",
            lambda t: "".join(f"{c}{n}" for c, n in _runs(t)),
            (letters("aab"),),
        ),
        Template(
            "returns the length of the longest run of equal elements in a list, or 0 for an empty list.",
            "items",
            lambda x: max((n for _, n in _runs(x)), default=0),
            (integers(0, 2, 0, 10),),
        ),
        Template(
            "keeps one character of each run of equal characters in a text.",
            "text",
            lambda t: "".join(c for c, _ in _runs(t)),
            (letters("abc"),),
        ),
        Template(
            'expands a text of letters that are each followed by one digit: "a3b1" becomes "aaab".',
            "text",
            lambda t: "".join(c * int(n) for c, n in zip(t[::2], t[1::2], strict=True)),
            (lambda rng: "".join(rng.choice("abcxyz") + str(rng.randint(1, 5)) for _ in range(rng.randint(0, 4))),),
        ),
        Template(
            "returns how many runs of equal elements with at least {k} elements a list has.",
            "items",
            lambda x, k: sum(n >= k for _, n in _runs(x)),
            (integers(0, 2, 0, 12),),
            range(2, 4),
        ),
    ),
}
