"""The cases of tests/rewards/cases: their verdicts by the checker, and their truths by sympy."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest
import sympy

from r1jax.data.problems.problem import Problem
from r1jax.rewards.checkers import check
from tests.rewards.answer_cases import FILES, Case, read_cases
from tests.tools.verifier_table import PAGE, RESULTS, page

NAMES = {name: sympy.Symbol(name) for name in "xyzabctn"} | {"I": sympy.I, "E": sympy.E, "pi": sympy.pi}
# Right answers that are refused: a value given twice, a power with another base, names of sets, a sum with dots, a
# fraction in words, a decimal with dots after "=", a sum of several terms as a name, and "more" after a count.
REFUSED = {
    (r"\frac{17}{4}", r"\frac{17}{4} (4.25)"),
    ("2^{10^9}", "4^{500000000}"),
    (r"(-\infty, -2) \cup (2, \infty)", r"(-\infty, -2), (2, \infty)"),
    (r"(0, \infty)", r"\mathbb{R}^+"),
    (r"\frac{n(n+1)}{2}", r"1+2+\cdots+n"),
    (r"\frac{3}{4}", "3 fourths"),
    (r"\sqrt{2}", r"\sqrt{2} = 1.414..."),
    ("33", "100a+10b+c = 33"),
    ("5050", r"1+2+3+\cdots+100 = 5050"),
    ("7", "7 more"),
}
COMPUTED = ("none", "convention", "round", "base")  # truths that are no expressions


def equal(expected: str, given: str) -> bool:
    """True if two answers are equal by the checker."""
    return check(Problem("q", expected, "test", "math"), given) == 1


@pytest.mark.parametrize("name", FILES)
def test_every_case_is_judged_as_it_should_be(name: str) -> None:
    cases = read_cases(name)
    wrong = [
        case.name
        for case in cases
        if equal(case.expected, case.given) != (case.equal and (case.expected, case.given) not in REFUSED)
    ]
    # Neither of two different answers is right for the other.
    wrong += [f"reversed {case.name}" for case in cases if not case.equal and equal(case.given, case.expected)]
    assert not wrong, "\n".join(wrong)


def test_the_table_has_cases_of_both_verdicts_in_every_category() -> None:
    cases = read_cases("table")
    assert len(cases) >= 150
    counts = Counter((case.category, case.equal) for case in cases)
    assert all(counts[case.category, verdict] >= 2 for case in cases for verdict in (True, False))
    for name in FILES:
        assert len({(case.expected, case.given) for case in read_cases(name)}) == len(read_cases(name))


def test_the_page_shows_the_committed_verdicts_on_the_cases_of_the_table() -> None:
    results = json.loads(RESULTS.read_text())
    ours = [verdicts["r1jax"] for verdicts in results["verdicts"]]
    assert ours == [case.equal for case in read_cases("table")]
    assert page(results) in PAGE.read_text()


def expression(truth: str) -> Any:
    """The truth of an answer as a sympy expression, whose integers divide exactly."""
    return sympy.sympify(truth, locals=NAMES)  # pyright: ignore[reportCallIssue, reportArgumentType]


def same_value(one: Any, other: Any) -> bool:
    """True if two expressions are equal: as fractions, else at 50 digits, at four points if they have variables."""
    if one.is_Rational and other.is_Rational:
        return one == other
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    for start in ("13/10", "5/7", "29/11", "-7/4"):
        point = {symbol: sympy.Rational(start) + sympy.Rational(i, 3) for i, symbol in enumerate(symbols)}
        difference = sympy.N(one.subs(point) - other.subs(point), 50, maxn=200)
        if abs(difference) > sympy.Float(10) ** -45:
            return False
    return True


def computed(case: Case) -> bool:
    return case.expected_truth not in COMPUTED and case.given_truth not in COMPUTED


@pytest.mark.parametrize("name", FILES)
def test_verdicts_follow_from_the_values_of_the_answers(name: str) -> None:
    cases = [case for case in read_cases(name) if computed(case)]
    wrong = [
        case.name
        for case in cases
        if same_value(expression(case.expected_truth), expression(case.given_truth)) != case.equal
    ]
    assert not wrong, "\n".join(wrong)
    assert name in ("more", "fresh", "probes", "unseen") or len(cases) > 150


def test_decimals_marked_as_rounded_are_the_nearest_of_their_length() -> None:
    cases = [case for name in FILES for case in read_cases(name) if case.given_truth == "round"]
    assert len(cases) >= 5
    for case in cases:
        decimals = len(case.given.rstrip(".").partition(".")[2])
        assert decimals >= 6
        value = sympy.N(expression(case.expected_truth), 50)
        assert abs(value - sympy.Rational(case.given.rstrip("."))) <= sympy.Rational(1, 2 * 10**decimals)


def test_a_numeral_with_a_base_has_the_value_that_python_reads() -> None:
    assert int("101", 2) == int("5", 10)
    assert equal("101_2", "5_{10}") and not equal("101_2", "101_3")
    assert int("2102", 3) == 65 and equal("2102_3", "65_{10}") and not equal("2102_3", "64_{10}")


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9^9}}}",
        "(9^{9^9})^{9^9}",
        "((10^6)!)!",
        r"\binom{10^{12}}{5 \cdot 10^{11}}",
        r"\frac{1}{9^{9^9}}",
        r"\sqrt[9^{9^9}]{2}",
        r"e^{e^{e^{e^e}}}",
        r"\sin(9^{9^9})",
        r"(x+y)^{10^8}",
        r"\lfloor 9^{9^9} \rfloor",
        "9^{9^9}x",
        r"\{9^{9^9}, 1\}",
        r"(9^{9^9}, \infty)",
        "1" * 1900,
        "+".join("1" * 700),
        r"\sqrt{" * 9 + "2" + "}" * 9,
        r"\sum_{k=1}^{10^9} k^{9^9}",
        r"\cup".join(rf"(\sqrt{{{i}}},\sqrt{{{i + 1}}})" for i in range(1, 70)),
        r"\setminus".join(f"[{i},{i + 1}]" for i in range(120)),
        "".join(f"({i}x+1)^{{999}}" for i in range(1, 120)),
        "+".join([r"\sin(10^{2000})"] * 100),
    ],
)
def test_no_answer_needs_the_deadline(answer: str) -> None:
    started = time.perf_counter()
    assert not equal(answer, "3") and not equal("3", answer) and not equal(answer, f"1+{answer}")
    assert time.perf_counter() - started < 5
