"""Numbers as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:\s*/\s*[0-9]+)?")


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
