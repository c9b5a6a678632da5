"""A synthetic corpus of imperfect chains of thought, for base models small enough to pretrain on a laptop.

Each document is an arithmetic problem and an attempt at it in the tags of the template. The attempts differ: some work
column by column, some make a mistake in a column, some guess, some leave tags open, some never answer. A model trained
on this text reasons correctly some of the time, which reinforcement learning needs to start from.
"""

from __future__ import annotations

import dataclasses
import random

from r1jax.data.problems.arithmetic import is_held_out
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.data.problems.problem import Problem
from r1jax.data.text.column_arithmetic import work_columns
from r1jax.data.text.template import Template
from r1jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """The number of documents of the corpus, and the share of each style of attempt."""

    documents: int = 40_000
    """Write this many documents."""
    careful: float = 0.34
    """Write this share of attempts column by column, without a mistake."""
    slips: float = 0.08
    """Write this share of attempts column by column, with a mistake in one column."""
    guesses: float = 0.38
    """Write this share of attempts as an immediate answer without work, which is rarely correct."""
    untidy: float = 0.12
    """Write this share of attempts correctly, but with missing or unclosed tags."""
    rambles: float = 0.08
    """Write this share of attempts as repetitions without an answer."""

    def __post_init__(self) -> None:
        shares = (self.careful, self.slips, self.guesses, self.untidy, self.rambles)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"the corpus shares {shares} must be at least 0 and add up to 1")
        if self.documents < 1:
            raise UserError(f"documents {self.documents} must be at least 1")


def operands(rng: random.Random, problems: ProblemsConfig) -> tuple[int, int, str]:
    """Two random numbers and an operation of a problem that is not held out."""
    low, high = 10 ** (problems.digits - 1) if problems.digits > 1 else 0, 10**problems.digits - 1
    while True:
        a, b, operation = rng.randint(low, high), rng.randint(low, high), rng.choice(problems.operations)
        if not is_held_out(f"{a} {operation} {b}", problems.held_out_share):
            return a, b, operation


def _attempt(rng: random.Random, config: CorpusConfig, a: int, b: int, operation: str) -> str:
    """A random attempt at a problem: the text after the opening think tag."""
    truth = a + b if operation == "+" else a - b
    styles = ("careful", "slips", "guesses", "untidy", "rambles")
    style = rng.choices(styles, [getattr(config, s) for s in styles])[0]
    width = len(str(max(a, b)))
    if style == "guesses":
        value = truth + rng.choice((0, -1, 1, -2, 2, 10, -10))
        return f"{rng.choice(('easy', 'about that', 'I know it'))}.</think><answer>{value}</answer>"
    if style == "rambles":
        work, _ = work_columns(a, b, operation)
        return work + rng.choice((" wait, again. ", " no, let me see. ")) * 12
    work, value = work_columns(a, b, operation, rng.randrange(width) if style == "slips" else None)
    if style == "untidy":
        ends = (f" so {value}", f"</think>{value}", f"</think><answer>{value}", f"<answer>{value}</answer>")
        return work + rng.choice(ends)
    return f"{work}</think><answer>{value}</answer>"


def check_operations(operations: str) -> None:
    """Raises UserError for operations that column arithmetic does not have."""
    if not operations or set(operations) - set("+-"):
        raise UserError(f"the corpus works + and - in columns, not {operations!r}: set problems.operations to '+-'")


def documents(config: CorpusConfig, problems: ProblemsConfig, template: Template, seed: int) -> list[str]:
    """The documents of the corpus: each holds a problem and an attempt at it in the template.

    problems: sets the digits and the operations; problems that it holds out do not appear.

    Raises:
      UserError: for operations other than + and -.
    """
    check_operations(problems.operations)
    rng = random.Random(seed)
    texts = []
    for _ in range(config.documents):
        a, b, operation = operands(rng, problems)
        question = template.question(Problem(f"{a} {operation} {b}", "", "arithmetic"))
        texts.append(question + template.prefill + _attempt(rng, config, a, b, operation))
    return texts
