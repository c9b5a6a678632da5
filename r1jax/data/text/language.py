"""The words of a text, English or Chinese, and their languages; mathematics and code do not count."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

# Formulas, code and tags, which have no language. What the first group opens extends to its end, over line breaks.
_COMMAND = r"\\[A-Za-z]+(?:\{[^{}]*\})*"  # a LaTeX command
_NOT_PROSE = re.compile(
    r"(```|(?<!\\)\$\$|\\\[|\\\(|\\begin\{\w+\*?\})"
    rf"|`[^`\n]*`|(?<!\\)\$[^$\n]*\$|{_COMMAND}|<[^<>\s]+>|https?://\S+"
)
_ENDS = {"```": "```", "$$": "$$", "\\[": "\\]", "\\(": "\\)"}
# Consecutive letters and marks next to no digit, since 2x and x1 are mathematics.
_LETTERS = re.compile(r"(?<![\d_])[^\W\d_](?:[^\W\d_]|[\u0300-\u036f'’-](?=[^\W\d_]))*(?![\d_])")
_SHORT = 24  # letters of words that are kept
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+")


def words(text: str) -> Iterator[tuple[str, str]]:
    """Yields each word of the prose of ``text`` and its language: "zh" for Han characters, "en" for Latin letters.

    Other scripts have their Unicode name in lower case ("cyrillic", "hiragana"). Only the script counts: French is
    "en". Chinese is segmented by jieba's dictionary. A single Latin letter other than "a" and "I" is a variable, not a
    word.
    """
    for letters in _LETTERS.findall(_prose(text)):
        yield from _words_short(letters) if len(letters) <= _SHORT else _words(letters)


def _words(letters: str) -> tuple[tuple[str, str], ...]:
    """The words of consecutive letters, each with its language."""
    import rjieba  # loads a dictionary, which commands without texts need not wait for

    found: list[tuple[str, str]] = []
    end = 0
    for han in _HAN.finditer(letters):
        found += _without_han(letters[end : han.start()])
        found += [(word, "zh") for word in rjieba.cut(han[0], hmm=False)]
        end = han.end()
    return (*found, *_without_han(letters[end:]))


_words_short = functools.lru_cache(maxsize=2**16)(_words)  # most words of texts are among few


def _prose(text: str) -> str:
    """The text with a space in place of each formula, piece of code and tag, in time linear in its length.

    An unclosed code block extends to the end of the text; of other unclosed formulas, only the opening is removed.
    """
    # The last position of each kind of end, so that no search scans text without one.
    last = {end: text.rfind(end) for end in _ENDS.values()}
    last |= {match[0]: match.start() for match in re.finditer(r"\\end\{\w+\*?\}", text)}
    parts, at = [], 0
    while match := _NOT_PROSE.search(text, at):
        parts.append(text[at : match.start()])
        at = match.end()
        if opening := match[1]:
            end = _ENDS.get(opening) or opening.replace("begin", "end", 1)
            if last.get(end, -1) >= at:
                at = text.index(end, at) + len(end)
            elif opening == "```":
                at = len(text)
            elif command := re.compile(_COMMAND).match(text, match.start()):
                at = command.end()
    return " ".join([*parts, text[at:]])


def _without_han(letters: str) -> Iterator[tuple[str, str]]:
    """Yields letters other than Han characters as one word with its language, unless they are empty or a variable."""
    if not letters:
        return
    script = unicodedata.name(letters[0], "unknown").split()[0].lower()
    if script != "latin":
        yield letters, script
    elif len(letters) > 1 or letters in ("a", "A", "I"):
        yield letters, "en"


def main_language(text: str) -> str | None:
    """The language of most words, the first one in the text in case of a tie; None for a text without words."""
    counts = Counter(language for _, language in words(text))
    return max(counts, key=counts.__getitem__) if counts else None


def consistency(text: str, language: str) -> float:
    """Share of the words of ``text`` in ``language``, 0 to 1; 1 for a text without words (arXiv 2501.12948, 2.3.2)."""
    counts = Counter(found for _, found in words(text))
    return counts[language] / counts.total() if counts else 1.0
