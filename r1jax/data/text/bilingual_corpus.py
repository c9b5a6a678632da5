"""A synthetic corpus in English and Chinese, for base models small enough to run all stages of R1 on a laptop.

As in r1jax.data.text.corpus, each document is an attempt at a problem, here a word problem, and the attempts differ in
quality. Many attempts change the language from column to column, and some documents answer general prompts, well or
badly. A base model trained on this text therefore has the faults that the stages of R1 repair.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from r1jax.data.problems import general
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.data.problems.problem import LANGUAGES, Language, key_is_held_out
from r1jax.data.problems.word_problems import word_problem
from r1jax.data.text.column_arithmetic import STOP, work_columns
from r1jax.data.text.corpus import CorpusConfig, check_operations, operands
from r1jax.data.text.solutions import SUMMARY, first_person
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
    """Documents in English and Chinese, some of which mix the two."""

    mixes: float = 0.6
    """Change the language from column to column in this share of the attempts at word problems."""
    first_person: float = 0.2
    """Write this share of the column arithmetic in the first person."""
    summaries: float = 0.2
    """End this share of the finished attempts with a sentence instead of only the answer."""
    general: float = 0.2
    """Write this share of the documents as replies to general prompts."""
    bad_replies: float = 0.5
    """Write this share of the replies to general prompts as bad replies."""

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = (self.mixes, self.first_person, self.summaries, self.general, self.bad_replies)
        if not all(0 <= share <= 1 for share in shares):
            raise UserError("corpus: mixes, first-person, summaries, general and bad-replies are shares from 0 to 1")


def bilingual_documents(
    config: BilingualCorpusConfig, problems: ProblemsConfig, general_share: float, template: Template, seed: int
) -> list[str]:
    """The documents of the corpus: each holds a word problem or a general prompt, and an attempt at it.

    problems: sets the digits and the operations of word problems; problems that it holds out do not appear.
    general_share: the share of the general prompts that is held out and does not appear.

    Raises:
      UserError: for operations other than + and -.
    """
    check_operations(problems.operations)
    rng = random.Random(seed)
    prompts = [prompt for key, prompt in general.generate_prompts(seed) if not key_is_held_out(key, general_share)]
    texts = []
    for _ in range(config.documents):
        if rng.random() < config.general:
            prompt = rng.choice(prompts)
            problem = prompt.problem
            reply = rng.choice(prompt.bad) if prompt.bad and rng.random() < config.bad_replies else prompt.good
            attempt = prompt.response(reply).removeprefix("<think>")
        else:
            a, b, operation = operands(rng, problems)
            language: Language = rng.choice(LANGUAGES)
            _, problem = word_problem(rng, a, b, operation, language)
            if problem.kind == "story" and operation == "-":
                a, b = max(a, b), min(a, b)
            mixed = rng.random() < config.mixes
            languages = tuple(rng.choices(LANGUAGES, k=problems.digits)) if mixed else (language,)
            attempt = _attempt(rng, config, a, b, operation, languages)
        texts.append(template.question(problem) + "\n" + template.prefill + attempt)
    return texts


def _attempt(
    rng: random.Random, config: BilingualCorpusConfig, a: int, b: int, operation: str, languages: Sequence[Language]
) -> str:
    """A random attempt at a problem: the text after the opening think tag."""
    truth = a + b if operation == "+" else a - b
    styles = ("careful", "slips", "guesses", "untidy", "rambles")
    style = rng.choices(styles, [getattr(config, s) for s in styles])[0]
    if style == "guesses":
        value = truth + rng.choice((0, -1, 1, -2, 2, 10, -10))
        return f"{rng.choice(_SURE[languages[0]])}{STOP[languages[0]].strip()}</think><answer>{value}</answer>"
    if style == "rambles":
        work, _ = work_columns(a, b, operation, languages=languages)
        return work + f" {rng.choice(_AGAIN[languages[-1]])}{STOP[languages[-1]].strip()}" * 12
    slip = rng.randrange(len(str(max(a, b)))) if style == "slips" else None
    work, value = work_columns(a, b, operation, slip, languages)
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
