"""Tasks whose answer is a program that tests judge: humaneval, mbpp, livecodebench.

The metadata of a problem is what the checker "code" reads: ``{"tests": [{"input": text, "output": text}, ...]}`` for
programs, ``{"asserts": [text, ...], "setup": code}``, or ``{"function": name, "cases": [{"args": [...], "expected":
...}]}``, each with the optional code ``"prefix"`` that stands before the completion.
"""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
import pickle
import typing
import zlib
from collections.abc import Sequence
from typing import Any

from r1jax.data.formats.rows import preview
from r1jax.data.problems.problem import Checker, Problem
from r1jax.errors import UserError
from r1jax.evaluation.tasks.maths import names
from r1jax.evaluation.tasks.task import Row, Task, cell, text_cell

CODE = typing.cast(Checker, "code")
_REQUEST = "Reply with one block of Python code, fenced by ```python and ```, that contains all of the program."
_MBPP_TEST = range(11, 511)  # the task_id of the test split (arXiv 2108.07732)


def has_checker() -> bool:
    """True if this build judges programs."""
    return CODE in typing.get_args(Checker)


def humaneval(row: Row, location: str) -> Problem:
    """A problem of HumanEval (arXiv 2107.03374): a function to complete, and a function ``check`` that tests it."""
    prompt, test = text_cell(row, location, "prompt"), text_cell(row, location, "test")
    function = text_cell(row, location, "entry_point")
    question = f"Complete this Python function:\n\n```python\n{prompt.rstrip()}\n```"
    asserts, setup = _asserts_of_check(test, function, location)
    return _problem(
        question, "humaneval", {"asserts": asserts, "setup": setup, "prefix": prompt, "entry_point": function}
    )


def mbpp(row: Row, location: str) -> Problem | None:
    """A problem of MBPP (arXiv 2108.07732), its tests in the prompt; None for a row outside the test split."""
    number = row.get("task_id")
    if isinstance(number, int) and number not in _MBPP_TEST:
        return None
    tests = _texts(cell(row, location, "test_list"), location, "test_list")
    imports = _texts(row.get("test_imports") or [], location, "test_imports")
    setup = "\n".join([*imports, str(row.get("test_setup_code") or "")]).strip()
    text = text_cell(row, location, "prompt", "text").strip()
    listed = "\n".join(tests)
    question = f"{text}\n\nThe program must pass these tests:\n\n```python\n{listed}\n```"
    return _problem(question, "mbpp", {"asserts": tests, "setup": setup})


def livecodebench(row: Row, location: str) -> Problem:
    """A problem of LiveCodeBench (arXiv 2403.07974) with its public and private tests; its kind is the difficulty."""
    text = text_cell(row, location, "question_content").strip()
    starter = str(row.get("starter_code") or "").strip()
    tests = _cases(row, location, "public_test_cases") + _cases(row, location, "private_test_cases")
    if not tests:
        raise UserError(f"{location}: no test in 'public_test_cases' and 'private_test_cases': remove the row")
    kind = str(row.get("difficulty") or "livecodebench")
    if not starter:
        question = f"{text}\n\nWrite a program that reads the standard input and writes to the standard output."
        return _problem(question, kind, {"tests": [{"input": t["input"], "output": t["output"]} for t in tests]})
    function = json.loads(row.get("metadata") or "{}").get("func_name")
    if not function:
        raise UserError(f"{location}: column 'metadata' names no 'func_name': give a file with the usual columns")
    question = f"{text}\n\nThe program must contain this, completed:\n\n```python\n{starter}\n```"
    cases = [{"args": _values(t["input"], location), "expected": _value(t["output"], location)} for t in tests]
    return _problem(question, kind, {"function": function, "cases": cases})


def _problem(question: str, kind: str, metadata: dict[str, Any]) -> Problem:
    return Problem(question, "", kind, CODE, json.dumps(metadata))


def _texts(value: Any, location: str, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UserError(f"{location}: column {name!r} is {preview(value)}: write a list of texts")
    return value


def _asserts_of_check(test: str, function: str, location: str) -> tuple[list[str], str]:
    """The assertions of the function ``check`` about ``function``, one text each, and the code that they need.

    If the body has other statements, such as loops, the only assertion is the call of the whole function.
    """
    try:
        module = ast.parse(test)
    except SyntaxError as error:
        raise UserError(f"{location}: column 'test' is not Python ({error.msg})") from error
    checks = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if len(checks) != 1 or len(checks[0].args.args) != 1:
        raise UserError(f"{location}: column 'test' defines no function check(candidate)")
    body = [node for node in checks[0].body if not isinstance(node, ast.Pass | ast.Expr) and not _is_true(node)]
    if not body or not all(isinstance(node, ast.Assert) for node in body):
        return [f"check({function})"], test
    name = checks[0].args.args[0].arg
    for node in body:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and inner.id == name:
                inner.id = function
    others = [node for node in module.body if node is not checks[0] and not _is_metadata(node)]
    return [ast.unparse(node) for node in body], "\n".join(map(ast.unparse, others))


def _is_true(node: ast.stmt) -> bool:
    """True for ``assert True``, which tests nothing."""
    return isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant) and node.test.value is True


def _is_metadata(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "METADATA" for target in targets)


class _TextUnpickler(pickle.Unpickler):
    """Reads plain texts only: a pickle that names a class or a function could run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def _cases(row: Row, location: str, column: str) -> list[dict[str, str]]:
    """The tests of a column: JSON, or a pickled text of JSON, compressed by zlib and in base64."""
    given = row.get(column)
    if not given:
        return []
    try:
        tests = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        tests = _unpacked(given, f"{location}: column {column!r}")
    if not isinstance(tests, list) or not all(isinstance(t, dict) and {"input", "output"} <= t.keys() for t in tests):
        raise UserError(f"{location}: column {column!r} is {preview(given)}: write a list of tests as JSON")
    return tests


def _unpacked(text: str, location: str) -> Any:
    try:
        packed = zlib.decompress(base64.b64decode(text, validate=True))
        return json.loads(_TextUnpickler(io.BytesIO(packed)).load())
    except (binascii.Error, zlib.error, pickle.UnpicklingError, ValueError, EOFError, TypeError) as error:
        raise UserError(f"{location} is neither JSON nor packed tests ({error})") from error


def _values(lines: str, location: str) -> list[Any]:
    """The arguments of a call, one JSON value on each line."""
    return [_value(line, location) for line in lines.splitlines() if line.strip()]


def _value(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{location}: a test holds {preview(text)}, which is not JSON") from error


def _code_task(name: str, hub: str, files: Sequence[str], columns: str, problem: Any, samples: int) -> Task:
    return Task(name, hub, tuple(files), tuple(columns.split()), problem, "code", _REQUEST, samples)


TASKS = (
    _code_task(
        "humaneval",
        "hf:openai/openai_humaneval/test",
        names("humaneval", "openai_humaneval/test*", "test*", "HumanEval*"),
        "prompt test entry_point",
        humaneval,
        samples=8,
    ),
    _code_task(
        "mbpp",
        "hf:google-research-datasets/mbpp:sanitized/test",
        names("mbpp", "sanitized/test*", "test*", "sanitized-mbpp*", "mbpp*"),
        "task_id text prompt test_list test_imports test_setup_code",
        mbpp,
        samples=4,
    ),
    _code_task(
        "livecodebench",
        "hf:livecodebench/code_generation_lite/test",
        names("livecodebench", "test*"),
        "question_content starter_code public_test_cases private_test_cases metadata difficulty",
        livecodebench,
        samples=8,
    ),
)
