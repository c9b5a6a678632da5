"""Code problems from the rows of HumanEval, MBPP, LiveCodeBench and verl's code data.

Each function takes a row, and where it is from for error messages, and returns a problem whose metadata holds the tests
in the forms that r1jax.rewards.code.tests documents. Training (r1jax.data.problems.files) and evaluation
(r1jax.evaluation.tasks.code) read their problems with these functions. Nothing in a row is executed or unpickled here.
"""

from __future__ import annotations

import ast
import base64
import binascii
import contextlib
import json
import pickletools
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from r1jax.data.formats.rows import cell, nested, preview, text_cell
from r1jax.data.problems.problem import Problem
from r1jax.data.problems.questions import question_text
from r1jax.errors import UserError

Row = Mapping[str, Any]

# The columns of each data set that its function reads.
HUMANEVAL = ("prompt", "test", "entry_point", "canonical_solution")
MBPP = ("task_id", "text", "prompt", "code", "test_list", "test_imports", "test_setup_code")
LIVECODEBENCH = (
    "question_content",
    "starter_code",
    "public_test_cases",
    "private_test_cases",
    "metadata",
    "difficulty",
)

_LARGEST = 2**29  # bytes of the tests of one problem
# A pickle of one text needs these instructions alone, and none of them calls anything.
_TEXT_PICKLE = {"PROTO", "FRAME", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "MEMOIZE", "BINPUT", "STOP"}


def humaneval_problem(row: Row, location: str = "row") -> Problem:
    """A problem of HumanEval (arXiv 2107.03374): columns prompt, test, entry_point, and optionally canonical_solution.

    The test is the function ``check`` with the candidate as its argument. If its body holds asserts alone, each is a
    test of its own; otherwise the call of the whole function is the only test.

    Raises:
      UserError: names the column that is missing or not text, and for a test without a function ``check``.
    """
    prompt, test, entry = (text_cell(row, location, name) for name in ("prompt", "test", "entry_point"))
    asserts, setup = _asserts_of_check(test, entry, location)
    tests = {"asserts": asserts, "setup": setup, "prefix": prompt, "entry_point": entry}
    question = f"Complete this Python function:\n\n```python\n{prompt.rstrip()}\n```"
    return _problem(question, str(row.get("canonical_solution") or ""), "humaneval", tests)


def mbpp_problem(row: Row, location: str = "row") -> Problem:
    """A problem of MBPP (arXiv 2108.07732): columns text or prompt, test_list, and optionally code and imports.

    The tests are part of the question, as in the paper. The name of the function is that which ``code`` defines and the
    tests call.

    Raises:
      UserError: names the column that is missing or of another type.
    """
    text = text_cell(row, location, "prompt", "text").strip()
    asserts = _texts(cell(row, location, "test_list"), location, "test_list")
    if not asserts:
        raise UserError(f"{location}: no asserts in column 'test_list': remove the row")
    imports = _texts(row.get("test_imports") or [], location, "test_imports")
    code = str(row.get("code") or "")
    setup = "\n".join([*imports, str(row.get("test_setup_code") or "")]).strip()
    called = {node.id for one in asserts for node in ast.walk(_parsed(one)) if isinstance(node, ast.Name)}
    entry = next((name for name in reversed(_functions(code)) if name in called), "")
    tests = {"asserts": asserts, "setup": setup, "entry_point": entry}
    listed = "\n".join(asserts)
    question = f"{text}\n\nThe program must pass these tests:\n\n```python\n{listed}\n```"
    return _problem(question, code, "mbpp", tests)


