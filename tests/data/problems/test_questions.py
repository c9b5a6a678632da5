"""Questions from text and from messages in each form."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from r1jax.data.problems.questions import question_text
from r1jax.errors import UserError

USER = {"content": "What is\n6 * 7?", "role": "user"}
SYSTEM = {"role": "system", "content": "You are {careful}."}


@pytest.mark.parametrize(
    "value",
    [
        USER["content"],
        [USER],
        [SYSTEM, USER],
        [USER | {"content": [{"type": "text", "text": "What is\n"}, {"type": "text", "text": "6 * 7?"}]}],
        json.dumps([SYSTEM, USER], indent=1),
        str([SYSTEM, USER]),
        str(np.array([SYSTEM, USER])),  # pandas.DataFrame.to_csv of a table that was parquet
    ],
)
def test_the_question_is_what_the_user_says(value: Any) -> None:
    assert question_text(value, "prompt", "a.csv, line 2") == USER["content"]


@pytest.mark.parametrize("value", ["[1, 2] is what?", '[{"a": 1}]', "{'role': 'user'}", "[{role: user}]"])
def test_other_text_is_the_question(value: str) -> None:
    assert question_text(value, "prompt", "a.csv, line 2") == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('[{"role": "user", "content": "a"', "has messages that are not JSON: '[{"),
        ('[{"role": "user", "content": "\\ud800"}]', "has messages that are not JSON"),
        (
            [USER | {"content": [{"type": "text", "text": "a"}, {"type": "image"}]}],
            "has parts of the types text, image",
        ),
        ([USER | {"content": []}], "has parts of the types : write text"),
        (str([USER, USER]), "has messages of the roles user, user: one message"),
    ],
)
def test_other_messages_are_refused(value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        question_text(value, "prompt", "a.csv, line 2")
    assert str(error.value).startswith(f"a.csv, line 2: column 'prompt' {message}") and "\n" not in str(error.value)
