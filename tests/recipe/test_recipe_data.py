"""Data of the recipe: problems in two languages, worked solutions, and the selection of samples."""

import itertools
import random
import re

import pytest

from r1jax.data.formats.preferences import read_labelled, read_pairs
from r1jax.data.problems import general
from r1jax.data.problems.arithmetic import is_held_out
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.general_preferences import make_labelled, make_pairs
from r1jax.data.problems.problem import LANGUAGES, Problem, key_is_held_out
from r1jax.data.problems.word_problems import word_problem
from r1jax.data.text.bilingual_corpus import BilingualCorpusConfig, bilingual_documents
from r1jax.data.text.column_arithmetic import work_columns
from r1jax.data.text.language import consistency, words
from r1jax.data.text.readability import ReadabilityConfig, fault, repetition
from r1jax.data.text.readable_reasoning import PROMPT, make_readable, readable_response, rewriting_prompt
from r1jax.data.text.solutions import language_of, response
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.recipe.cold_start import rewrite_by_rules
from r1jax.recipe.judged_samples import JudgedSample, SelectConfig
from r1jax.recipe.selection import general_rows, select, worked
from r1jax.rewards import Completion
from r1jax.rewards.rules import RULES

R1 = find_template("r1")
WORDS = load_problems(ProblemsConfig(source="word-problems"))
GENERAL = [prompt for _, prompt in general.generate_prompts(0)]


def completion(text, finished=True):
    return Completion(text=text, tokens=9, limit=72, finished=finished, template=R1)


@pytest.mark.parametrize("operation", "+-")
@pytest.mark.parametrize("languages", [("en",), ("zh",), ("zh", "en")])
def test_columns_come_to_the_result_in_every_language_and_a_slip_does_not(operation, languages):
    rng = random.Random(0)
    for _ in range(200):
        a, b = rng.randint(0, 999), rng.randint(0, 999)
        text, value = work_columns(a, b, operation, languages=languages)
        assert value == (a + b if operation == "+" else a - b)
        assert {language for _, language in words(text)} <= set(languages)
        assert work_columns(a, b, operation, slip=0, languages=languages)[1] != value


def test_columns_are_written_out_as_by_hand():
    assert work_columns(37, 48, "+") == ("ones: 7+8=15, carry 1. tens: 3+4+1=8.", 85)
    assert work_columns(37, 48, "+", languages=("zh",)) == ("个位: 7+8=15，进 1。十位: 3+4+1=8。", 85)
    assert work_columns(52, 17, "-", languages=("zh", "en")) == ("个位: 12-7=5，借 1。tens: 4-1=3.", 35)


def test_word_problems_are_in_both_languages_and_kinds_and_no_numbers_are_on_both_sides():
    for side in (WORDS.train, WORDS.held_out):
        assert {(p.language, p.kind) for p in side} == set(itertools.product(LANGUAGES, ("sum", "story")))

    def numbers(problem):
        return frozenset(re.findall(r"\d+", problem.question)), abs(int(problem.answer))

    assert not {numbers(p) for p in WORDS.train} & {numbers(p) for p in WORDS.held_out}
    for problem in WORDS.train[:300]:
        assert consistency(problem.question, problem.language) == 1
        assert int(problem.answer) >= 0 or problem.kind == "sum"


def test_the_answer_of_a_story_is_its_sum():
    for operation, expected in (("+", {"12"}), ("-", {"4", "-4"})):
        problems = [word_problem(random.Random(i), 4, 8, operation, "en")[1] for i in range(20)]
        assert {p.answer for p in problems} == expected


def test_worked_solutions_are_right_well_formed_and_in_the_language_of_the_question():
    countdown = load_problems(ProblemsConfig(source="countdown", terms=3, operations="+-*"))
    plain = load_problems(ProblemsConfig(source="arithmetic"))
    for problem in (*WORDS.train[:200], *countdown.train[:100], *plain.train[:100]):
        text = response(problem)
        assert text is not None and R1.well_formed(text)
        assert RULES["accuracy"](problem, completion(text)) == 1
        assert fault(problem, R1.reasoning(text), ReadabilityConfig()) is None


def test_what_no_rule_works_has_no_solution():
    assert response(Problem("Why is the sky blue?", "scattering", "science", "exact")) is None
    assert response(Problem("2 * 3", "6", "arithmetic")) is None
    assert worked([Problem("2 * 3", "6", "arithmetic"), WORDS.train[0]], R1, 3) == worked(WORDS.train, R1, 1)


def test_steps_of_countdown_are_those_of_its_solution():
    problem = Problem("Make 25", "(3 * 7) + 4", "countdown", "countdown")
    assert response(problem) == (
        "<think>I make 3 * 7 = 21. I make 21 + 4 = 25. This is the target.</think>"
        "The result is <answer>(3 * 7) + 4</answer>."
    )


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


def test_what_is_asked_about_is_judged_on_one_side_whatever_the_words():
    told = {}  # what a prompt alone has to tell: a harmful request its harm, since all are declined alike
    for prompt in GENERAL:
        told.setdefault(prompt.bad if prompt.problem.kind == "safety" else prompt.good, set()).add(prompt.about)
    assert len(told) < len(GENERAL) / 2 and all(len(about) == 1 for about in told.values())
    abouts = {p.problem.question: p.about for p in GENERAL}
    assert all(abouts[one.prompt] == one.about for one in (*make_pairs(GENERAL), *make_labelled(GENERAL)))


