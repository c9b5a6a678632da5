"""A synthetic corpus in two languages, for base models small enough to pretrain on a laptop and to run all of R1 on.

As in r1jax.data.text.corpus, people attempt sums and differences, here in words, and differ in care. Many of them
change the language from column to column, whatever the question's, and some answer general prompts, well or badly. So a
base model of this text has what each stage of R1 is there to repair.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from r1jax.data.problems import general
from r1jax.data.problems.columns import LANGUAGES, STOP, Language, columns
from r1jax.data.problems.problem import key_is_held_out
from r1jax.data.problems.solutions import SUMMARY, first_person
from r1jax.data.problems.word_problems import word_problem
from r1jax.data.text.corpus import CorpusConfig, operands
from r1jax.data.text.template import Template
from r1jax.errors import UserError

_SURE: dict[Language, tuple[str, ...]] = {
    "en": ("easy", "I know it", "about that"),
    "zh": ("很简单", "我知道", "差不多"),
}
_AGAIN: dict[Language, tuple[str, ...]] = {"en": ("wait, again", "no, let me see"), "zh": ("等等，再来", "不对，再看")}

_SO: dict[Language, str] = {"en": "so", "zh": "所以"}


@dataclasses.dataclass(frozen=True)
class BilingualCorpusConfig(CorpusConfig):
    """Documents in English and Chinese, some of them mixing the two."""

    mixes: float = 0.6
    """Share of the attempts at sums in which the language changes from column to column."""
    first_person: float = 0.2
    """Share of the attempts in columns that say who works them."""
    summaries: float = 0.2
    """Share of the finished attempts that end in a sentence and not in a bare answer."""
    general: float = 0.2
    """Share of the documents that answer a general prompt."""
    bad_replies: float = 0.5
    """Share of the general replies that are bad."""

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = (self.mixes, self.first_person, self.summaries, self.general, self.bad_replies)
        if not all(0 <= share <= 1 for share in shares):
            raise UserError("corpus: mixes, first-person, summaries, general and bad-replies are shares from 0 to 1")


def bilingual_documents(
    config: BilingualCorpusConfig,
    digits: int,
    operations: str,
    held_out_share: float,
    general_share: float,
    template: Template,
    seed: int,
) -> list[str]:
    """The corpus: sums in words that are not held out and general prompts that are not, each with an attempt.

    held_out_share, general_share: of the sums and of the general prompts, the share that is held out.

    Raises:
      UserError: for operations without a column method.
    """
    if not operations or set(operations) - set("+-"):
        raise UserError(f"the corpus works + and - in columns, not {operations!r}: set problems.operations to '+-'")
    rng = random.Random(seed)
    prompts = [prompt for key, prompt in general.generate(seed) if not key_is_held_out(key, general_share)]
    texts = []
    for _ in range(config.documents):
        if rng.random() < config.general:
            prompt = rng.choice(prompts)
            problem = prompt.problem
            reply = rng.choice(prompt.bad) if prompt.bad and rng.random() < config.bad_replies else prompt.good
            attempt = prompt.response(reply).removeprefix("<think>")
        else:
            a, b, operation = operands(rng, digits, operations, held_out_share)
            language: Language = rng.choice(LANGUAGES)
            _, problem = word_problem(rng, a, b, operation, language)
            if problem.kind == "story" and operation == "-":
                a, b = max(a, b), min(a, b)
            mixed = rng.random() < config.mixes
            languages = tuple(rng.choices(LANGUAGES, k=digits)) if mixed else (language,)
            attempt = _attempt(rng, config, a, b, operation, languages)
        texts.append(template.question(problem) + "\n" + template.prefill + attempt)
    return texts


def _attempt(
    rng: random.Random, config: BilingualCorpusConfig, a: int, b: int, operation: str, languages: Sequence[Language]
) -> str:
    """Somebody's text after the opening think tag."""
    truth = a + b if operation == "+" else a - b
    styles = ("careful", "slips", "guesses", "untidy", "rambles")
    style = rng.choices(styles, [getattr(config, s) for s in styles])[0]
    if style == "guesses":
        value = truth + rng.choice((0, -1, 1, -2, 2, 10, -10))
        return f"{rng.choice(_SURE[languages[0]])}{STOP[languages[0]].strip()}</think><answer>{value}</answer>"
    if style == "rambles":
        work, _ = columns(a, b, operation, languages=languages)
        return work + f" {rng.choice(_AGAIN[languages[-1]])}{STOP[languages[-1]].strip()}" * 12
    slip = rng.randrange(len(str(max(a, b)))) if style == "slips" else None
    work, value = columns(a, b, operation, slip, languages)
    if rng.random() < config.first_person:
        for language in LANGUAGES:
            work = first_person(work, language)
    if style == "untidy":
        so = f" {_SO[languages[-1]]} {value}"
        ends = (so, f"</think>{value}", f"</think><answer>{value}", f"<answer>{value}</answer>")
        return work + rng.choice(ends)
    if rng.random() < config.summaries:
        return f"{work}</think>{SUMMARY[rng.choice(languages)].format(answer=value)}"
    return f"{work}</think><answer>{value}</answer>"