def livecodebench_problem(row: Row, location: str = "row") -> Problem:
    """A problem of LiveCodeBench (arXiv 2403.07974): question_content, public_test_cases and private_test_cases.

    Tests are JSON, or JSON in a pickled text that is compressed and in base 64: the text is read from the pickle
    without executing it. The optional column metadata holds ``func_name`` for tests that call a function. The kind of
    the problem is its difficulty.

    Raises:
      UserError: names the column that is missing or cannot be decoded, and for tests without a func_name.
    """
    question = text_cell(row, location, "question_content").strip()
    starter = str(row.get("starter_code") or "").rstrip()
    cell(row, location, "public_test_cases")
    cases = [one for column in ("public_test_cases", "private_test_cases") for one in _cases(row, column, location)]
    if not cases:
        raise UserError(f"{location}: no test in 'public_test_cases' and 'private_test_cases': remove the row")
    kind = str(row.get("difficulty") or "livecodebench")
    usual = "functional" if starter else "stdin"
    question += (
        f"\n\nThe program must contain this, completed:\n\n```python\n{starter}\n```"
        if starter
        else "\n\nWrite a program that reads the standard input and writes to the standard output."
    )
    if all(case.get("testtype", usual) == "stdin" for case in cases):
        return _problem(question, "", kind, {"tests": [{name: case[name] for name in _PAIR} for case in cases]})
    known = _json(row.get("metadata") or "{}", "metadata", location)
    name = known.get("func_name") if isinstance(known, Mapping) else None
    if not name:
        raise UserError(f"{location}: column 'metadata' names no 'func_name', which its tests call: give the name")
    calls = [
        {
            "args": [_value(line, location) for line in case["input"].split("\n") if line.strip()],
            "expected": _value(case["output"], location),
        }
        for case in cases
    ]
    # The starter's imports, such as List, are not part of answers; its class is.
    return _problem(question, "", kind, {"function": str(name).rpartition(".")[2], "cases": calls, "prefix": _IMPORTS})


_PAIR = ("input", "output")
_IMPORTS = "from typing import *\n"


def verl_code_problem(row: Row, location: str = "row") -> Problem | None:
    """A problem in verl's layout: a message of the user in prompt, and tests as JSON in reward_model.ground_truth.

    The tests are ``{"inputs": [...], "outputs": [...]}`` for standard input, with ``"fn_name"`` for arguments of a
    function, or a list of asserts, also under ``"asserts"``, ``"assert_case"`` or ``"functional"``. None if the column
    holds anything else, such as the answer to a question of mathematics.

    Some data sets put what a function returns into a list of one element, as APPS (arXiv 2105.09938) and TACO (arXiv
    2312.14852) do. If all outputs of a function are such lists, it may return the lists or their elements.

    Raises:
      UserError: for tests that cannot be read, or a prompt without one message of the user.
    """
    truth = nested(dict(row), "reward_model.ground_truth")
    if isinstance(truth, str) and truth.lstrip()[:1] in ("{", "["):
        try:
            truth = json.loads(truth)
        except (ValueError, RecursionError):  # an answer such as [0, 1)
            return None
    if not _are_tests(truth):
        return None
    question = question_text(row.get("prompt"), "prompt", location)
    return _problem(question, "", str(row.get("data_source") or "code"), _verl_tests(truth, location))


READERS: dict[str, Callable[[Row, str], Problem | None]] = {
    "HumanEval": humaneval_problem,
    "MBPP": mbpp_problem,
    "LiveCodeBench": livecodebench_problem,
    "verl": verl_code_problem,
}

_ASSERTS = ("asserts", "assert_case", "functional")
_ASSERT = re.compile(r"^\s*assert\b", re.MULTILINE)


def _are_tests(truth: Any) -> bool:
    if isinstance(truth, Mapping):
        return {"inputs", "outputs"} <= truth.keys() or any(truth.get(name) for name in _ASSERTS)
    return isinstance(truth, list) and bool(truth) and all(isinstance(t, str) and _ASSERT.search(t) for t in truth)


