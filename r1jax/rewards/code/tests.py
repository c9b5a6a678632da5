"""The tests of a code problem, from the JSON in the problem's metadata.

Three forms: ``{"tests": [{"input": str, "output": str}, ...]}`` for programs that read standard input and print,
``{"function": name, "cases": [{"args": [...], "expected": ...}, ...]}`` for functions, and ``{"asserts": [str, ...],
"setup": str}`` for test code. Each may have ``"prefix"``, code that stands before the completion, and
``"entry_point"``, the name of the function that is asked for. Values of cases may be tuples and sets as
``{"tuple": [...]}`` and ``{"set": [...]}``, and dictionaries with any keys as ``{"dict": [[key, value], ...]}``. With
``"wrapped": true`` each expected value is a list of one element, and a function may return the list or the element.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Printed:
    """A program is given a text as standard input and must print another."""

    given: str
    expected: str


@dataclasses.dataclass(frozen=True)
class Case:
    """A function is called and must return a value.

    strict: bool differs from int; otherwise values are compared as ``==`` compares them.
    wrapped: ``expected`` is a list of one element, which the function may return in its place.
    """

    function: str
    arguments: tuple[Any, ...]
    expected: Any
    strict: bool = True
    wrapped: bool = False


@dataclasses.dataclass(frozen=True)
class CodeTests:
    """The tests of a problem: ``single`` ones, or ``asserts`` that run after ``setup`` in a sandbox of their own.

    remote: names in the asserts that are always the candidate's.
    """

    single: tuple[Printed | Case, ...] = ()
    asserts: tuple[str, ...] = ()
    setup: str = ""
    prefix: str = ""
    entry_point: str = ""

    @property
    def count(self) -> int:
        """The number of tests."""
        return len(self.single) + len(self.asserts)

    @property
    def remote(self) -> tuple[str, ...]:
        """Names in the asserts that are the candidate's even if the setup or Python defines them."""
        return (self.entry_point,) if self.entry_point else ()


@functools.lru_cache(maxsize=256)  # the samples of a group share it
def read_tests(metadata: str) -> CodeTests:
    """The tests in a problem's metadata; asserts of the form ``f(literals) == literal`` become cases.

    Raises:
      ValueError: if the metadata has none of the forms, or no tests.
    """
    try:
        found = json.loads(metadata)
        prefix, entry = str(found.get("prefix") or ""), str(found.get("entry_point") or "")
        if "tests" in found:
            tests = CodeTests(tuple(Printed(one["input"], one["output"]) for one in found["tests"]), prefix=prefix)
        elif "cases" in found:
            name = found["function"]
            wrapped = bool(found.get("wrapped"))
            cases = [
                Case(name, tuple(map(_value, one["args"])), _value(one["expected"]), wrapped=wrapped)
                for one in found["cases"]
            ]
            if wrapped and not all(isinstance(case.expected, list) and len(case.expected) == 1 for case in cases):
                raise TypeError("an expected value is no list of one element")
            tests = CodeTests(tuple(cases), prefix=prefix, entry_point=entry or name)
        else:
            tests = _asserts(tuple(found["asserts"]), str(found.get("setup") or ""), prefix, entry)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"its metadata has no tests that can be read ({type(error).__name__}: {error})") from error
    if not tests.count:
        raise ValueError("its metadata has no tests")
    return tests


def _asserts(asserts: tuple[str, ...], setup: str, prefix: str, entry: str) -> CodeTests:
    cases = [_case(text) for text in asserts]
    plain = not setup.strip() and not any(case and case.function != (entry or case.function) for case in cases)
    if plain and all(cases):
        return CodeTests(tuple(case for case in cases if case), prefix=prefix, entry_point=entry)
    return CodeTests(asserts=asserts, setup=setup, prefix=prefix, entry_point=entry)


def _case(text: str) -> Case | None:
    """The case of ``assert f(literals) == literal``; None for other code."""
    try:
        (statement,) = ast.parse(text.strip()).body
    except (SyntaxError, ValueError):
        return None
    match statement:
        case ast.Assert(
            test=ast.Compare(left=ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]), ops=[ast.Eq()])
        ):
            compared = statement.test
        case _:
            return None
    assert isinstance(compared, ast.Compare)
    try:
        return Case(
            name, tuple(map(ast.literal_eval, arguments)), ast.literal_eval(compared.comparators[0]), strict=False
        )
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _value(given: Any) -> Any:
    if isinstance(given, list):
        return [_value(inner) for inner in given]
    if isinstance(given, dict):
        match given:
            case {"tuple": [*items], **rest} if not rest:
                return tuple(map(_value, items))
            case {"set": [*items], **rest} if not rest:
                return set(map(_value, items))
            case {"dict": [*items], **rest} if not rest:
                return {_value(key): _value(value) for key, value in items}
        return {key: _value(value) for key, value in given.items()}
    return given
