"""The grammar of mathematical answers: a recursive-descent parser from formulas to typed values."""

from __future__ import annotations

import dataclasses
import functools
import re
from fractions import Fraction

from r1jax.rewards.lexer import Token, TokenReader, tokens
from r1jax.rewards.numerals import canonical_numerals
from r1jax.rewards.values import (
    EMPTY_SET,
    INFINITY,
    PI,
    Apply,
    E,
    Group,
    I,
    Matrix,
    Number,
    Relation,
    SetOperation,
    Symbol,
    UntypedError,
    Value,
    choose_sign,
    combine,
    contains,
)

_RELATIONS = frozenset(("=", "!=", "<", ">", "<=", ">=", "in", "~", ":"))
_CLOSERS = {"(": (")", "]"), "[": ("]", ")"), "{": ("}",), r"\{": (r"\}",), r"\langle": (r"\rangle",)}
_MATRICES = frozenset(("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array", "vmatrix"))
_BRACKETED = {r"\lfloor": ("floor", r"\rfloor"), r"\lceil": ("ceil", r"\rceil")}
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_ALTERNATIVES = frozenset(("pm", "mp"))
_FUNCTION_NAMES = frozenset("fghFGHPuv")

_RANGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)-([0-9]+(?:\.[0-9]+)?)")


@functools.lru_cache(maxsize=256)
def parse_value(text: str) -> Value | None:
    """The typed value of a formula without markup, or None if it is not in the grammar."""
    if (match := _RANGE.fullmatch(text)) and Fraction(match[1]) < Fraction(match[2]):
        return Group("range", "", (Number(Fraction(match[1])), Number(Fraction(match[2]))))
    try:
        return _Parser(tokens(canonical_numerals(text))).whole()
    except (UntypedError, RecursionError, ZeroDivisionError):
        return None