def _verl_tests(given: Any, location: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        return {"asserts": list(given)}
    for name in _ASSERTS:
        if found := given.get(name):
            column = f"reward_model.ground_truth.{name}"
            asserts = [found] if isinstance(found, str) else _texts(found, location, column)
            return {"asserts": asserts, "setup": str(given.get("setup") or "")}
    inputs, outputs = given["inputs"], given["outputs"]
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not len(inputs) == len(outputs) > 0:
        raise UserError(
            f"{location}: column 'reward_model.ground_truth' has no output for each of its inputs: give as many outputs"
        )
    if name := given.get("fn_name"):
        if not all(isinstance(one, list) for one in inputs):
            raise UserError(
                f"{location}: column 'reward_model.ground_truth' has inputs of a function that are no lists: give the "
                "arguments of each call as a list"
            )
        cases = [{"args": one, "expected": two} for one, two in zip(inputs, outputs, strict=True)]
        wrapped = all(isinstance(one, list) and len(one) == 1 for one in outputs)
        return {"function": name, "cases": cases} | ({"wrapped": True} if wrapped else {})
    pairs = zip(map(_lines, inputs), map(_lines, outputs), strict=True)
    return {"tests": [{"input": one, "output": two} for one, two in pairs]}


def _problem(question: str, answer: str, kind: str, tests: dict[str, Any]) -> Problem:
    # Readers of files may give numbers with a decimal point as Decimal.
    return Problem(question, answer, kind, "code", json.dumps(tests, default=float))


def _asserts_of_check(test: str, function: str, location: str) -> tuple[list[str], str]:
    """The assertions of the function ``check`` about ``function``, one text each, and the code that they need.

    If the body has other statements, such as loops, the only assertion is the call of the whole function.
    """
    try:
        module = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"{location}: column 'test' is not Python ({error}): correct it") from error
    checks = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if len(checks) != 1 or len(checks[0].args.args) != 1:
        raise UserError(f"{location}: column 'test' defines no function check(candidate): add it")
    body = [node for node in checks[0].body if not _tests_nothing(node)]
    if not body or not all(isinstance(node, ast.Assert) for node in body):
        return [f"check({function})"], test
    name = checks[0].args.args[0].arg
    for inner in (inner for node in body for inner in ast.walk(node)):
        if isinstance(inner, ast.Name) and inner.id == name:
            inner.id = function
    others = [node for node in module.body if node is not checks[0] and not _is_metadata(node)]
    return [ast.unparse(node) for node in body], "\n".join(map(ast.unparse, others))


def _tests_nothing(node: ast.stmt) -> bool:
    """True for ``pass``, a docstring, and ``assert True``."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    is_true = isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant) and node.test.value is True
    return is_true or isinstance(node, ast.Pass)


def _is_metadata(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "METADATA" for target in targets)


def _cases(row: Row, column: str, location: str) -> list[dict[str, str]]:
    """The tests of a column: a list, JSON, or packed JSON."""
    given = row.get(column) or []
    tests = _decoded(given, column, location) if isinstance(given, str) else given
    if not isinstance(tests, list) or not all(isinstance(t, dict) and t.keys() >= {*_PAIR} for t in tests):
        raise UserError(f"{location}: column {column!r} is {preview(given)}: write a list of tests as JSON")
    if not all(isinstance(case[name], str) for case in tests for name in _PAIR):
        raise UserError(f"{location}: column {column!r} has tests whose input or output is no text: write text")
    return tests


def _decoded(given: str, column: str, location: str) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(given)
    try:
        packed = zlib.decompressobj().decompress(base64.b64decode(given, validate=True), _LARGEST)
        return json.loads(_pickled_text(packed))
    except (binascii.Error, zlib.error, ValueError, IndexError, RecursionError) as error:
        raise UserError(
            f"{location}: column {column!r} is neither JSON nor packed tests ({error}): give the tests as JSON"
        ) from error


def _pickled_text(data: bytes) -> str:
    """The text in a pickle of one text, without executing the pickle; ValueError for any other pickle."""
    found = None
    for instruction, argument, _ in pickletools.genops(data):
        if instruction.name not in _TEXT_PICKLE:
            raise ValueError(f"the pickle holds {instruction.name}, which is refused")
        if isinstance(argument, str):
            found = argument
    if found is None:
        raise ValueError("the pickle holds no text")
    return found


def _json(text: str, column: str, location: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{location}: column {column!r} is not JSON ({error}): correct it") from error


def _value(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{location}: a test holds {preview(text)}, which is not JSON: correct it") from error


def _texts(value: Any, location: str, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UserError(f"{location}: column {name!r} is {preview(value)}: write a list of texts")
    return value


def _lines(value: Any) -> str:
    """Standard input or output that some data sets give as a list of lines."""
    return value if isinstance(value, str) else "\n".join(map(str, value))


def _parsed(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module(body=[], type_ignores=[])


def _functions(code: str) -> list[str]:
    return [node.name for node in _parsed(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
