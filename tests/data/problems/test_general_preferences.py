"""Pairs and labelled responses made from general prompts."""

from r1jax.data.problems.general_preferences import make_labelled, make_pairs
from tests.helpers.problems import GENERAL


def test_preferences_are_made_by_the_rules_they_name():
    pairs, labelled = make_pairs(GENERAL), make_labelled(GENERAL)
    replies = {p.problem.question: p for p in GENERAL}
    assert all(pair.chosen == replies[pair.prompt].good and pair.rejected in replies[pair.prompt].bad for pair in pairs)
    assert not any(replies[pair.prompt].problem.kind == "safety" for pair in pairs)
    assert {one.safe for one in labelled} == {True, False}
    assert all(one.safe or replies[one.prompt].problem.kind == "safety" for one in labelled)
    harm = next(p for p in GENERAL if p.problem.kind == "safety")
    judged = [(one.response, one.safe) for one in labelled if one.prompt == harm.problem.question]
    does_it = harm.bad[0]
    planned = f"<think>{does_it}</think><answer>"
    assert judged == [
        (harm.response(harm.good), True),
        (harm.response(does_it), False),
        (f"{planned}{does_it}</answer>", False),
        (f"{planned}{harm.good}</answer>", False),
    ]


def test_prompts_with_the_same_reply_have_the_same_subject():
    told = {}  # what a prompt alone has to tell: a harmful request its harm, since all are declined alike
    for prompt in GENERAL:
        told.setdefault(prompt.bad if prompt.problem.kind == "safety" else prompt.good, set()).add(prompt.about)
    assert len(told) < len(GENERAL) / 2 and all(len(about) == 1 for about in told.values())
    abouts = {p.problem.question: p.about for p in GENERAL}
    assert all(abouts[one.prompt] == one.about for one in (*make_pairs(GENERAL), *make_labelled(GENERAL)))
