"""Numbers as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

_UNSIGNED = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:\s*/\s*[0-9]+)?"
_NUMBER = re.compile("[+-]?" + _UNSIGNED)
_IN_TEXT = re.compile(r"(?:(?<![0-9])[+-])?" + _UNSIGNED)  # in "8-3" the minus is no sign


def last_number(text: str) -> str | None:
    """The last number in a text, as it is written there; None where there is none."""
    found = _IN_TEXT.findall(text.replace("\N{MINUS SIGN}", "-"))
    return found[-1] if found else None


def parse_number(text: str) -> Fraction | None:
    """The exact value of "1,234", "-3.0", "1/2" or "7."; None where the text is anything but one number.

    White space around the number and punctuation after it do not count.
    """
    text = text.strip().rstrip(".,;:!?").replace("\N{MINUS SIGN}", "-")
    if not _NUMBER.fullmatch(text):
        return None
    above, _, below = text.replace(",", "").partition("/")
    try:
        return Fraction(above.strip()) / Fraction(below.strip() or 1)
    except (ValueError, ZeroDivisionError):  # Python reads no more than 4300 digits
        return None
