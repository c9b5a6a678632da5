"""Rewriting the reasoning of R1-Zero readably: rules for small models, and a prompt for a model that rewrites it."""

from __future__ import annotations

import re

from r1jax.data.problems.problem import Language, Problem
from r1jax.data.text.column_arithmetic import BORROW, CARRY, PLACES, STOP, SWAP
from r1jax.data.text.solutions import first_person, language_of, summary

# The prompt for a model that rewrites; {question}, {reasoning} and {language} are replaced.
PROMPT = (
    "Somebody thought about this question: {question}\n\nTheir notes: {reasoning}\n\nWrite the same reasoning in "
    "{language}, in the first person, step by step and without digressions. Write the reasoning alone."
)
LANGUAGE_NAMES: dict[Language, str] = {"en": "English", "zh": "Chinese"}

# Asides of R1-Zero in either language, which readable reasoning omits.
_FILLER = re.compile(r" ?(?:wait, again|no, let me see|等等，再来|不对，再看)[.。] ?")
# The first-person start of a column, which is written again in the language of the question.
_PLACE = "|".join((*PLACES["en"], *PLACES["zh"]))
_LEAD = re.compile(f"(?:I work the |我算)(?={_PLACE})")


def rewriting_prompt(prompt: str, problem: Problem, reasoning: str) -> str:
    """The prompt with one problem, its reasoning and its language filled in."""
    parts = {"question": problem.question, "reasoning": reasoning, "language": LANGUAGE_NAMES[language_of(problem)]}
    return re.sub(r"\{(question|reasoning|language)\}", lambda name: parts[name[1]], prompt)


def readable_response(problem: Problem, reasoning: str, answer: str) -> str:
    """The assistant's whole text: the readable reasoning, then a summary with the answer."""
    return f"<think>{reasoning}</think>{summary(problem, answer)}"


def make_readable(problem: Problem, reasoning: str) -> str:
    """The reasoning, rewritten by rules in the language of the question.

    The rules remove asides such as "wait, again", translate the phrases and full stops of column arithmetic, and write
    each column in the first person. Line breaks and unknown words are kept; the readability filter
    (r1jax.data.text.readability) finds unknown words in another language.
    """
    language = language_of(problem)
    text = _LEAD.sub("", _FILLER.sub(" ", reasoning))
    for english, chinese in _phrases():
        old, new = (chinese, english) if language == "en" else (english, chinese)
        text = re.sub(_whole(old), lambda _, new=new: new, text)
    return first_person(_stops(text, language).strip(), language)


def _phrases() -> list[tuple[str, str]]:
    """(English, Chinese) phrases of column arithmetic, longest first, so that none is replaced inside a longer one."""
    pairs = list(zip(PLACES["en"], PLACES["zh"], strict=True))
    pairs += [(CARRY["en"], CARRY["zh"]), (BORROW["en"], BORROW["zh"]), *zip(SWAP["en"], SWAP["zh"], strict=True)]
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def _whole(phrase: str) -> str:
    """A pattern that matches an English phrase only at word boundaries; Chinese has no spaces between words."""
    letter = "[A-Za-z]"
    before, after = (
        f"(?<!{letter})" if phrase[0].isascii() and phrase[0].isalpha() else "",
        f"(?!{letter})" if phrase[-1].isascii() and phrase[-1].isalpha() else "",
    )
    return before + re.escape(phrase) + after


def _stops(text: str, language: Language) -> str:
    """The text with the full stops of ``language``, and without spaces at the ends of lines."""
    end = STOP[language]
    stop = r"(?<=[^\d\s.。])[ \t]*[.。](?:[ \t]+|(?=\n)|$)|(?<=\d)(?:\. |\.(?=\n|$)|。)[ \t]*"
    return re.sub(r"(?<![ \t])[ \t]+(?=\n|$)", "", re.sub(stop, lambda _: end, text))