class _Parser(TokenReader):
    """Reads values from tokens; every method starts at the current token and leaves the next one current."""

    def __init__(self, found: list[Token]) -> None:
        super().__init__(found)
        self.bars = 0  # vertical bars that are open

    def whole(self) -> Value:
        items, link = self.items()
        if self.at < len(self.tokens) or not items:
            raise UntypedError("text after the value")
        return items[0] if len(items) == 1 and link != "," else Group("", "", tuple(items), link)

    def items(self, alternatives: bool = True) -> tuple[list[Value], str]:
        """Values up to a bracket or the end, and what links them; "" for a single value."""
        items: list[Value] = []
        links: set[str] = set()
        while True:
            item = self.relation()
            if alternatives and contains(item, _ALTERNATIVES):
                items += [choose_sign(item, "+"), choose_sign(item, "-")]
                links.add("or")
            else:
                items.append(item)
            link = ""
            while self.peek() in (",", ";", "and", "or", r"\\"):
                link = self.tokens[self.at].text if self.peek() in ("and", "or") else link or ","
                self.at += 1
            if not link:
                break
            links.add(link)
        words = links & {"and", "or"}
        return items, ("" if not links else words.pop() if len(words) == 1 else ",")

    def relation(self) -> Value:
        parts, signs = [self.set_operation()], list[str]()
        while self.peek() in _RELATIONS:
            signs.append(self.expect(*_RELATIONS))
            parts.append(self.set_operation())
        return Relation(tuple(parts), tuple(signs)) if signs else parts[0]

    def set_operation(self) -> Value:
        left = self.sum()
        while self.peek() in ("cup", "cap", "setminus"):
            left = SetOperation(self.expect("cup", "cap", "setminus"), left, self.sum())
        return left

    def sum(self) -> Value:
        left = self.signed()
        while self.peek() in ("+", "-", "pm", "mp"):
            sign = self.expect("+", "-", "pm", "mp")
            right = self.signed()
            left = combine("+", left, combine("neg", right)) if sign == "-" else combine(sign, left, right)
        return left

    def signed(self) -> Value:
        """A product after any number of signs."""
        if self.take("+"):
            return self.signed()
        if self.peek() in ("-", "pm", "mp"):
            sign = self.expect("-", "pm", "mp")
            return combine("neg" if sign == "-" else sign, self.signed())
        return self.product()

    def product(self) -> Value:
        left = self.power()
        while True:
            if self.peek() in ("*", "/"):
                sign = self.expect("*", "/")
                left = combine(sign, left, self.signed_power())
            elif self.starts_factor():
                left = combine("*", left, self.power())
            else:
                return left

    def starts_factor(self) -> bool:
        """True if the current token can be multiplied with what stands before it, without a sign."""
        if self.at >= len(self.tokens):
            return False
        token = self.tokens[self.at]
        if token.kind in ("symbol", "function", "begin"):
            return True
        if token.text == "|":
            return self.bars == 0
        if token.kind == "number":
            return self.tokens[self.at - 1].text == "!"  # as in 3!5!
        return token.text in ("(", "[", "{", r"\frac", r"\binom", *_BRACKETED)

    def signed_power(self) -> Value:
        if self.peek() in ("-", "+"):
            return combine("neg", self.signed_power()) if self.expect("-", "+") == "-" else self.signed_power()
        return self.power()

    def power(self) -> Value:
        base = self.primary()
        while True:
            if self.take("!"):
                base = combine("double factorial" if self.take("!") else "factorial", base)
                if isinstance(base, Apply) and base.name == "double factorial" and self.peek() == "!":
                    raise UntypedError("three factorial signs")
            elif self.take("%"):
                base = combine("/", base, Number(Fraction(100)))
            elif self.take("^"):
                return combine("^", base, self.exponent())
            else:
                return base

    def exponent(self) -> Value:
        """A braced exponent, or a signed power."""
        return self.argument() if self.peek() == "{" else self.signed_power()

    def argument(self) -> Value:
        """The argument of a command: in braces, or one digit or symbol."""
        if self.take("{"):
            inner = self.relation()
            self.expect("}")
            return inner
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if token is not None and token.number is not None and token.number.value.denominator == 1:
            self.at += 1
            return token.number
        return self.primary()

    def primary(self) -> Value:
        if self.at >= len(self.tokens):
            raise UntypedError("end of text")
        token = self.tokens[self.at]
        self.at += 1
        match token.kind:
            case "number" if token.number is not None:
                if self.at < len(self.tokens) and self.tokens[self.at].kind == "number":
                    raise UntypedError("two numerals side by side")
                return token.number
            case "symbol":
                return self.symbol(token.text)
            case "function":
                return self.function(token.text)
            case "begin":
                return self.matrix(token.text)
            case "sign" | "command":
                return self.bracketed(token.text)
            case _:
                raise UntypedError(token.text)

    def symbol(self, name: str) -> Value:
        if name == r"\infty":
            return INFINITY
        if self.take("_"):
            name += "_" + self.subscript()
        while self.take("'"):
            name += "'"
        if self.peek() == "(" and (name.rstrip("'") in _FUNCTION_NAMES or self.at_value(name)):
            self.at += 1
            items, _ = self.items(alternatives=False)
            self.expect(")")
            return combine(f"call {name}", *items)
        return Symbol(name)

    def at_value(self, name: str) -> bool:
        """True if a numeral in parentheses is next, which is the argument of a name: I(0) is not 0."""
        after = self.tokens[self.at + 1 : self.at + 3]
        return (
            Symbol(name) not in (PI, E, I)
            and [token.kind for token in after] == ["number", "sign"]
            and (after[1].text == ")")
        )

    def subscript(self) -> str:
        """The text of a subscript: in braces, or one token."""
        if not self.take("{"):
            self.at += 1
            return self.tokens[self.at - 1].text if self.at <= len(self.tokens) else ""
        start = self.at
        while self.at < len(self.tokens) and self.peek() != "}":
            self.at += 1
        self.expect("}")
        return "".join(token.text for token in self.tokens[start : self.at - 1])

    def function(self, name: str) -> Value:
        """A function and its argument, as in sin x, sin^2(x), log_2 8, sqrt(2), max(1, 2)."""
        if name == "sqrt":
            return self.root()
        base = None
        if name in ("log", "lg", "ln"):
            base = self.argument() if self.take("_") else Symbol("e") if name == "ln" else Number(Fraction(10))
        power = self.exponent() if self.take("^") else None
        if power == Number(Fraction(-1)) and name in _INVERSE:
            name, power = _INVERSE[name], None
        if self.peek() in ("(", "["):
            closing = ")" if self.expect("(", "[") == "(" else "]"
            arguments, _ = self.items(alternatives=False)
            self.expect(closing)
        else:
            arguments = [self.plain_argument()]
        value = combine("log", arguments[0], base) if base is not None else combine(name, *arguments)
        return value if power is None else combine("^", value, power)

    def plain_argument(self) -> Value:
        """Factors without signs between them, up to a bracket or another function: 2x in sin 2x cos x."""
        if self.take("-"):
            return combine("neg", self.plain_argument())
        value = self.power()
        while self.starts_factor() and self.peek() not in ("(", "[", "|") and self.tokens[self.at].kind != "function":
            value = combine("*", value, self.power())
        return value

    def root(self) -> Value:
        degree: Value = Number(Fraction(2))
        if self.take("["):
            degree = self.sum()
            self.expect("]")
        return combine("root", self.primary() if self.peek() == "(" else self.argument(), degree)

    def bracketed(self, opening: str) -> Value:
        """What follows an opening bracket, a command or a vertical bar."""
        if opening == "|":
            self.bars += 1
            inner = self.sum()
            self.expect("|")
            self.bars -= 1
            return combine("abs", inner)
        if opening in _BRACKETED:
            name, closing = _BRACKETED[opening]
            inner = self.sum()
            self.expect(closing)
            return combine(name, inner)
        if opening in (r"\frac", r"\binom"):
            return combine("/" if opening == r"\frac" else "binom", self.argument(), self.argument())
        if opening == r"\emptyset":
            return EMPTY_SET
        if opening in _CLOSERS:
            return self.group(opening)
        raise UntypedError(opening)

    def group(self, opening: str) -> Value:
        if opening == r"\{" and self.take(r"\}"):
            return EMPTY_SET
        if opening == r"\{" and (condition := self.condition()) is not None:
            return condition
        bars, self.bars = self.bars, 0
        items, link = self.items(alternatives=opening in (r"\{", "{"))
        self.bars = bars
        closing = self.expect(*_CLOSERS[opening])
        if len(items) == 1 and not link and opening != r"\{":
            if (opening, closing) in (("(", "]"), ("[", ")")):
                raise UntypedError("one value in an interval")
            if opening == "(" and self.peek() == "_":
                raise UntypedError("a numeral with a base")
            return items[0]
        return Group(opening.lstrip("\\"), closing.lstrip("\\"), tuple(items))

    def condition(self) -> Value | None:
        """The condition of a set such as {x | x > 2} or {x in R : x > 2}, without the closing brace; else None."""
        start = self.at
        if not (self.at < len(self.tokens) and self.tokens[self.at].kind == "symbol"):
            return None
        name = self.tokens[self.at].text
        self.at += 1
        if self.take("in"):
            if self.at >= len(self.tokens) or self.tokens[self.at].text != r"\mathbb{R}":
                self.at = start
                return None
            self.at += 1
        if not self.take("|", ":", r"\mid"):
            self.at = start
            return None
        items, link = self.items()
        self.expect(r"\}")
        items = [dataclasses.replace(item, bound=name) if isinstance(item, Relation) else item for item in items]
        return items[0] if len(items) == 1 else Group("", "", tuple(items), link)

    def matrix(self, name: str) -> Value:
        if name not in _MATRICES:
            raise UntypedError(name)
        rows: list[tuple[Value, ...]] = []
        row: list[Value] = []
        while True:
            token = self.tokens[self.at] if self.at < len(self.tokens) else None
            if token is not None and token.kind == "end" and not row and rows:
                break
            row.append(self.sum())
            token = self.tokens[self.at] if self.at < len(self.tokens) else None
            if token is None:
                raise UntypedError("end of a matrix")
            if not self.take("&"):
                rows.append(tuple(row))
                row = []
                if token.kind == "end":
                    break
                if token.kind != "row":
                    raise UntypedError("end of a row")
                self.at += 1
        self.at += 1
        if len({len(row) for row in rows}) != 1:
            raise UntypedError("rows of different length")
        return Matrix(tuple(rows), determinant=name == "vmatrix")
