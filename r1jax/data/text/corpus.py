"""A synthetic corpus of imperfect chains of thought, for base models small enough to pretrain on a laptop.

Each document is a problem of column arithmetic and somebody's attempt at it, inside the tags of the template. People
differ: some work column by column, some slip while doing so, some guess, some never close their tags, some ramble. A
model of this text can reason and does so some of the time, which is what reinforcement learning needs to start from.
"""

from __future__ import annotations

import dataclasses
import random

from r1jax.data.problems.arithmetic import is_held_out
from r1jax.data.problems.columns import columns
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """The documents and the people who wrote them."""

    documents: int = 40_000
    """Number of documents."""
    careful: float = 0.34
    """Share that works column by column without a slip."""
    slips: float = 0.08
    """Share that works column by column and gets one column wrong."""
    guesses: float = 0.38
    """Share that answers at once, seldom right."""
    untidy: float = 0.12
    """Share that works well but leaves the tags out or open."""
    rambles: float = 0.08
    """Share that goes round in circles and never answers."""

    def __post_init__(self) -> None:
        shares = (self.careful, self.slips, self.guesses, self.untidy, self.rambles)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"the corpus shares {shares} must be at least 0 and add up to 1")
        if self.documents < 1:
            raise UserError(f"documents {self.documents} must be at least 1")


def operands(rng: random.Random, digits: int, operations: str, held_out_share: float) -> tuple[int, int, str]:
    """Two numbers of ``digits`` digits and a sign, of a problem that is not held out."""
    low, high = 10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1
    while True:
        a, b, operation = rng.randint(low, high), rng.randint(low, high), rng.choice(operations)
        if not is_held_out(f"{a} {operation} {b}", held_out_share):
            return a, b, operation


def _attempt(rng: random.Random, config: CorpusConfig, a: int, b: int, operation: str) -> str:
    """Somebody's text after the opening think tag."""
    truth = a + b if operation == "+" else a - b
    styles = ("careful", "slips", "guesses", "untidy", "rambles")
    style = rng.choices(styles, [getattr(config, s) for s in styles])[0]
    width = len(str(max(a, b)))
    if style == "guesses":
        value = truth + rng.choice((0, -1, 1, -2, 2, 10, -10))
        return f"{rng.choice(('easy', 'about that', 'I know it'))}.</think><answer>{value}</answer>"
    if style == "rambles":
        work, _ = columns(a, b, operation)
        return work + rng.choice((" wait, again. ", " no, let me see. ")) * 12
    work, value = columns(a, b, operation, rng.randrange(width) if style == "slips" else None)
    if style == "untidy":
        ends = (f" so {value}", f"</think>{value}", f"</think><answer>{value}", f"<answer>{value}</answer>")
        return work + rng.choice(ends)
    return f"{work}</think><answer>{value}</answer>"


def documents(
    config: CorpusConfig, digits: int, operations: str, held_out_share: float, template: Template, seed: int
) -> list[str]:
    """The corpus: problems of ``digits`` digits that are not held out, each with an attempt in the template.

    Raises:
      UserError: for operations without a column method.
    """
    if not operations or set(operations) - set("+-"):
        raise UserError(f"the corpus works + and - in columns, not {operations!r}: set problems.operations to '+-'")
    rng = random.Random(seed)
    texts = []
    for _ in range(config.documents):
        a, b, operation = operands(rng, digits, operations, held_out_share)
        question = template.question(Problem(f"{a} {operation} {b}", "", "arithmetic"))
        texts.append(question + template.prefill + _attempt(rng, config, a, b, operation))
    return texts
