"""Problems of any reasoning-gym task; the task's own scoring function judges the answers."""

from __future__ import annotations

import functools
import importlib
import json
import random
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from r1jax.data.problems.problem import KeyedProblem, Problem, distinct
from r1jax.errors import UserError
from r1jax.names import lookup

_BLOCK = 1000  # entries of one data set; some tasks prepare all entries at once
_FOR_TRYING = 0.05  # many tasks give this or 0.01 to any wrong answer that can be read
# task -> (data set, index of the entry) -> the template of the entry
_TEMPLATES: dict[str, Callable[[Any, int], str]] = {"gsm_symbolic": lambda data, i: f"{data.task_indices[i]:02d}"}


def generate(task: str, seed: int) -> Iterator[KeyedProblem]:
    """Problems of a task with its default settings, without repeats.

    If the task makes its problems from templates by filling in names and numbers (_TEMPLATES), the key is the template,
    so that whole templates are held out. Otherwise the key is the question.

    Raises:
      UserError: for an unknown task (the message suggests similar names), or a task without default settings.
    """
    lookup("reasoning-gym task", task, _tasks())
    try:
        _library().create_dataset(task, seed=seed, size=1)
    except Exception as error:
        raise UserError(
            f"reasoning-gym cannot make {task!r} from its name alone ({error}): choose another task"
        ) from error
    return distinct(_draws(task, seed))


def score(answer: str, metadata: str) -> float:
    """The task's score of an answer, from 0 to 1; some tasks give partial credit.

    Credit for a wrong answer that could be read (_FOR_TRYING) counts as 0. In a group of wrong samples it would be the
    only difference, which advantages divided by the standard deviation make as large as that of a right answer: a
    model then learns to answer at once, without reasoning.
    """
    problem = json.loads(metadata)
    try:
        credit = float(score_function(problem["task"])(answer, _unpack(problem["entry"])))
    except Exception:
        # Some scoring functions raise on answers they cannot parse (prime_factorization on "x"); these are wrong.
        return 0.0
    return credit if credit > _FOR_TRYING else 0.0


def template_of(metadata: str) -> str:
    """The name of the template that a problem was made from; "" if its task has none."""
    return json.loads(metadata).get("template", "")


def with_answer(metadata: str, answer: str) -> str:
    """The metadata of the same problem with another expected answer."""
    problem = json.loads(metadata)
    entry = [[key, answer if key == "answer" else value] for key, value in problem["entry"]["dict"]]
    return json.dumps(problem | {"entry": {"dict": entry}})


@functools.cache
def score_function(task: str) -> Callable[[str, dict[str, Any]], float]:
    """The task's scoring function, (answer, entry) -> score; loading it takes seconds."""
    return _library().get_score_answer_fn(task)


def _library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # raised by a dependency when it is first compiled
        return importlib.import_module("reasoning_gym")


def _tasks() -> dict[str, Any]:
    _library()
    return importlib.import_module("reasoning_gym.factory").DATASETS


def _draws(task: str, seed: int) -> Iterator[KeyedProblem]:
    rng, template = random.Random(seed), _TEMPLATES.get(task)
    while True:
        entries = _library().create_dataset(task, seed=rng.randrange(2**31), size=_BLOCK)
        for i in range(_BLOCK):
            try:
                entry = entries[i]
            except IndexError:  # a task may have fewer entries than requested
                break
            question, answer = entry["question"], entry["answer"]
            made_from = {"template": template(entries, i)} if template else {}
            metadata = json.dumps({"task": task, **made_from, "entry": _pack(entry)})
            key = f"{task} template {made_from['template']}" if made_from else question
            # The answer is None for tasks with several correct answers.
            yield key, Problem(question, "" if answer is None else str(answer), task, "gym", metadata)


def _pack(value: Any) -> Any:
    """A value as JSON that keeps tuples, fractions and types of keys, since some scoring functions compare types."""
    if isinstance(value, dict):
        return {"dict": [[_pack(k), _pack(v)] for k, v in value.items()]}
    if isinstance(value, Fraction):
        return {"fraction": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [_pack(v) for v in value]}
    return [_pack(v) for v in value] if isinstance(value, list) else value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        if "fraction" in value:
            return Fraction(value["fraction"])
        if "tuple" in value:
            return tuple(_unpack(v) for v in value["tuple"])
        return {_unpack(k): _unpack(v) for k, v in value["dict"]}
    return [_unpack(v) for v in value] if isinstance(value, list) else value
