"""Writes docs/results/verifiers.json and the table in docs/verifiers.md. Not part of the suite.

    python tests/tools/verifier_table.py          # judges all cases of table.txt, which takes minutes
    python tests/tools/verifier_table.py --page   # writes the page again from the JSON file

Each case of tests/rewards/cases/table.txt is judged by our checker, by math-verify with both answers in a box, and by a
call of math-verify with the settings that TRL documents for its accuracy_reward. A call of more than LIMIT seconds
counts as "timeout".
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

from r1jax.data.problems.problem import Problem
from r1jax.rewards.checkers import check, prepare
from tests.helpers.paths import ROOT
from tests.rewards.answer_cases import Case, read_cases

LIMIT = 3  # seconds
RESULTS, PAGE = ROOT / "docs/results/verifiers.json", ROOT / "docs/verifiers.md"
START, END = "<!-- table -->\n", "<!-- end of the table -->\n"
NAMES = ("r1jax", "math-verify", "TRL")
PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy", "mpmath")


class LimitError(BaseException):
    """A call takes too long; math-verify catches Exception, so this is none."""


def boxed(text: str) -> str:
    return text if "\\boxed" in text else rf"\boxed{{{text}}}"


def ours(case: Case) -> bool:
    return check(Problem("q", case.expected, "test", "math"), case.given) == 1


def math_verify(case: Case) -> bool:
    from math_verify import parse, verify

    expected, given = (parse(boxed(text), parsing_timeout=0) for text in (case.expected, case.given))
    return verify(expected, given, timeout_seconds=0)


def trl(case: Case) -> bool | None:
    """The settings of TRL's accuracy_reward; None where it skips the example, whose expected answer is unreadable."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    expected = parse(f"${case.expected}$", parsing_timeout=0)
    if not expected:
        return None
    latex = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True), boxed_match_priority=0, try_extract_without_anchor=False
    )
    given = parse(boxed(case.given), extraction_config=[latex], extraction_mode="first_match", parsing_timeout=0)
    return verify(expected, given, timeout_seconds=0)


def limited(judge: Callable[[Case], bool | None], case: Case) -> bool | str | None:
    """The verdict, or "timeout"; a judge that raises finds the answers different."""

    def stop(*_: Any) -> None:
        raise LimitError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        return judge(case)
    except LimitError:
        return "timeout"
    except Exception:
        return False
    finally:
        signal.alarm(0)


def judge_all() -> dict[str, Any]:
    """Verdicts of the three verifiers on every case of the table, with the versions of the libraries."""
    logging.disable(logging.WARNING)
    prepare(Problem("q", "1", "test", "math"))
    judges = dict(zip(NAMES, (ours, math_verify, trl), strict=True))
    verdicts = [{name: limited(judge, case) for name, judge in judges.items()} for case in read_cases("table")]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"versions": versions, "seconds_before_timeout": LIMIT, "verdicts": verdicts}


def summary(results: dict[str, Any]) -> str:
    """A table with the wrong answers accepted and the right ones refused by each verifier."""
    cases = read_cases("table")
    right = sum(case.equal for case in cases)
    lines = [
        f"| verifier | accepted of {len(cases) - right} wrong | not accepted of {right} right | timeouts |",
        "| --- | --- | --- | --- |",
    ]
    for name in NAMES:
        given = [verdicts[name] for verdicts in results["verdicts"]]
        accepted = sum(v is True and not case.equal for v, case in zip(given, cases, strict=True))
        refused = sum(v is not True and case.equal for v, case in zip(given, cases, strict=True))
        lines.append(f"| {name} | {accepted} | {refused} | {given.count('timeout')} |")
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """Text as code in a cell of a Markdown table."""
    ticks = "``" if "`" in text else "`"
    escaped = text.replace("|", "\\|")
    return f"{ticks} {escaped} {ticks}" if text else "(empty)"


def table(results: dict[str, Any]) -> str:
    """The cases of table.txt by category, with the three verdicts; a wrong verdict is bold."""
    words = {True: "equal", False: "different", None: "skipped", "timeout": "timeout"}
    lines: list[str] = []
    category = ""
    for case, verdicts in zip(read_cases("table"), results["verdicts"], strict=True):
        if case.category != category:
            category = case.category
            lines += [f"\n### {category.capitalize()}\n", f"| expected | given | right | {' | '.join(NAMES)} |"]
            lines.append("| --- " * (3 + len(NAMES)) + "|")
        cells = [
            words[verdicts[name]] if verdicts[name] is case.equal else f"**{words[verdicts[name]]}**" for name in NAMES
        ]
        lines.append(f"| {code(case.expected)} | {code(case.given)} | {words[case.equal]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(results: dict[str, Any]) -> str:
    """The part of the page that depends on the results."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    limit = results["seconds_before_timeout"]
    return f"Versions: {versions}. A timeout is a call of more than {limit} s.\n\n{summary(results)}{table(results)}"


def main() -> None:
    if "--page" not in sys.argv[1:]:
        RESULTS.write_text(json.dumps(judge_all(), indent=None, separators=(",", ":")) + "\n")
    before, _, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(before + START + "\n" + page(json.loads(RESULTS.read_text())) + "\n" + END + after)


if __name__ == "__main__":
    main()
