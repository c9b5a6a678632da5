"""The grammar of numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest

from r1jax.data.text.numbers import last_number, parse_number, read_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        (" -7. ", -7),
        ("\N{MINUS SIGN}7", -7),
        ("+3", 3),
        ("1,234", 1234),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("3.0", 3),
        (".25", Fraction(1, 4)),
        ("2/4", Fraction(1, 2)),
        ("-1 / 3", Fraction(-1, 3)),
        ("7!", 7),
        ("12,34", None),
        ("1/0", None),
        ("", None),
        (".", None),
        ("four", None),
        ("3 apples", None),
        ("1 2", None),
        ("1e3", 1000),
        ("\N{ARABIC-INDIC DIGIT THREE}", None),
        ("9" * 5000, None),
    ],
)
def test_parse_number_gives_the_exact_value(text: str, value: Fraction | int | None) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e5", 100_000),
        ("2E-05", Fraction(2, 100_000)),
        ("10^6", 10**6),
        ("10^{-2}", Fraction(1, 100)),
        ("10**6", 10**6),
        ("10\u00b2", 100),
        ("1.5 x 10^6", 1_500_000),
        (r"1.5 \times 10^{-3}", Fraction(3, 2000)),
        ("2\u00d710\u2076", 2_000_000),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\dfrac12", Fraction(1, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        ("3\u00bd", Fraction(7, 2)),
        ("1{,}000", 1000),
        (r"1\,000", 1000),
        ("1\u202f000", 1000),
        (r"\$18", 18),
        ("$18$", 18),
        ("-$5", -5),
        ("$1,000.50", Fraction(2001, 2)),
        ("\u20ac5", 5),
        ("18 cm^2", 18),
        ("18 cm\u00b2", 18),
        (r"18 \text{ cm}^2", 18),
        ("60 km/h", 60),
        ("5km", 5),
        (r"50\%", 50),
        (r"90^\circ", 90),
        ("2 million", 2_000_000),
        ("3\u4e07", 30_000),
        ("\uff0d5", -5),
        ("\u20135", -5),
        ("**42**", 42),
        ("9007199254740993", 2**53 + 1),
        *(
            (text, None)
            for text in (
                "1,2345",
                "12,34",
                "0,123",
                "3,5",
                "1.2.3",
                "1e5.5",
                "1e5x",
                "5e",
                "0x1F",
                "1_000",
                "1 000",
                "2nd",
                "3:45",
                "1/2/3",
                "1 3/2",
                "2^10",
                "--5",
                "- 5",
                "18 cm^2 or so",
                "3x",
                "1\uff12",
                "12\u0663",
                "1e999999999",
                "3/0",
                "3+4",
                "8-3",
                "five",
            )
        ),
    ],
)
def test_a_number_is_read_whole_or_not_at_all(text: str, value: Fraction | int | None) -> None:
    assert parse_number(text) == value
    if value is not None:
        assert parse_number(f" {text}. ") == value
        found = last_number(f"So it is {text}.")
        assert found is not None and parse_number(found) == value
    elif found := last_number(f"So it is {text}."):  # a number with other words around it
        assert (text, found) in {("18 cm^2 or so", "18 cm^2")}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 85, not 8.", "8"),
        ("the sums are 1, 2, 3", "3"),
        ("x1 = 4 by H2O", "4"),
        ("\u7b54\u6848\u662f3\u3002", "3"),
        ("37 + 48 = 85, which is right", "85"),
        ("It is 7. Is it 8? Yes.", "7"),
        ("The answer is (3)", "3"),
        ("2x + 3", None),
        ("x+3", None),
        ("f(3)", None),
        ("8 5", None),
        ("3 =", None),
        ("0 + 3 RIVANT", None),
    ],
)
def test_last_number_is_the_result_that_a_text_states(text: str, number: str | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("5 km", "5 kilometers", True),
        ("5 km", "5", True),
        ("5 km", "5 m", False),
        ("5 m", "500 cm", False),
        ("18 square cm", "18 cm^2", True),
        ("18 cm^3", "18 cm^2", False),
        ("60 km per hour", "60 km/h", True),
        ("50%", "50", True),
        ("50%", "0.5", True),
        ("50%", "1/2", True),
        ("50%", "5", False),
        ("50%", "50 cm", False),
        ("$5", "5", True),
        ("5 dollars", r"$\$5$", True),
        ("$5", "5 cents", False),
        ("$5", "€5", False),
    ],
)
def test_a_missing_unit_is_equal_and_another_unit_is_not(one: str, other: str, equal: bool) -> None:
    first, second = read_number(one), read_number(other)
    assert first is not None and second is not None
    assert first.equals(second) is equal and second.equals(first) is equal


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1,",
        "1 ",
        " ",
        "^ ",
        "{",
        "$",
        "$1",
        "\\[",
        "x^",
        "-1",
        "1.",
        "\\text{",
        "\\frac{1",
        "<a",
        "*",
        "1e",
        "^(",
        "1/",
        "-",
        "1 1/",
    ],
)
def test_the_time_to_read_a_number_is_linear_in_its_length(piece: str) -> None:
    # A pattern with quadratic time would take minutes.
    text = piece * (100_000 // len(piece))
    assert read_number(text + "x") is None
    last_number(text + "x")
