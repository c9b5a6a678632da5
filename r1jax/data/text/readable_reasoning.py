"""Reasoning of R1-Zero made readable: rules for what the small models write, and a prompt for models that rewrite."""

from __future__ import annotations

import re

from r1jax.data.problems.columns import BORROW, CARRY, PLACES, STOP, TURN, Language
from r1jax.data.problems.problem import Problem
from r1jax.data.problems.solutions import first_person, language_of, summary

# What a model is asked, with {question}, {reasoning} and {language} in their places.
PROMPT = (
    "Somebody thought about this question: {question}\n\nTheir notes: {reasoning}\n\nWrite the same reasoning in "
    "{language}, in the first person, step by step and without digressions. Write the reasoning alone."
)
LANGUAGE_NAMES: dict[Language, str] = {"en": "English", "zh": "Chinese"}

# What R1-Zero says to itself, in either language; a person who tells how it goes leaves it out.
_FILLER = re.compile(r" ?(?:wait, again|no, let me see|等等，再来|不对，再看)[.。] ?")
# Who works a column: said anew in the language of the question.
_PLACE = "|".join((*PLACES["en"], *PLACES["zh"]))
_LEAD = re.compile(f"(?:I work the |我算)(?={_PLACE})")


def rewriting_prompt(prompt: str, problem: Problem, reasoning: str) -> str:
    """The prompt about one problem and its reasoning."""
    parts = {"question": problem.question, "reasoning": reasoning, "language": LANGUAGE_NAMES[language_of(problem)]}
    return re.sub(r"\{(question|reasoning|language)\}", lambda name: parts[name[1]], prompt)


def readable_response(problem: Problem, reasoning: str, answer: str) -> str:
    """The assistant's whole text: rewritten reasoning, then a summary with the answer."""
    return f"<think>{reasoning}</think>{summary(problem, answer)}"


def rewrite(problem: Problem, reasoning: str) -> str:
    """The reasoning rewritten by rules.

    Asides such as "wait, again" go out; each phrase of column arithmetic in the other language becomes its counterpart
    in the question's language, and the full stops of that language follow it; each column is told in the first person.
    Words that no rule knows stay, for the readability filter to find, and so do line breaks.
    """
    language = language_of(problem)
    text = _LEAD.sub("", _FILLER.sub(" ", reasoning))
    for english, chinese in _phrases():
        old, new = (chinese, english) if language == "en" else (english, chinese)
        text = re.sub(_whole(old), lambda _, new=new: new, text)
    return first_person(_stops(text, language).strip(), language)


def _phrases() -> list[tuple[str, str]]:
    """(English, Chinese) of all that column arithmetic says, longest first, so that none is taken for a part."""
    pairs = list(zip(PLACES["en"], PLACES["zh"], strict=True))
    pairs += [(CARRY["en"], CARRY["zh"]), (BORROW["en"], BORROW["zh"]), *zip(TURN["en"], TURN["zh"], strict=True)]
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def _whole(phrase: str) -> str:
    """A pattern of the phrase that finds no English word within another; Chinese has no spaces to go by."""
    letter = "[A-Za-z]"
    before, after = (
        f"(?<!{letter})" if phrase[0].isascii() and phrase[0].isalpha() else "",
        f"(?!{letter})" if phrase[-1].isascii() and phrase[-1].isalpha() else "",
    )
    return before + re.escape(phrase) + after


def _stops(text: str, language: Language) -> str:
    end = STOP[language]
    stop = r"(?<=[^\d\s.。])[ \t]*[.。](?:[ \t]+|(?=\n)|$)|(?<=\d)(?:\. |\.(?=\n|$)|。)[ \t]*"
    return re.sub(r"(?<![ \t])[ \t]+(?=\n|$)", "", re.sub(stop, lambda _: end, text))
