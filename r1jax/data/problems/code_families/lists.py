"""Families about lists."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from r1jax.data.problems.code_families.draws import ITEMS, SMALL, integers, pairs, sentence, words
from r1jax.data.problems.code_families.template import Family, Template


def _longest_rise(items: list[int]) -> int:
    best = run = 0
    for i, item in enumerate(items):
        run = run + 1 if i and item > items[i - 1] else 1
        best = max(best, run)
    return best


LISTS: dict[str, Family] = {
    "filters": (
        Template(
            "returns the elements of a list that are greater than {k}, each multiplied by 2.",
            "items",
            lambda x, k: [2 * n for n in x if n > k],
            ITEMS,
            range(0, 10),
        ),
        Template(
            "returns the elements of a list that are not divisible by {k}, in the same order.",
            "items",
            lambda x, k: [n for n in x if n % k],
            ITEMS,
            SMALL,
        ),
        Template(
            "returns the squares of the negative elements of a list.",
            "items",
            lambda x: [n * n for n in x if n < 0],
            ITEMS,
        ),
        Template(
            "returns the elements at even positions (0, 2, 4, ...) of a list that are odd.",
            "items",
            lambda x: [n for n in x[::2] if n % 2],
            ITEMS,
        ),
        Template(
            'returns the words of a list that start with the letter "{w}", in upper case.',
            "words",
            lambda x, w: [t.upper() for t in x if t.startswith(w)],
            (words(),),
            words=tuple("abcdl"),
        ),
        Template(
            "replaces each element of a list that is below {k} by {k} and leaves the others unchanged.",
            "items",
            lambda x, k: [max(n, k) for n in x],
            ITEMS,
            range(0, 10),
        ),
    ),
    "totals": (
        Template(
            "returns the sum of the elements of a list that are divisible by {k}.",
            "items",
            lambda x, k: sum(n for n in x if n % k == 0),
            ITEMS,
            SMALL,
        ),
        Template(
            "returns the difference between the largest and the smallest element of a list, or 0 for an empty list.",
            "items",
            lambda x: max(x) - min(x) if x else 0,
            ITEMS,
        ),
        Template(
            "returns the product of the elements of a list that are not zero, or 1 if there are none.",
            "items",
            lambda x: math.prod(n for n in x if n),
            (integers(-3, 5),),
        ),
        Template(
            "returns the sum of the {k} largest elements of a list, or of all elements if there are fewer.",
            "items",
            lambda x, k: sum(sorted(x, reverse=True)[:k]),
            ITEMS,
            range(1, 5),
        ),
        Template(
            "returns the alternating sum of a list: the first element minus the second plus the third, and so on.",
            "items",
            lambda x: sum(x[::2]) - sum(x[1::2]),
            ITEMS,
        ),
        Template(
            "returns the sum of each element times its position, where positions start at {k}.",
            "items",
            lambda x, k: sum(i * n for i, n in enumerate(x, k)),
            ITEMS,
            range(0, 4),
        ),
    ),
    "windows": (
        Template(
            "returns the list of the sums of all {k} consecutive elements of a list; it is empty if the list is "
            "shorter.",
            "items",
            lambda x, k: [sum(x[i : i + k]) for i in range(len(x) - k + 1)],
            ITEMS,
            range(2, 5),
        ),
        Template(
            "returns the running totals of a list: the sum of the first element, of the first two, and so on.",
            "items",
            lambda x: list(itertools.accumulate(x)),
            ITEMS,
        ),
        Template(
            "returns the differences between each element of a list and the one before it.",
            "items",
            lambda x: [b - a for a, b in itertools.pairwise(x)],
            ITEMS,
        ),
        Template(
            "returns a list in which each element is the largest of the elements up to that position.",
            "items",
            lambda x: list(itertools.accumulate(x, max)),
            ITEMS,
        ),
        Template(
            "splits a list into consecutive parts of {k} elements; the last part may be shorter.",
            "items",
            lambda x, k: [x[i : i + k] for i in range(0, len(x), k)],
            ITEMS,
            range(2, 5),
        ),
        Template(
            "moves the first {k} elements of a list to its end. If the list is shorter, {k} is first reduced "
            "modulo its length; an empty list stays empty.",
            "items",
            lambda x, k: x[k % len(x) :] + x[: k % len(x)] if x else [],
            ITEMS,
            range(1, 6),
        ),
    ),
    "sorting": (
        Template(
            "sorts a list of words by length and words of the same length alphabetically.",
            "words",
            lambda x: sorted(x, key=lambda t: (len(t), t)),
            (words(),),
        ),
        Template(
            "sorts a list of integers by their remainder after division by {k}, and equal remainders from small "
            "to large.",
            "items",
            lambda x, k: sorted(x, key=lambda n: (n % k, n)),
            (integers(0, 40),),
            range(3, 8),
        ),
        Template(
            "returns the {k} smallest different elements of a list in ascending order, or all if there are fewer.",
            "items",
            lambda x, k: sorted(set(x))[:k],
            ITEMS,
            range(2, 5),
        ),
        Template(
            "sorts a list of [name, number] pairs by number from large to small, and equal numbers by name.",
            "pairs",
            lambda x: sorted(x, key=lambda p: (-p[1], p[0])),
            (pairs,),
        ),
        Template(
            "returns the even elements of a list in ascending order followed by the odd elements in descending order.",
            "items",
            lambda x: sorted(n for n in x if n % 2 == 0) + sorted((n for n in x if n % 2), reverse=True),
            ITEMS,
        ),
        Template(
            "sorts the words of a text by their last letter, and words with the same last letter stay in their "
            "order. The result is a text with single spaces.",
            "text",
            lambda t: " ".join(sorted(t.lower().split(), key=lambda x: x[-1])),
            (lambda rng: sentence()(rng).lower(),),
        ),
    ),
    "sets": (
        Template(
            "returns the sorted list of the elements that two lists have in common, without repeats.",
            "a, b",
            lambda a, b: sorted(set(a) & set(b)),
            (integers(0, 9), integers(0, 9)),
        ),
        Template(
            "removes repeated elements from a list; the first of each stays.",
            "items",
            lambda x: list(dict.fromkeys(x)),
            (integers(0, 6),),
        ),
        Template(
            "returns the sorted list of the elements that are in exactly one of two lists.",
            "a, b",
            lambda a, b: sorted(set(a) ^ set(b)),
            (integers(0, 9), integers(0, 9)),
        ),
        Template(
            "returns the sorted list of the integers from 1 to {k} that are not in a list.",
            "items",
            lambda x, k: [i for i in range(1, k + 1) if i not in x],
            (integers(1, 9),),
            range(6, 11),
        ),
        Template(
            "returns the sorted list of the elements that occur at least {k} times in a list.",
            "items",
            lambda x, k: sorted(n for n, c in Counter(x).items() if c >= k),
            (integers(0, 4, 0, 10),),
            range(2, 4),
        ),
        Template(
            "returns True if all elements of the first list are in the second list, else False.",
            "a, b",
            lambda a, b: set(a) <= set(b),
            (integers(0, 4, 0, 3), integers(0, 5, 0, 8)),
        ),
    ),
    "search": (
        Template(
            "returns the position of the first element of a list that is greater than {k}, or -1 if there is none.",
            "items",
            lambda x, k: next((i for i, n in enumerate(x) if n > k), -1),
            ITEMS,
            range(3, 15),
        ),
        Template(
            "returns the number of pairs of positions i < j in a list whose elements add up to {k}.",
            "items",
            lambda x, k: sum(a + b == k for a, b in itertools.combinations(x, 2)),
            (integers(0, 8),),
            range(4, 12),
        ),
        Template(
            "returns the length of the longest run of consecutive elements in which each is greater than the one "
            "before, or 0 for an empty list.",
            "items",
            _longest_rise,
            ITEMS,
        ),
        Template(
            "returns the second largest of the different elements of a list, or None if there are fewer than two.",
            "items",
            lambda x: sorted(set(x))[-2] if len(set(x)) > 1 else None,
            (integers(0, 9, 0, 6),),
        ),
        Template(
            "returns the list of all positions of the largest element in a list.",
            "items",
            lambda x: [i for i, n in enumerate(x) if n == max(x)],
            (integers(0, 4),),
        ),
        Template(
            "returns the longest word of a list, the first one if several have the same length, or an empty text "
            "for an empty list.",
            "words",
            lambda x: max(x, key=len, default=""),
            (words(),),
        ),
    ),
}
