"""Samples that become conversations, and the reasons why others do not."""

from r1jax.data.text.template import find_template
from r1jax.recipe.cold_start import rewrite_by_rules
from r1jax.recipe.judged_samples import JudgedSample, SelectConfig
from r1jax.recipe.sft_data import general_rows, select, worked
from r1jax.rewards import Completion
from tests.helpers.problems import EN, GENERAL, R1, WORDS, ZH, completion


def judged(problem, reasoning, correct=True, finished=True):
    text = f"<think>{reasoning}</think><answer>85</answer>"
    return JudgedSample(problem, completion(text, finished), correct)


def test_selection_keeps_what_is_fit_and_counts_every_sample_once():
    samples = [
        judged(EN, "I add the ones, then the tens."),
        judged(EN, "I add the ones, then the tens."),
        judged(EN, "I add the tens, then the ones."),
        judged(EN, "I add both of them at once."),
        judged(EN, "I add 个位."),
        judged(EN, "I guess.", correct=False),
        judged(EN, "I add and add", finished=False),
        judged(ZH, "我算个位。"),
    ]
    rows, counts = select(samples, SelectConfig(per_problem=2), R1, "samples")
    assert counts == {
        "sampled": 8,
        "kept": 3,
        "duplicate": 1,
        "over the cap": 1,
        "mixed language": 1,
        "wrong": 1,
        "unfinished": 1,
    }
    assert sum(n for reason, n in counts.items() if reason != "sampled") == counts["sampled"]
    assert [row["language"] for row in rows] == ["en", "en", "zh"]
    assert rows[0]["messages"] == [
        {"role": "user", "content": EN.question},
        {"role": "assistant", "content": samples[0].completion.text},
    ]


def test_selection_judges_what_the_rewriter_made():
    wrong, cut = judged(EN, "个位: 7+8=15，进 1。", correct=False), judged(EN, "个位", finished=False)
    rewritten = rewrite_by_rules([judged(EN, "个位: 7+8=15，进 1。"), wrong, cut], R1)
    rows, counts = select(rewritten, SelectConfig(), R1, "zero")
    assert counts == {"sampled": 3, "kept": 1, "wrong": 1, "unfinished": 1}
    assert rows[0]["messages"][-1]["content"].startswith("<think>I work the ones")


def test_samples_of_another_template_become_conversations_of_the_recipe_s():
    steps = find_template("steps")
    text = "37 and 48 make 85. The answer is 85."
    asked = JudgedSample(EN, Completion(text=text, tokens=9, limit=72, finished=True, template=steps), True)
    assert select([asked], SelectConfig(), R1, "zero")[1] == {"sampled": 1, "format": 1}
    rows, _ = select(rewrite_by_rules([asked], R1), SelectConfig(), R1, "zero")
    assert rows[0]["messages"] == [
        {"role": "user", "content": EN.question},
        {"role": "assistant", "content": "<think>37 and 48 make 85.</think>The result is <answer>85</answer>."},
    ]


def test_worked_solutions_and_general_replies_give_rows_of_the_same_form():
    rows = worked(WORDS.train, R1, 5)
    assert len(rows) == 5 and {row["origin"] for row in rows} == {"generated"}
    both = general_rows(GENERAL[:3], R1, 2)
    assert len(both) == 6 and {row["origin"] for row in both} == {"general"}
    assert both[0].keys() == rows[0].keys()
