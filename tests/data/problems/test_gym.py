"""Problems of reasoning-gym and their scoring functions."""

from __future__ import annotations

import dataclasses
import re
from itertools import islice

from r1jax.data.problems import gym
from r1jax.data.problems.dataset import ProblemsConfig, load_problems


def test_tasks_are_made_by_name_and_scored_by_their_own_function() -> None:
    config = ProblemsConfig("gym:chain_sum", train_size=60, held_out_size=20)
    sets = [load_problems(dataclasses.replace(config, seed=seed)) for seed in (0, 1)]
    train = {p.question for s in sets for p in s.train}
    held_out = {p.question for s in sets for p in s.held_out}
    assert len(train) > 100 and len(held_out) > 30 and not train & held_out
    problem = sets[0].train[0]
    assert problem.kind == "chain_sum"
    assert gym.score(problem.answer, problem.metadata) == 1
    assert gym.score("12345678", problem.metadata) < 0.1


def test_credit_for_any_number_is_none() -> None:
    _, problem = next(gym.generate("gsm_symbolic", seed=0))
    assert gym.score_function("gsm_symbolic")("12345678", {"answer": problem.answer}) > 0
    assert gym.score("12345678", problem.metadata) == 0
    assert gym.score(problem.answer, problem.metadata) == 1


def test_scoring_functions_get_the_original_entry() -> None:
    # This scoring function needs tuples, which plain JSON would turn into lists.
    _, problem = next(gym.generate("rearc", seed=0))
    assert gym.score(problem.answer, problem.metadata) == 1


def test_an_answer_that_the_scoring_function_cannot_read_is_wrong() -> None:
    _, problem = next(gym.generate("prime_factorization", seed=0))
    assert gym.score("no number", problem.metadata) == 0
    assert gym.score(problem.answer, problem.metadata) == 1


def phrases(question):
    """Sequences of four lower-case words or numbers of a question; all numbers are the same, names are left out."""
    words = ["0" if word[0].isdigit() else word for word in re.findall(r"[a-z]{2,}|[0-9][0-9.,]*", question)]
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


def test_whole_templates_of_gsm_symbolic_are_held_out() -> None:
    config = ProblemsConfig("gym:gsm_symbolic", train_size=600, held_out_size=150, held_out_share=0.25)
    sets = [load_problems(dataclasses.replace(config, seed=seed)) for seed in (0, 1)]
    sides = [[p for one in sets for p in getattr(one, side)] for side in ("train", "held_out")]
    train, held_out = ({gym.template_of(p.metadata) for p in side} for side in sides)
    assert len(train) == 66 and len(held_out) == 19 and not train & held_out
    # The text alone says the same: questions of one template share most of their phrases, also with other names.
    ending = phrases("Give the result as your final answer. Do not include units.")
    texts = [[(phrases(p.question) - ending, gym.template_of(p.metadata)) for p in side] for side in sides]
    seen = [found for found, _ in texts[0][:300]]

    def nearest(found, others):
        return max(len(found & other) / min(len(found), len(other)) for other in others)

    between = [nearest(found, seen) for found, _ in texts[1][:40]]
    within = [
        nearest(found, [other for other, of in texts[1][40:] if of == template]) for found, template in texts[1][:40]
    ]
    assert max(between) < 0.5 < sum(within) / len(within)


def test_templates_change_neither_the_questions_nor_the_scores() -> None:
    keyed = list(islice(gym.generate("gsm_symbolic", seed=3), 50))
    assert all(key == f"gsm_symbolic template {gym.template_of(problem.metadata)}" for key, problem in keyed)
    assert all(gym.score(problem.answer, problem.metadata) == 1 for _, problem in keyed)
    key, problem = next(gym.generate("chain_sum", seed=0))
    assert key == problem.question and gym.template_of(problem.metadata) == ""
