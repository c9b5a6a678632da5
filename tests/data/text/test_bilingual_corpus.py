"""The corpus in two languages."""

import re

import pytest

from r1jax.data.problems import general
from r1jax.data.problems.arithmetic import is_held_out
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.data.problems.problem import Problem, key_is_held_out
from r1jax.data.text.bilingual_corpus import BilingualCorpusConfig, bilingual_documents
from r1jax.data.text.language import consistency
from r1jax.data.text.solutions import language_of
from r1jax.errors import UserError
from tests.helpers.problems import R1


def test_the_corpus_mixes_languages_by_its_share_and_contains_no_held_out_problem():
    def mixed(share):
        config = BilingualCorpusConfig(documents=800, mixes=share, general=0.0)
        texts = bilingual_documents(config, ProblemsConfig(), 0.25, R1, 0)
        judged = [(Problem(t.split("\n")[0], "", "x"), t.split("<think>")[1].split("</think>")[0]) for t in texts]
        return sum(consistency(text, language_of(p)) < 1 for p, text in judged) / len(judged)

    assert mixed(0.0) == 0
    assert 0.5 < mixed(1.0) < 0.95  # both columns may randomly have the language of the question
    config = BilingualCorpusConfig(documents=2000)
    texts = bilingual_documents(config, ProblemsConfig(), 0.25, R1, 0)
    asked = {text.split("\n")[0] for text in texts}
    sums = [match[1] for question in asked if (match := re.search(r"(\d+ [+-] \d+)", question))]
    assert sums and not any(is_held_out(one, 0.1) for one in sums)
    held_out = {p.problem.question for key, p in general.generate_prompts(0) if key_is_held_out(key, 0.25)}
    assert held_out and not held_out & asked


def test_shares_of_the_bilingual_corpus_are_checked():
    with pytest.raises(UserError, match="shares from 0 to 1"):
        BilingualCorpusConfig(mixes=1.5)