@pytest.mark.parametrize(
    ("read", "line", "message"),
    [
        (read_pairs, '{"prompt": "a", "chosen": "b"}', "line 1: column 'rejected' is None"),
        (read_pairs, '{"prompt": " ", "chosen": "b", "rejected": "c"}', "column 'prompt'"),
        (read_labelled, '{"prompt": "a", "response": "b", "safe": "yes"}', "column 'safe' is 'yes'"),
        (read_labelled, "", "holds no rows"),
    ],
)
def test_wrong_preferences_are_one_line(read, line, message, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        read(file)


def test_preferences_are_read_from_a_file(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (pair,) = read_pairs(file)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("a", "b", "c")
    file.write_text('{"prompt": "a", "response": "b", "safe": false}\n')
    (one,) = read_labelled(file)
    assert (one.prompt, one.response, one.safe) == ("a", "b", False)


EN = Problem("What is 37 + 48?", "85", "sum", language="en")
ZH = Problem("37 + 48 等于多少？", "85", "sum", language="zh")


@pytest.mark.parametrize(
    ("problem", "reasoning", "expected"),
    [
        (EN, "I add the ones and then the tens.", None),
        (ZH, "我先算个位，再算十位。", None),
        (EN, "I add the 个位 and then the tens.", "mixed language"),
        (ZH, "I add the ones.", "mixed language"),
        (EN, None, "format"),
        (EN, "", "format"),
        (EN, "word " * 300, "long paragraph"),
        (EN, "so I write\n```\nprint(85)\n```", "code"),
        (EN, "import numpy, then add", "code"),
        (EN, "one two three four five six seven eight nine. " * 4, "repetition"),
    ],
)
def test_each_fault_is_found(problem, reasoning, expected):
    assert fault(problem, reasoning, ReadabilityConfig()) == expected


def test_a_long_text_in_short_paragraphs_is_no_long_paragraph():
    paragraphs = "\n\n".join(f"step {i} has its own words number {i * 7}" for i in range(60))
    assert len(paragraphs) > 1200 and fault(EN, paragraphs, ReadabilityConfig()) is None


def test_repetition_is_the_share_of_runs_seen_before():
    assert repetition("a b c d", n=2) == 0
    assert repetition("a b a b", n=2) == pytest.approx(1 / 3)  # ab, ba, ab
    assert repetition("一二一二", n=2) == pytest.approx(1 / 3)
    assert repetition("a", n=2) == 0


@pytest.mark.parametrize(
    ("problem", "reasoning", "expected"),
    [
        (EN, "个位: 7+8=15，进 1。tens: 3+4+1=8.", "I work the ones: 7+8=15, carry 1. I work the tens: 3+4+1=8."),
        (ZH, "ones: 7+8=15, carry 1. 十位: 3+4+1=8。", "我算个位: 7+8=15，进 1。我算十位: 3+4+1=8。"),
        (ZH, "I work the ones: 7+8=15, carry 1. 我算十位: 3+4+1=8。", "我算个位: 7+8=15，进 1。我算十位: 3+4+1=8。"),
        (EN, "我算个位: 7+8=15，进 1。tens: 3+4+1=8.", "I work the ones: 7+8=15, carry 1. I work the tens: 3+4+1=8."),
        (
            EN,
            "ones: 7+8=15, carry 1. wait, again. tens: 3+4+1=8.",
            "I work the ones: 7+8=15, carry 1. I work the tens: 3+4+1=8.",
        ),
    ],
)
def test_rewriting_brings_reasoning_into_the_language_of_the_question(problem, reasoning, expected):
    assert make_readable(problem, reasoning) == expected
    assert fault(problem, expected, ReadabilityConfig()) is None
    text = readable_response(problem, expected, "85")
    assert R1.well_formed(text) and R1.answer(text) == "85" and R1.reasoning(text) == expected


def test_rewriting_leaves_unknown_words_for_the_filter():
    assert fault(EN, make_readable(EN, "很简单。"), ReadabilityConfig()) == "mixed language"


def test_rewriting_keeps_paragraphs_and_words_that_hold_a_phrase():
    text = "I add the bones.\n\nThen more, carry 1 on.\n\nSo 3."
    assert make_readable(EN, text) == text
    assert make_readable(ZH, "bones of lonestar: 3") == "bones of lonestar: 3"


def test_the_prompt_of_a_rewriting_model_names_all_it_needs():
    assert rewriting_prompt("{question}|{reasoning}|{language}|{x}", ZH, "{question}") == (
        f"{ZH.question}|{{question}}|Chinese|{{x}}"
    )
    assert all(part in rewriting_prompt(PROMPT, EN, "7+8=15") for part in (EN.question, "7+8=15", "English"))


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


def test_rows_by_rules_and_general_replies_have_the_same_form():
    rows = worked(WORDS.train, R1, 5)
    assert len(rows) == 5 and {row["origin"] for row in rows} == {"generated"}
    both = general_rows(GENERAL[:3], R1, 2)
    assert len(both) == 6 and {row["origin"] for row in both} == {"general"}
    assert both[0].keys() == rows[0].keys()


def test_the_corpus_mixes_languages_by_its_share_and_omits_held_out_problems():
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
