"""A template of generated code problems."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

Draw = Callable[[random.Random], Any]


@dataclasses.dataclass(frozen=True)
class Template:
    """A function to write.

    text: what it does; ``{k}`` and ``{w}`` are replaced by a drawn number and a drawn word.
    signature: its parameters, as in ``items, n``.
    solve: computes the value from the arguments, and from k and w where the text has them.
    draws: a random value for each parameter.
    numbers, words: the choices for k and w.
    """

    text: str
    signature: str
    solve: Callable[..., Any]
    draws: Sequence[Draw]
    numbers: Sequence[int] = (0,)
    words: Sequence[str] = ("",)

    def settings(self) -> dict[str, Sequence[Any]]:
        """The choices for the placeholders that the text has."""
        choices = {"k": self.numbers, "w": self.words}
        return {name: values for name, values in choices.items() if f"{{{name}}}" in self.text}


Family = Sequence[Template]
