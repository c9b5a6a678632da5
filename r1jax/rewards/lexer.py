"""Tokens of a mathematical answer in LaTeX or plain notation."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

from r1jax.rewards.values import Number, UntypedError


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


FUNCTIONS = word_set(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt gcd lcm max min det"
)
_NAMES = {
    **dict.fromkeys(("infinity", "infty", "inf", "oo"), r"\infty"),
    **{name: f"\\{name}" for name in word_set("pi theta alpha beta gamma delta lambda mu phi omega sigma tau rho")},
}
_COMMANDS = word_set("lim mod frac cup cap times cdot div le ge ne")
_SHORT = word_set("no on up us am an as at be by do go he hi if in is it me my of oh ok or so to we")
_SIGNS = {
    **{r"\times": "*", r"\cdot": "*", r"\ast": "*", r"\div": "/", r"\pm": "pm", "±": "pm", r"\mp": "mp"},
    **{r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=", r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">="},
    **{r"\ne": "!=", r"\neq": "!=", r"\lt": "<", r"\gt": ">", r"\in": "in", r"\approx": "~", "≈": "~", "==": "="},
    **{r"\cup": "cup", r"\cap": "cap", r"\setminus": "setminus", r"\backslash": "setminus"},
    **{r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\%": "%"},
    **{r"\land": "and", r"\wedge": "and", r"\lor": "or", r"\vee": "or", r"\colon": ":", "**": "^"},
    **{r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(", r"\rparen": ")"},
}
_TOKEN = re.compile(
    r"(?P<space>\s+|\\hline)"
    r"|(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    r"|\\(?:text|mathrm|mbox|textrm|textbf|textit) ?\{(?P<text>[^{}]*)\}"
    r"|\\(?:mathrm|mathbf|mathit|boldsymbol|bm) ?\{(?P<letter>[A-Za-z])\}"
    r"|(?P<set>\\mathbb ?\{?[A-Z]\}?)"
    r"|\\begin ?\{(?P<begin>[a-z]+)\}(?:\{[lcr|]*\})?|\\end ?\{(?P<end>[a-z]+)\}"
    r"|(?P<row>\\\\(?:\\\\)?(?:\[[^\]]*\])?)"
    r"|(?P<command>\\[A-Za-z]+|\\[{}%|])"
    r"|(?P<word>[A-Za-z]+|[\u0391-\u03a9\u03b1-\u03c9])"
    r"|(?P<sign><=|>=|!=|==|\*\*|[-+*/^_=<>()\[\]{}|,;:!&%±≈'])"
)
_GREEK = re.compile(
    r"\\(?:(?:var)?(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|phi|psi|omega|sigma|tau|rho|pi|eta|xi|kappa)"
    r"|ell|Gamma|Delta|Theta|Lambda|Phi|Psi|Omega|Sigma)"
)
_DECIMAL = re.compile(r"([0-9]*)\.([0-9]*)(?:\(([0-9]+)\)|(\.\.\.|…|\\[lc]?dots(?![A-Za-z])))")
_EXPONENT = re.compile(r"[eE]([-+]?[0-9]{1,4})(?![0-9.A-Za-z])")
_MAX_EXPONENT = 4000


@dataclasses.dataclass(frozen=True)
class Token:
    """A token; kind: "number", "symbol", "function", "command", "begin", "end", "row", "link" or "sign"."""

    kind: str
    text: str
    number: Number | None = None
    spaced: bool = False  # white space stands before it


class TokenReader:
    """A list of tokens and the place of the current one."""

    def __init__(self, found: list[Token]) -> None:
        self.tokens = found
        self.at = 0

    def peek(self) -> str:
        """The text of a sign, a link or a command; "" for other tokens and at the end."""
        if self.at >= len(self.tokens):
            return ""
        token = self.tokens[self.at]
        return token.text if token.kind in ("sign", "command", "link", "row") else ""

    def take(self, *texts: str) -> bool:
        """True if the current token has one of the texts; then the next one is current."""
        if self.peek() in texts:
            self.at += 1
            return True
        return False

    def expect(self, *texts: str) -> str:
        """The text of the current token, one of the texts; raises UntypedError for another one."""
        found = self.peek()
        if found not in texts or not found:
            raise UntypedError(f"{texts} expected")
        self.at += 1
        return found


def tokens(text: str) -> list[Token]:
    """The tokens of a formula.

    Raises:
      UntypedError: for words and characters that no typed value contains.
    """
    found: list[Token] = []
    at, spaced = 0, False
    while at < len(text):
        if (match := _DECIMAL.match(text, at)) and (match[1] or match[2]):
            found.append(Token("number", match[0], _endless(match), spaced))
        else:
            match = _TOKEN.match(text, at)
            if match is None:
                raise UntypedError(text[at : at + 10])
            if not match["space"]:
                new, end = _token(match, text)
                found += [dataclasses.replace(new[0], spaced=spaced), *new[1:]]
                at, spaced = end, False
                continue
        at, spaced = match.end(), bool(match.lastgroup == "space")
    return found


def _token(match: re.Match[str], text: str) -> tuple[list[Token], int]:
    """The tokens of a match, several for a product of letters, and the position after them."""
    part, end = match.groupdict(), match.end()
    if part["number"]:
        decimals = len(match[0].partition(".")[2]) if "." in match[0] else None
        value = Fraction(match[0] if match[0][-1] != "." else match[0][:-1])
        if power := _EXPONENT.match(text, end):
            if abs(int(power[1])) > _MAX_EXPONENT:
                raise UntypedError(power[0])
            return [Token("number", match[0], Number(value * Fraction(10) ** int(power[1])))], power.end()
        return [Token("number", match[0], Number(value, decimals))], end
    if part["text"] is not None:
        return [_text_token(part["text"])], end
    if part["letter"]:
        return [Token("symbol", part["letter"])], end
    if part["set"]:
        return [Token("symbol", rf"\mathbb{{{re.sub('[^A-Z]', '', part['set'])}}}")], end
    for kind in ("begin", "end"):
        if part[kind]:
            return [Token(kind, part[kind])], end
    if part["row"]:
        return [Token("row", match[0])], end
    if part["word"]:
        return _letters(part["word"]), end
    name = part["command"] or part["sign"]
    if name in _SIGNS:
        return [Token("link" if _SIGNS[name] in ("and", "or") else "sign", _SIGNS[name])], end
    if name[1:] in FUNCTIONS:
        return [Token("function", name[1:])], end
    if _GREEK.fullmatch(name) or name == r"\infty":
        return [Token("symbol", name)], end
    return [Token("command" if part["command"] else "sign", name)], end


def _text_token(words: str) -> Token:
    """A linking word, or a single letter, in upright type."""
    words = words.strip().casefold() if len(words.strip()) > 1 else words.strip()
    if words in ("and", "or", "and/or"):
        return Token("link", words[-2:] if words == "and/or" else words)
    if re.fullmatch("[A-Za-z]", words):
        return Token("symbol", words)
    raise UntypedError(words)


def _letters(run: str) -> list[Token]:
    """A function, a named constant, a linking word, or a product of letters."""
    if run in FUNCTIONS:
        return [Token("function", run)]
    if run in _NAMES:
        return [Token("symbol", _NAMES[run])]
    if run.casefold() in ("and", "or", "in"):
        return [Token("sign", "in") if run.casefold() == "in" else Token("link", run.casefold())]
    if inner := re.fullmatch(r"(sin|cos|tan|ln|log)([a-z])", run):
        return [Token("function", inner[1]), Token("symbol", inner[2])]
    if is_word(run) and run.isascii() and not re.fullmatch("[B-DF-HJ-NP-TV-Z]{2,3}", run):  # as in RC and GM
        raise UntypedError(run)
    return [Token("symbol", letter) for letter in run]


def is_word(token: str) -> bool:
    """True if letters are a word, and not a mathematical name or a product such as xy, which has no vowel."""
    if not token.isascii():
        return True
    if len(token) < 2 or token in FUNCTIONS or token in _NAMES or token in _COMMANDS:
        return False
    return (
        token.isupper() or token.lower() in _SHORT or (len(token) > 2 and re.search("[aeiouAEIOU]", token) is not None)
    )


def _endless(match: re.Match[str]) -> Number:
    """A decimal with a repeated part in parentheses or with dots after its digits."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3]
    if repeated is None:
        digits = fixed
        for period in range(1, len(digits) // 2 + 1):
            unit = digits[-period:]
            times = 0
            while digits.endswith(unit * (times + 1)) and len(unit) * (times + 1) <= len(digits):
                times += 1
            if times >= (3 if period == 1 else 2) and (period == 1 or len(digits) - period * times < period):
                fixed, repeated = digits[: len(digits) - period * times], unit
                break
    if repeated is None:
        return Number(Fraction(f"{whole}.{fixed or 0}"), len(fixed), cut=True)
    scale = 10 ** len(fixed)
    value = Fraction(int(whole + fixed), scale) + Fraction(int(repeated), scale * (10 ** len(repeated) - 1))
    return Number(value)
