"""Column arithmetic written out in English or Chinese."""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.data.problems.problem import Language

PLACES: dict[Language, tuple[str, ...]] = {
    "en": ("ones", "tens", "hundreds", "thousands"),
    "zh": ("个位", "十位", "百位", "千位"),
}
CARRY: dict[Language, str] = {"en": ", carry ", "zh": "，进 "}
BORROW: dict[Language, str] = {"en": ", borrow ", "zh": "，借 "}
STOP: dict[Language, str] = {"en": ". ", "zh": "。"}
SWAP: dict[Language, tuple[str, str]] = {"en": (" is more, so turn. ", " minus"), "zh": (" 更大，交换。", " 取负")}


def work_columns(
    a: int, b: int, operation: str, slip: int | None = None, languages: Sequence[Language] = ("en",)
) -> tuple[str, int]:
    """Works out a + b or a - b column by column; returns the text and the result.

    A negative difference is worked out as -(b - a).

    slip: the column whose result is wrong by one; None: no mistake.
    languages: column i is written in languages[i % len(languages)].
    """
    if operation == "-" and a < b:
        text, value = work_columns(b, a, "-", slip, languages)
        before, after = SWAP[languages[0]]
        return f"{b}{before}{text}{after}", -value
    lines, value, carry = [], 0, 0
    width = max(len(str(a)), len(str(b)))
    for i in range(width):
        language = languages[i % len(languages)]
        x, y = a // 10**i % 10, b // 10**i % 10
        name = _place(i, language)
        wrong = 1 if slip == i else 0
        if operation == "+":
            total = x + y + carry + wrong
            with_carry = f"+{carry}" if carry else ""
            digit, carry = total % 10, total // 10
            line = f"{name}: {x}+{y}{with_carry}={total}" + (f"{CARRY[language]}1" if carry else "")
            if i == width - 1:
                digit = total
        else:
            x -= carry
            borrow = x < y
            digit = x + 10 * borrow - y + wrong
            line = f"{name}: {x + 10 * borrow}-{y}={digit}" + (f"{BORROW[language]}1" if borrow else "")
            carry = int(borrow)
        value += digit * 10**i
        lines.append(line + STOP[language])
    return "".join(lines).rstrip(), value


def _place(i: int, language: Language) -> str:
    """The name of the column for 10^i."""
    names = PLACES[language]
    return names[i] if i < len(names) else {"en": f"place {i + 1}", "zh": f"第 {i + 1} 位"}[language]
