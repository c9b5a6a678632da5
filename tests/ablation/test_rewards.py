"""Rewards inside a program against the rules of the host, on texts written by hand and on random ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ablation.answers import WIDTH, correct, expected_answers
from r1jax.ablation.rewards import check_rewards, score
from r1jax.ablation.text import answers, codes_of, token_codes, well_formed
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.rewards.base import Completion
from r1jax.rewards.checkers import check
from r1jax.rewards.completions import completions_from_samples
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.rules import RULES
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import Samples
from r1jax.sampling.slots import END, LENGTH
from r1jax.tokenizer import ByteTokenizer
from tests.ablation.helpers import TOKENIZER

THINK, PROSE = find_template("think"), find_template("r1")
EXPECTED = ("5", "-5", "0", "1234", "2.5", "-0.25", "12")


def rows(texts):
    width = max(map(len, texts)) + 3
    return jnp.asarray([[*codes_of(text), *[0] * (width - len(text))] for text in texts], jnp.uint8)


ROWS, COLUMNS = 3000, 7  # one compiled program serves all calls of ``judged``


@jax.jit
def _judged(texts, lengths, expected):
    def of_problem(one):
        return correct(texts, lengths, jax.tree.map(lambda x: jnp.broadcast_to(x, (ROWS, *x.shape)), one))

    return jax.vmap(of_problem, out_axes=1)(expected)


def judged(texts, problems):
    """[texts, problems] bool: each text as an answer to each problem."""
    padded = [*texts, *[""] * (ROWS - len(texts))]
    codes = rows(["x" * WIDTH, *padded])[1:, :WIDTH]
    expected = expected_answers([*problems, *problems[:1] * (COLUMNS - len(problems))])
    found = _judged(codes, jnp.asarray([len(text) for text in padded]), expected)
    return np.asarray(found)[: len(texts), : len(problems)]


NUMBERS = [
    *("5", "05", "+5", "-5", "5.", "5.0", "5.00", ".5", "5 .", "5.!", "5. .", "5 , ,", "5. 0", "5 0", "- 5", "--5"),
    *("1,234", "1,234.", "01,234", "1,23", "1,2345", "1234,567", "1,234,", "1,234,5", "0,123", "1,234.0", "1,234.50"),
    *("0", "-0", "00.0", "+0.", "0.0.0", ".", "-", "-.25", "-0.25", "-0.250", "0.25", "2.5", "2.50", "2.05", "2.5."),
    *("1234", "1234.", "12", "012", "1 2", "12x", "x12", "12,", "12:", "12?!", "5\u3002", "\u22125", "\uff0b5", "5-"),
    *("", "five", "1.234", "1..2", ",5", "5,,", "5,.", "5.,", "0" * 31 + "5", "12;", "5\t.", "5 ;", "5+7", "+-5", "25"),
    *("5m", "5 cm.", "5 cm .", "5. cm", "5 , m", "5 hours", "5 hour m", "5 hundred", "m", "m 5", "1,234 kg", "5 H"),
]


def test_numbers_are_judged_as_on_the_host():
    problems = [Problem("?", answer, "") for answer in EXPECTED]
    want = [[bool(check(problem, text)) for problem in problems] for text in NUMBERS]
    assert np.sum(want) > 25
    np.testing.assert_array_equal(judged(NUMBERS, problems), want)


def test_random_numbers_are_judged_as_on_the_host():
    draws = np.random.default_rng(0)
    pieces = [*"0125", "25", "1,234", *",.-+ !\n", "0.", ",000", "x", "m", " cm", "hours", "\u00e9"]
    texts = ["".join(draws.choice(pieces, draws.integers(1, 6))).strip() for _ in range(ROWS)]
    problems = [Problem("?", answer, "") for answer in EXPECTED]
    want = [[bool(check(problem, text)) for problem in problems] for text in texts]
    assert np.sum(want) > 150
    np.testing.assert_array_equal(judged(texts, problems), want)


def test_other_notations_of_numbers_are_no_numbers_here():
    texts = ["5 cm^2", "5 km/h", "$5", "5%", "10/2", "5e0", "**5**", "\\boxed{5}", "0.005 thousand", "0" * WIDTH + "5"]
    assert all(check(Problem("?", "5", ""), text) for text in texts)  # the differences that the module names
    assert not judged(texts, [Problem("?", "5", "")]).any()


def test_exact_answers():
    problems = [Problem("?", answer, "", "exact") for answer in ("odd", "a b")]
    texts = ["odd", "Odd", "odd.", "od", "a b", "a  b", "a\u00a0b", ""]
    np.testing.assert_array_equal(judged(texts, problems), [[bool(check(p, t)) for p in problems] for t in texts])


PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "5",
    "1",
    "0",
    "x",
    " ",
    "\n",
    "\u3000",
    "<",
    "ans",
    "wer>",
    "-",
]
BY_HAND = [
    "<think>a</think><answer>5</answer>",
    "<think>a</think> \n<answer> 5 </answer>\n",
    " <think>a</think><answer>5</answer>",
    "x<think>a</think><answer>5</answer>",
    "<think>a</think><answer>5</answer>x",
    "<think>a</think>x<answer>5</answer>",
    "<think>a</think><answer>5</answer><answer>5</answer>",
    "<answer>5</answer><think>a</think>",
    "<think><answer>5</answer></think>",
    "<think>a<answer>5</answer>",
    "<think>a</think><answer>5",
    "<think>a</think></answer>5<answer>",
    "a</think><answer>5</answer>",
    "<answer>5</answer>",
    "<think></think><answer></answer>",
    "<think>a</think><answer>1<think>b</think>2</answer>",
    "<think>a</think><ans<think>b</think>wer>5</answer>",
    "<think>a<think>b</think><answer>5</answer>",
    "<think>a</think><answer>5</answer></think>",
    "",
]


def test_format_and_answers_are_read_as_on_the_host():
    draws = np.random.default_rng(1)
    tagged = [["<think>", "5", "</think>", "<answer>", "5", "</answer>"] for _ in range(1500)]
    for text in tagged:  # well-formed texts with a few pieces put in or taken out
        for _ in range(draws.integers(0, 3)):
            at = draws.integers(len(text) + 1)
            text[at : at + draws.integers(2)] = [draws.choice(PIECES)]
    loose = [draws.choice(PIECES, draws.integers(1, 12)) for _ in range(1500)]
    texts = [*BY_HAND, *map("".join, itertools.chain(tagged, loose))]
    codes = rows(texts)
    for template in (THINK, PROSE):
        want = [template.well_formed(text) for text in texts]
        assert 0.05 < np.mean(want) < 0.7
        np.testing.assert_array_equal(jax.jit(well_formed, static_argnums=1)(codes, template.prose), want)
    found, lengths = jax.jit(answers, static_argnums=1)(codes, WIDTH)
    for text, row, length in zip(texts, np.asarray(found).tolist(), lengths.tolist(), strict=True):
        want = THINK.answer(text)
        assert length == (-1 if want is None else len(want)), text
        assert row[: max(length, 0)] == codes_of(want or ""), text
        assert not any(row[max(length, 0) :])


@pytest.mark.parametrize("tokenizer", [TOKENIZER, ByteTokenizer("{{ messages }}")], ids=["pieces", "bytes"])
def test_rewards_of_tokens_are_those_of_their_text(tokenizer):
    """Random tokens, more often those of tags and digits, after the prompt's <think>."""
    draws, M, B, V = np.random.default_rng(2), 40, 400, tokenizer.vocab_size
    tokens, lengths = np.zeros((B, M), np.int32), np.zeros(B, np.int32)
    parts = [tokenizer.encode(part) for part in ("</think>", "<answer>", "5", "</answer>")]
    for i in range(B):
        ids = [t for part in parts for t in ([int(draws.integers(V))] if draws.random() < 0.2 else part)]
        ids = [t for t in ids if t not in tokenizer.eos_ids] + ([tokenizer.eos_ids[0]] if i % 2 else [])
        ids = ids[:M]
        tokens[i, : len(ids)], lengths[i] = ids, len(ids)
    finish = np.where(np.isin(tokens[np.arange(B), lengths - 1], tokenizer.eos_ids), END, LENGTH)
    samples = Samples(tokens, lengths, finish, *[np.zeros((B, M), np.float32)] * 2, np.zeros((), np.int32))
    problem, names = Problem("2 + 3", "5", "sum"), ("accuracy", "format", "length")
    completions = completions_from_samples(samples, tokenizer, THINK, Sampling(max_tokens=M))
    want = np.array([[RULES[name](problem, one) for name in names] for one in completions])
    assert (want[:, :2].mean(axis=0) > 0.2).all() and (want[:, :2].mean(axis=0) < 0.8).all()
    table = token_codes(THINK, tokenizer, V + 3)  # a model may have more rows than the tokenizer has ids
    expected = jax.tree.map(lambda x: jnp.repeat(x, B, axis=0), expected_answers([problem]))
    got = jax.jit(lambda s: score(s, expected, table, THINK, names))(jax.tree.map(jnp.asarray, samples))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_completions_carry_what_the_table_reads():
    """The rules on the host judge the text alone; a template with tags ignores whether it was finished."""
    text = "<think>a</think><answer>5</answer>"
    both = [Completion(text, 9, 9, finished, THINK) for finished in (True, False)]
    assert {RULES["accuracy"](Problem("?", "5", ""), one) for one in both} == {1.0}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: check_rewards(parse_rewards(("language",)), THINK), "reward language .* accuracy, format, length"),
        (lambda: check_rewards(parse_rewards(("format",)), find_template("number")), "template number .* think"),
        (lambda: expected_answers([Problem("?", "5", "", "math")]), "checker 'math' .* number, exact"),
        (lambda: expected_answers([Problem("?", "5 cm", "")]), "answer '5 cm'"),
        (lambda: expected_answers([Problem("?", "1/3", "")]), "answer '1/3'"),
        (lambda: expected_answers([Problem("?", "\u00e9", "", "exact")]), "ASCII"),
    ],
)
def test_what_has_no_form_in_a_program_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
