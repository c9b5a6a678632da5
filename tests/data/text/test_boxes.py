"""The contents of boxes in a text."""

from __future__ import annotations

import pytest

from r1jax.data.text.boxes import boxed


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        ("no box, but {3}", []),
        (r"So \boxed{ 3 }, or \fbox {\frac{1}{2}}.", ["3", r"\frac{1}{2}"]),
        (r"\boxed{\boxed{42}}", [r"\boxed{42}", "42"]),
        (r"\boxed{3} and \boxed{4", ["3", None]),
        (r"} \boxed{\{1, 2\}} {", [r"\{1, 2\}"]),
        (r"\boxed{1 \boxed{2} \boxed", [None, "2"]),
    ],
)
def test_each_box_has_its_content_and_an_open_one_none(text: str, contents: list[str | None]) -> None:
    assert boxed(text) == contents
