"""Code problems from the rows of HumanEval, MBPP, LiveCodeBench and verl's code data.

Each function takes a row, and where it is from for error messages, and returns a problem whose metadata holds the tests
in the forms that r1jax.rewards.code.tests documents. Nothing in a row is executed or unpickled here.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError

Row = Mapping[str, Any]

_LARGEST = 2**29  # bytes of the tests of one problem
# A pickle of one text needs these instructions alone, and none of them calls anything.
_TEXT_PICKLE = {"PROTO", "FRAME", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "MEMOIZE", "BINPUT", "STOP"}


def humaneval_problem(row: Row, location: str = "row") -> Problem:
    """A problem of HumanEval (arXiv 2107.03374): columns prompt, test, entry_point, and optionally canonical_solution.

    The test is the function ``check`` with the candidate as its argument.

    Raises:
      UserError: names the column that is missing or not text.
    """
    prompt, test, entry = (_text(row, name, location) for name in ("prompt", "test", "entry_point"))
    tests = {"asserts": [f"check({entry})"], "setup": test, "prefix": prompt, "entry_point": entry}
    return _problem(prompt, str(row.get("canonical_solution") or ""), "humaneval", tests)


def mbpp_problem(row: Row, location: str = "row") -> Problem:
    """A problem of MBPP (arXiv 2108.07732): columns text or prompt, test_list, and optionally code and imports.

    The tests are part of the question, as in the paper. The name of the function is that which ``code`` defines and the
    tests call.

    Raises:
      UserError: names the column that is missing or of another type.
    """
    text = _text(row, "text" if row.get("text") else "prompt", location)
    asserts = _texts(row, "test_list", location)
    code = str(row.get("code") or "")
    setup = "\n".join([*_optional_texts(row, "test_imports"), str(row.get("test_setup_code") or "")]).strip()
    called = {node.id for one in asserts for node in ast.walk(_parsed(one)) if isinstance(node, ast.Name)}
    entry = next((name for name in reversed(_functions(code)) if name in called), "")
    tests = {"asserts": asserts, "setup": setup, "entry_point": entry}
    listed = "\n".join(asserts)
    return _problem(f"{text}\nYour code should pass these tests:\n{listed}", code, "mbpp", tests)


def livecodebench_problem(row: Row, location: str = "row") -> Problem:
    """A problem of LiveCodeBench (arXiv 2403.07974): question_content, public_test_cases and private_test_cases.

    Private tests are JSON, or JSON in a pickled text that is compressed and in base 64: the text is read from the
    pickle without executing it. The optional column metadata holds ``func_name`` for tests that call a function.

    Raises:
      UserError: names the column that is missing or cannot be decoded, and for tests without a func_name.
    """
    question = _text(row, "question_content", location)
    starter = str(row.get("starter_code") or "")
    cases = _json(_text(row, "public_test_cases", location), "public_test_cases", location)
    if private := row.get("private_test_cases"):
        cases = [*cases, *_private_cases(private, location)]
    kind = str(row.get("difficulty") or "livecodebench")
    if starter:
        question = f"{question}\n\nComplete this code:\n```python\n{starter}\n```"
    try:
        if all(case["testtype"] == "stdin" for case in cases):
            return _problem(question, "", kind, {"tests": [{name: case[name] for name in _PAIR} for case in cases]})
        name = _json(_text(row, "metadata", location), "metadata", location).get("func_name")
        if not name:
            raise UserError(f"{location}: column 'metadata' has no func_name, which its tests call: give the name")
        calls = [
            {"args": [json.loads(line) for line in case["input"].split("\n")], "expected": json.loads(case["output"])}
            for case in cases
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{location}: a test case cannot be read ({error}): it needs input, output, testtype"
        ) from error
    # The starter's imports, such as List, are not part of answers; its class is.
    return _problem(question, "", kind, {"function": str(name).rpartition(".")[2], "cases": calls, "prefix": _IMPORTS})


_PAIR = ("input", "output")
_IMPORTS = "from typing import *\n"


def verl_code_problem(row: Row, location: str = "row") -> Problem:
    """A problem in verl's layout: messages in prompt, and tests as JSON in reward_model.ground_truth.

    The tests are ``{"inputs": [...], "outputs": [...]}`` for standard input, with ``"fn_name"`` for arguments of a
    function, or a list of asserts, also under ``"asserts"``, ``"assert_case"`` or ``"functional"``.

    Raises:
      UserError: names the column that is missing, and for tests in none of these forms.
    """
    prompt = row.get("prompt")
    question = prompt if isinstance(prompt, str) else ""
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        users = [message for message in prompt if isinstance(message, Mapping) and message.get("role") == "user"]
        question = str(users[-1].get("content") or "") if users else ""
    if not question.strip():
        raise UserError(f"{location}: column 'prompt' has no message of the user: give the question")
    model = row.get("reward_model")
    truth = model.get("ground_truth") if isinstance(model, Mapping) else None
    if truth is None:
        raise UserError(f"{location}: no column 'reward_model.ground_truth': it holds the tests as JSON")
    given = _json(truth, "reward_model.ground_truth", location) if isinstance(truth, str) else truth
    return _problem(question, "", str(row.get("data_source") or "code"), _verl_tests(given, location))


def _verl_tests(given: Any, location: str) -> dict[str, Any]:
    if isinstance(given, Sequence) and given and all(isinstance(one, str) for one in given):
        return {"asserts": list(given)}
    if isinstance(given, Mapping):
        for name in ("asserts", "assert_case", "functional"):
            if found := given.get(name):
                return {"asserts": [found] if isinstance(found, str) else list(found), "setup": given.get("setup", "")}
        inputs, outputs = given.get("inputs"), given.get("outputs")
        if isinstance(inputs, Sequence) and isinstance(outputs, Sequence) and len(inputs) == len(outputs) > 0:
            if name := given.get("fn_name"):
                cases = [{"args": list(one), "expected": two} for one, two in zip(inputs, outputs, strict=True)]
                return {"function": name, "cases": cases}
            pairs = zip(map(_lines, inputs), map(_lines, outputs), strict=True)
            return {"tests": [{"input": one, "output": two} for one, two in pairs]}
    raise UserError(f"{location}: the tests in 'reward_model.ground_truth' have neither inputs and outputs nor asserts")


def _problem(question: str, answer: str, kind: str, tests: dict[str, Any]) -> Problem:
    return Problem(question, answer, kind, "code", json.dumps(tests))


def _private_cases(private: Any, location: str) -> list[Any]:
    column = "private_test_cases"
    if not isinstance(private, str):
        raise UserError(f"{location}: column {column!r} is not text: give JSON")
    if private.lstrip().startswith("["):
        return _json(private, column, location)
    try:
        packed = zlib.decompressobj().decompress(base64.b64decode(private, validate=True), _LARGEST)
        return _json(_pickled_text(packed), column, location)
    except (binascii.Error, zlib.error, ValueError, IndexError) as error:
        raise UserError(
            f"{location}: column {column!r} is neither JSON nor a packed text ({error}): give the tests as JSON"
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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{location}: column {column!r} is not JSON ({error}): give the tests as JSON") from error


def _text(row: Row, column: str, location: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{location}: no text in column {column!r}: each row of this data set has it")
    return value


def _texts(row: Row, column: str, location: str) -> list[str]:
    found = _optional_texts(row, column)
    if not found:
        raise UserError(f"{location}: no asserts in column {column!r}: each row of this data set has them")
    return found


def _optional_texts(row: Row, column: str) -> list[str]:
    value = row.get(column)
    return [] if value is None or isinstance(value, str) else [str(one) for one in value]


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
