"""Reasoning of R1-Zero made readable by rules: the cold start's rewriting for what the small models write."""

from __future__ import annotations

import re

from r1jax.data.columns import BORROW, CARRY, PLACES, STOP, TURN, Language
from r1jax.data.problem import Problem
from r1jax.data.solutions import first_person, language_of, summary

# What R1-Zero says to itself, in either language; a person who tells how it goes leaves it out.
_FILLER = re.compile(r" ?(?:wait, again|no, let me see|等等，再来|不对，再看)[.。] ?")


def _phrases() -> list[tuple[str, str]]:
    """(English, Chinese) of all that column arithmetic says, longest first, so that none is taken for a part."""
    pairs = list(zip(PLACES["en"], PLACES["zh"], strict=True))
    pairs += [(CARRY["en"], CARRY["zh"]), (BORROW["en"], BORROW["zh"]), *zip(TURN["en"], TURN["zh"], strict=True)]
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def rewrite(problem: Problem, reasoning: str, answer: str) -> str:
    """The assistant's whole text: the reasoning rewritten, then a summary with the answer.

    The rules: asides such as "wait, again" go out; each phrase of column arithmetic in the other language becomes its
    counterpart in the question's language, and the full stops of that language follow it; each column is told in the
    first person; the summary names the result. Words that no rule knows stay, for the readability filter to find.
    """
    language = language_of(problem)
    text = _FILLER.sub(" ", reasoning)
    for english, chinese in _phrases():
        old, new = (chinese, english) if language == "en" else (english, chinese)
        text = text.replace(old, new)
    text = _stops(text, language).strip()
    if "I work" not in text and "我算" not in text:
        text = first_person(text, language)
    return f"<think>{text}</think>{summary(problem, answer)}"


def _stops(text: str, language: Language) -> str:
    end = STOP[language]
    text = re.sub(r"(?<=[^\d\s.。])\s*[.。](?:\s+|$)|(?<=\d)(?:\. |\.$|。)\s*", lambda _: end, text)
    return text.rstrip()
