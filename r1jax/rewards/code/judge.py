"""The judge: runs a candidate in a sandbox and compares what it returns or prints with the tests, outside the sandbox.

The candidate never sees what is expected, and its process has no say in the verdict: values cross as inert data of
exact types, and the deadlines, the comparison and the count are here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from r1jax.rewards.code.guest import inert
from r1jax.rewards.code.program import complete, stub
from r1jax.rewards.code.sandbox import DeadlineError, Sandbox, SandboxError, Sandboxes
from r1jax.rewards.code.tests import Case, CodeTests, Printed


def judge(
    program: str, tests: CodeTests, sandboxes: Sandboxes, seconds: float, credit: Literal["all", "share"]
) -> float:
    """The reward of a program: 1 if it passes all tests and else 0, or the share of the tests that it passes.

    seconds: for all tests together; tests that have not passed by then have failed.

    Raises:
      SandboxError: if no sandbox can be started.
    """
    passed = 0
    for result in _results(complete(program, tests.prefix, tests.entry_point), tests, sandboxes, seconds):
        passed += result
        if credit == "all" and not result:
            return 0.0
    if credit == "all":
        return float(passed == tests.count)
    return passed / tests.count


def _results(source: str, tests: CodeTests, sandboxes: Sandboxes, seconds: float) -> Iterator[bool]:
    """Whether each test passes, until the candidate ends or the time is over."""
    with sandboxes.take() as sandbox:
        until = time.monotonic() + seconds
        try:
            if tests.asserts:
                yield from _asserts(source, tests, sandbox, sandboxes, seconds)
                return
            loaded = all(isinstance(test, Printed) for test in tests.single) or _load(sandbox, source, until)
            for test in tests.single if loaded else ():
                if isinstance(test, Printed):
                    yield _prints(sandbox, source, test, until)
                else:
                    yield _returns(sandbox, test, until)
        except (DeadlineError, SandboxError, inert.NotInert):
            return


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def _load(sandbox: Sandbox, source: str, until: float) -> bool:
    return sandbox.ask(("load", source), _left(until)) == ["loaded"]


def _prints(sandbox: Sandbox, source: str, test: Printed, until: float) -> bool:
    match sandbox.ask(("run", source, test.given), _left(until)):
        case ["output", str(printed), 0]:
            try:
                return same_output(bytes.fromhex(printed).decode(), test.expected)
            except ValueError:
                return False
        case _:
            return False


def _returns(sandbox: Sandbox, test: Case, until: float) -> bool:
    arguments = [inert.pack(one, _no_handle) for one in test.arguments]
    match sandbox.ask(("call", test.function, arguments, {}), _left(until)):
        case ["value", tree]:
            try:
                value = inert.unpack(tree, _plain)
            except inert.NotInert:
                return False
            if test.wrapped and same_value(value, test.expected[0]):
                return True
            return same_value(value, test.expected) if test.strict else bool(value == test.expected)
        case _:
            return False


def _asserts(source: str, tests: CodeTests, sandbox: Sandbox, sandboxes: Sandboxes, seconds: float) -> Iterator[bool]:
    """Runs the test code in a second sandbox, whose calls of the candidate's functions are passed on to the first."""
    with sandboxes.take() as tester:
        until = time.monotonic() + seconds
        if not _load(sandbox, source, until):
            return
        setup = f"{stub(tests.prefix)}\n{tests.setup}" if tests.prefix else tests.setup
        tester.send(("test", setup, list(tests.asserts), list(tests.remote)), until)
        count = 0
        while count < len(tests.asserts):
            match tester.receive(until):
                case ["result", bool(passed)]:
                    count += 1
                    yield passed
                case ["call", str() | int() as target, list(arguments), list(keywords)]:
                    reply = sandbox.ask(("call", target, arguments, dict(keywords)), _left(until))
                    tester.send(_checked(reply), until)
                case _:
                    return


def _checked(reply: Any) -> tuple[Any, ...]:
    """A reply of the candidate for the test code: a tree of a value, or the name of an exception."""
    match reply:
        case ["value", tree]:
            inert.unpack(tree, _Unknown)
            return ("value", tree)
        case ["raised", str(kind), str(text)]:
            return ("raised", kind, text)
        case _:
            raise SandboxError("its reply is not an answer")


class _Unknown:
    """Stands for an object of the candidate while a tree is checked."""

    def __init__(self, *_: Any) -> None:
        pass


def _plain(_: Any, *plain: Any) -> Any:
    """The plain value of an object of the candidate, if it has one."""
    if not plain:
        raise inert.NotInert("not a plain value")
    return plain[0]


def _no_handle(_: Any) -> Any:
    raise inert.NotInert("not a plain value")


def same_value(given: Any, expected: Any) -> bool:
    """True for equal values of the same types; int and float are one type, bool is not, and a tuple may be a list.

    Expected values come from JSON, which has no tuples.
    """
    if isinstance(expected, bool) or isinstance(given, bool) or expected is None:
        return type(given) is type(expected) and given == expected
    if isinstance(expected, int | float):
        return isinstance(given, int | float) and (given == expected or _both_nan(given, expected))
    if isinstance(expected, list):
        return isinstance(given, list | tuple) and _all_same(given, expected)
    if type(given) is not type(expected):
        return False
    if isinstance(expected, tuple):
        return _all_same(given, expected)
    if isinstance(expected, dict):
        return _typed(given) == _typed(expected) and all(same_value(given[key], expected[key]) for key in expected)
    if isinstance(expected, set | frozenset):
        return _typed(given) == _typed(expected)
    return given == expected


def _all_same(given: Any, expected: Any) -> bool:
    return len(given) == len(expected) and all(map(same_value, given, expected))


def _typed(values: Any) -> set[tuple[type, Any]]:
    """Elements or keys with their types, since True and 1.0 equal 1."""
    return {(type(one), one) for one in values}


def _both_nan(a: float, b: float) -> bool:
    return isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)


def same_output(printed: str, expected: str) -> bool:
    """True for the same words in the same lines, up to empty lines at the end; numbers such as 1.0 and 1 are the same.

    LiveCodeBench (arXiv 2403.07974) compares in this way.
    """
    given, wanted = printed.rstrip().splitlines(), expected.rstrip().splitlines()
    return len(given) == len(wanted) and all(map(_same_line, given, wanted))


def _same_line(given: str, expected: str) -> bool:
    if given == expected:
        return True
    words, wanted = given.split(), expected.split()
    return len(words) == len(wanted) and all(a == b or _same_number(a, b) for a, b in zip(words, wanted, strict=True))


def _same_number(a: str, b: str) -> bool:
    if len(a) > 100 or len(b) > 100:
        return False
    try:
        return Decimal(a) == Decimal(b)
    except InvalidOperation:
        return False
