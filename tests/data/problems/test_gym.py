"""Problems of reasoning-gym and their scoring functions."""

from __future__ import annotations

import dataclasses

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
