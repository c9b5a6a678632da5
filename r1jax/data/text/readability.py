"""Readability of reasoning: unreadable samples are not trained on, even if correct (arXiv 2501.12948, sec. 2.3.3)."""

from __future__ import annotations

import dataclasses
import re

from r1jax.data.problems.problem import Problem
from r1jax.data.text.language import consistency
from r1jax.data.text.solutions import language_of
from r1jax.errors import UserError

FAULTS = ("format", "mixed language", "long paragraph", "code", "repetition")

_CODE = re.compile(r"```|^[^\S\n]*(?:def|import|class|#include)\b", re.MULTILINE)
_PIECE = re.compile(r"[\u4e00-\u9fff]|\w+|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class ReadabilityConfig:
    """Bounds outside of which reasoning counts as unreadable."""

    language: float = 1.0
    """Require at least this share of the reasoning's words to be in the question's language."""
    paragraph: int = 1200
    """Allow paragraphs of at most this many characters."""
    repetition: float = 0.3
    """Allow at most this share of repeated sequences of 8 words and signs."""

    def __post_init__(self) -> None:
        if not (0 <= self.language <= 1 and 0 <= self.repetition <= 1) or self.paragraph < 1:
            raise UserError("readability: language and repetition are shares from 0 to 1, paragraph at least 1")


def repetition(text: str, n: int = 8) -> float:
    """Share of the sequences of ``n`` words and signs that appear earlier in the text, 0 to 1; 0 for a shorter text."""
    pieces = _PIECE.findall(text)
    sequences = [tuple(pieces[i : i + n]) for i in range(len(pieces) - n + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def fault(problem: Problem, reasoning: str | None, config: ReadabilityConfig) -> str | None:
    """The first of FAULTS that the reasoning has, None for readable reasoning; "format" for missing reasoning."""
    if not reasoning:
        return "format"
    if consistency(reasoning, language_of(problem)) < config.language:
        return "mixed language"
    if max(map(len, re.split(r"\n\s*\n", reasoning))) > config.paragraph:
        return "long paragraph"
    if _CODE.search(reasoning):
        return "code"
    return "repetition" if repetition(reasoning) > config.repetition else None
