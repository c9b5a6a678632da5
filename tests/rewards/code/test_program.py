"""The program in the text of a completion, for rewards and evaluations."""

import pytest

from r1jax.evaluation.tasks.prompts import task_template
from r1jax.rewards.code.program import has_block, program_in


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Here:\n```python\ndef f():\n    return 1\n```\nDone.", "def f():\n    return 1"),
        ("```python\na = 1\n```\nor better\n```python\na = 2\n```\nIt prints\n```\n2\n```", "a = 2"),
        ("```\na = 1\n```", "a = 1"),
        ("```python\na = 1", "a = 1"),  # cut
        ("~~~~py\ns = '''\n```\n'''\n~~~~", "s = '''\n```\n'''"),
        ("```Python3\na = 1\n``` It prints\n```text\n1\n```", "a = 1"),  # text after the fence
        ("```{.python}\na = 1\n`````\n```pycon\n>>> a\n```", "a = 1"),  # a longer fence
        ("~~~python\na = 1\n~~~\n```json\n{}\n```", "a = 1"),
        ("  ```py\na = 1\n  ```\n", "a = 1"),
        ("```python\n```", None),
        ("    return 1\n\ndef g():\n    pass", "    return 1"),
        ("\n    x = 1\n\n    return x\nprint(f())", "    x = 1\n\n    return x"),
        ("import re\ndef f():\n    return 1\nf()", "import re\ndef f():\n    return 1\nf()"),
        ("Use ``` as a fence", "Use ``` as a fence"),
        ("", None),
        (" \n", None),
    ],
)
def test_a_program_is_the_last_block_or_the_rest_of_the_function(text: str, code: str | None) -> None:
    assert program_in(text) == code
    assert task_template("code", "Go.", chat=True).answer(f"<think>```python\nno\n```</think>{text}") == code
    assert has_block(text) == ("\n```" in f"\n{text}".replace("~~~", "```").replace("  ```", "```"))
