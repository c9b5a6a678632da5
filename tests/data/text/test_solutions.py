"""Worked solutions of problems."""

from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.text.readability import ReadabilityConfig, fault
from r1jax.data.text.solutions import response
from r1jax.recipe.sft_data import worked
from r1jax.rewards.rules import RULES
from tests.helpers.problems import R1, WORDS, completion


def test_worked_solutions_are_right_well_formed_and_in_the_language_of_the_question():
    countdown = load_problems(ProblemsConfig(source="countdown", terms=3, operations="+-*"))
    plain = load_problems(ProblemsConfig(source="arithmetic"))
    for problem in (*WORDS.train[:200], *countdown.train[:100], *plain.train[:100]):
        text = response(problem)
        assert text is not None and R1.well_formed(text)
        assert RULES["accuracy"](problem, completion(text)) == 1
        assert fault(problem, R1.reasoning(text), ReadabilityConfig()) is None


def test_a_problem_that_no_rule_solves_has_no_solution():
    assert response(Problem("Why is the sky blue?", "scattering", "science", "exact")) is None
    assert response(Problem("2 * 3", "6", "arithmetic")) is None
    assert worked([Problem("2 * 3", "6", "arithmetic"), WORDS.train[0]], R1, 3) == worked(WORDS.train, R1, 1)


def test_steps_of_countdown_are_those_of_its_solution():
    problem = Problem("Make 25", "(3 * 7) + 4", "countdown", "countdown")
    assert response(problem) == (
        "<think>I make 3 * 7 = 21. I make 21 + 4 = 25. This is the target.</think>"
        "The result is <answer>(3 * 7) + 4</answer>."
    )
