"""General prompts with good and bad replies."""

from r1jax.data.problems import general
from r1jax.data.problems.problem import LANGUAGES
from r1jax.rewards.rules import RULES
from tests.helpers.problems import GENERAL, completion


def test_general_prompts_have_good_replies_that_are_right_and_bad_ones_that_differ():
    assert {p.problem.kind for p in GENERAL} == {*general.HELPFULNESS, *general.SAFETY}
    assert {p.problem.language for p in GENERAL} == set(LANGUAGES)
    assert len({p.problem.question for p in GENERAL}) == len(GENERAL)
    for prompt in GENERAL:
        text = prompt.response(prompt.good)
        assert (
            RULES["accuracy"](prompt.problem, completion(text))
            == 1
            == RULES["format"](prompt.problem, completion(text))
        )
        assert RULES["language"](prompt.problem, completion(text)) == 1
        assert prompt.bad and prompt.good not in prompt.bad
    unsafe = [p for p in GENERAL if p.problem.kind == "safety"]
    assert all(RULES["accuracy"](p.problem, completion(p.response(p.bad[0]))) == 0 for p in unsafe)
