r"""Mathematical answers by hand: what says the same, and what only looks like it."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from r1jax.data.problem import Problem
from r1jax.rewards.checkers import check

# The first of two equal ones is the expected answer; two different ones are judged in both directions.
EQUAL = [
    ("18", r"\$18"), ("18", "$18"), ("18", r"\$18.00"), ("1000", r"\$1{,}000"), ("18 dollars", r"\$18"),
    ("42", "**42**"), ("42", "__42__"), ("42", "`42`"), ("42", "**Answer:** $42$"), ("42", "The answer is 42."),
    ("42", r"The answer is $42$."), ("42", r"So it is \boxed{42}."), (r"\frac{1}{2}", r"$\boxed{\dfrac{1}{2}}$"),
    ("42", r"\(42\)"), ("42", r"\[42\]"), ("42", "$$42$$"), ("42", "42."), ("5", "x = 5"), ("x = 5", "5"),
    ("x^2", "f(x) = x^2"), ("y = 2x + 1", "y = 1 + 2x"), ("x + 1", "$x$ + 1"), ("1, 2", "$1$, $2$"),
    ("1000", "1{,}000"), ("1000", "1,000"), ("1000", r"1\,000"), ("1000000", "1,000,000"), ("100000", "1e5"),
    ("10^{20}", "100000000000000000000"), ("0.00002", r"2 \times 10^{-5}"), ("0.00002", "2e-05"),
    ("50", r"50\%"), ("50", "50%"), ("0.5", r"50\%"), (r"\frac{1}{2}", r"50\%"), ("90", r"90^\circ"), ("90", "90°"),
    ("5", r"5\text{ cm}"), ("5", "5 cm"), ("5 cm", r"5\text{ cm}"), ("5", r"5\text{ cm}^2"), ("5 m", "5"),
    (r"3\sqrt{2}", r"3\sqrt{2}\text{ cm}"), ("3", r"3 \text{ apples}"), ("60", "60 km/h"), ("15", "15 minutes"),
    ("(1, 2)", r"\left(1, 2\right)"), ("[1, 2)", r"\left[1,\, 2\right)"), ("{1, 2}", r"\{2, 1\}"), ("1, 2", "2, 1"),
    (r"(-\infty, 3) \cup (5, \infty)", r"\left(-\infty,3\right)\cup\left(5,\infty\right)"), ("[0, 1]", r"x \in [0, 1]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"), ("x < 3", "x<3"),
    ("1/2", r"\frac{2}{4}"), ("3/2", r"1\frac{1}{2}"), ("3/2", "1 1/2"), ("1/2", "½"), ("1/2", ".5"), ("2", "2.0"),
    ("-5", "\N{MINUS SIGN}5"), ("x^2", "x²"), ("x^2", "x**2"), (r"\pi", "π"), (r"\infty", "infinity"), ("2xy", "2yx"),
    ("1/3", "0.333333"), (r"\sqrt{2}", "1.414214"), (r"2\pi", "6.283185"), (r"\sqrt{8}", r"2\sqrt{2}"),
    ("120", "5!"), ("0", r"\sin(\pi)"), ("-1", r"e^{i\pi}"), ("1", r"\sin^2 x + \cos^2 x"), ("xy", "yx"),
    ("x^2 + 2x + 1", "(x+1)^2"), ("3 + 2i", "2i + 3"), ("9^{9^{9}}", "$9^{9^{9}}$"), ("1/3^{80}", "3^{-80}"),
    ("east", "East."), (r"\text{east}", "east"), ("A", r"\text{(A)}"), ("B", "(B)"), ("Yes", "**yes**"),
    (r"x = 1 \text{ or } x = 2", r"x = 2 \text{ or } x = 1"),
    ("(D)", "The answer is (D)."), ("Friday", "The answer is **Friday**."), ("B", r"\textbf{(B)}\ 5"),
    ("20", "20 cups"), (r"12\pi", "12 pi"), (r"\frac{\pi}{6}", "pi/6"), (r"\cos x", "cos x"), (r"\ln 5", "ln 5"),
    (r"\sin 30^\circ", "1/2"), ("1/3", r"0.\overline{3}"), (r"\frac{1}{6}", r"0.1\overline{6}"),
    (r"\frac{8}{11}", r".\overline{72}"),
    (r"\emptyset", r"\varnothing"), ("3:5", "3 to 5"), ("1011_2", "1011_{2}"), (r"\text{9:30 a.m.}", "9:30 AM"),
    (r"\frac{-1\pm\sqrt{5}}{2}", r"\frac{-1+\sqrt5}{2}, \frac{-1-\sqrt5}{2}"), ("y = 3x - 2", "3x - y = 2"),
    ("y = -x", "x + y = 0"), (r"(3, \infty)", "x > 3"), ("x > 3", r"(3, \infty)"), ("[1, 4]", r"1 \le x \le 4"),
    ("(1, 2)", "1, 2"), ("5 dollars", "$5"), ("5€", "5 euros"), (r"3 \times 10^4 x", "30000x"),
]  # fmt: skip
DIFFERENT = [
    ("east", "seat"), (r"\text{east}", r"\text{seat}"), ("listen", "silent"), ("no", "on"), ("evil", "live"),
    ("10 east", "10 seat"), (r"3 \text{ apples}", r"3 \text{ pears}"), ("IV", "VI"), ("True", "False"), ("A", "B"),
    ("5", "five"), ("1/3^{80}", "1/3^{81}"), ("10^{-20}", "10^{-21}"), ("2/3^{100}", "1/3^{100}"), ("0", "10^{-30}"),
    ("1-1/e", "1+1/e"), (r"1-\frac{1}{e}", r"1+\frac{1}{e}"), ("e^{-50}", "e^{-51}"), ("10^{20}", "10^{20}+1"),
    ("2^{1000}", "2^{1000}+1"), ("100!", "100!+1"), ("x + 10^{-20}", "x + 10^{-21}"), ("x/3^{80}", "x/3^{81}"),
    ("(10^{-20}, 1)", "(10^{-21}, 1)"), ("[10^{-20}, 1]", "[10^{-21}, 1]"), (r"\{10^{-20}\}", r"\{10^{-21}\}"),
    ("x = 10^{-20}", "x = 10^{-21}"), ("x < 10^{-20}", "x < 10^{-21}"), ("x < 3", "x > 3"), ("(1, 2)", "(2, 1)"),
    (r"\begin{pmatrix}10^{-20}\\2\end{pmatrix}", r"\begin{pmatrix}10^{-21}\\2\end{pmatrix}"), ("[1, 2)", "[1, 2]"),
    ("9^{9^{9}}", "9^{9^{8}}"), ("9^{9^{9}}", "3"), ("99999999!", "3"), ("(x+1)^{999999}", "x"), ("x^2+1", "x^2-1"),
    ("1/3", "0.33"), ("1000001", "1000000.9999999"), ("5 km", "5 m"), (r"5\text{ km}", r"5\text{ m}"), ("5", "-5"),
    ("50%", "5"), ("1,234", "1.234"), ("12", r"\frac{"), ("3", "0 + 3 = RIVANT"), ("5", "5x"), ("12", ""),
    ("", ""), ("$$", "$$"), (" ", "**"), (r"\boxed{}", r"\boxed{}"), ("3", "x" * 100_000), ("3", "(" * 100_000),
    ("3", "(" * 1500), ("3", "x^" * 700), ("3", "{1," * 500), ("3", r"\frac{1}{" * 150),
    (" " * 3000, "  "), ("$5", "5 cents"), ("$5", "€5"), (r"\$5", "5 cm"), ("(1, 2)", r"\{1, 2\}"), ("(2, 1)", "1, 2"),
    ("(0, 1)", r"\{0, 1\}"), ("1011_2", "1011_3"), ("1011_2", "11"), ("3 to 5", "5 to 3"), ("9:30 a.m.", "9:30 p.m."),
    ("3", "3 or more"), ("3", "3 thousand"), ("3", "3 squared"), ("5", "5/"), ("5", "5 ="),
    (r"\sin 30^\circ", r"\sin 30"), (r"0.1\overline{6}", r"0.\overline{16}"), ("D", "The answer is C."),
    ("C", "The answer is not C."), ("C", "(D) 5"),
    (r"\frac{1\pm\sqrt{3}}{2}", r"\frac{1+\sqrt3}{2}"), ("y = 3x - 2", "3x - y = -2"), ("xy = 1", "x = y"),
    ("x^2 = 4", "x = 2"), ("(x, y) = (1, 2)", "(x, y) = (2, 1)"), ("x > 3", r"[3, \infty)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "equal"), [(*pair, True) for pair in EQUAL] + [(*pair, False) for pair in DIFFERENT]
)
def test_mathematical_answers(one: str, other: str, equal: bool) -> None:
    assert check(Problem("q", one, "test", "math"), other) == equal
    assert equal or check(Problem("q", other, "test", "math"), one) == 0


@pytest.mark.parametrize("power", [15, 200])
def test_small_and_near_values_are_told_apart_at_any_size(power: int) -> None:
    # Of math-verify's own absolute tolerance all of these would be equal; exact fractions are the reference.
    tiny = {rf"\frac{{{k}}}{{7^{{{power}}}}}": Fraction(k, 7**power) for k in (1, 2, 7, 14)}
    tiny |= {rf"2 \cdot 7^{{-{power}}}": Fraction(2, 7**power), rf"7^{{-{power - 1}}}": Fraction(1, 7 ** (power - 1))}
    for (one, x), (other, y) in ((a, b) for a in tiny.items() for b in tiny.items()):
        assert check(Problem("q", one, "test", "math"), other) == (x == y), (one, other)


def test_decimals_are_what_they_round_to_six_places() -> None:
    for value, text in ((math.pi, r"\pi"), (math.sqrt(3) / 2, r"\frac{\sqrt{3}}{2}"), (math.e**5, "e^5")):
        assert check(Problem("q", text, "test", "math"), f"{value:.6f}") == 1
        assert check(Problem("q", text, "test", "math"), f"{value:.2f}") == 0
        assert check(Problem("q", text, "test", "math"), f"{value + 1e-4:.6f}") == 0
