"""Runs each hostile program in each level of isolation and records what came of it.

    python tests/tools/attack_table.py docs/results/sandbox-attacks.json          as this user
    python tests/tools/attack_table.py --show docs/results/sandbox-attacks*.json  prints Markdown from the files

The programs are those of tests/rewards/code/attacks.py and forgeries.py, which the tests run, too. Run it as root and
as another user, because limits alone give a program a user of its own only if they are set by root.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from r1jax.rewards.code.config import LEVELS, Level  # noqa: E402
from r1jax.rewards.code.isolation import missing  # noqa: E402
from r1jax.rewards.code.tests import Case, CodeTests, Printed  # noqa: E402
from tests.rewards.code import attacks, forgeries  # noqa: E402
from tests.rewards.code.test_attacks import check_test, guests, judged, printed, run_all  # noqa: E402

_SECRET = "R1JAX_TEST_SECRET"


def outcomes(level: Level, secret: str) -> dict[str, dict[str, str]]:
    """Group of programs -> program -> what came of it."""

    def earned(programs: dict[str, str], one: Callable[[str], object]) -> dict[str, str]:
        found = run_all(programs, one)
        return {name: "no reward" if value == 0 else f"REWARD {value}" for name, (value, _) in found.items()}

    def attempt(source: str) -> str:
        return printed(level, source.replace("PARENT", str(os.getpid()))).strip() or "ended"

    def search(source: str) -> str:
        text = printed(level, source, 10.0)
        return "SEEN" if secret in text else "files of the system" if "root:" in text else "nothing"

    cases = CodeTests((Case("solve", (3,), secret), Case("solve", (4,), secret, strict=False)))
    groups = {
        "exhaust": earned(attacks.EXHAUST, judged(level, CodeTests((Printed("", secret),)))),
        "try": {name: str(value) for name, (value, _) in run_all(attacks.REFUSED, attempt).items()},
        "search": {name: str(value) for name, (value, _) in run_all(attacks.SEARCH, search).items()},
        "forge": earned(forgeries.FORGED, judged(level, cases)),
        "forge under test code": earned(forgeries.UNDER_TEST, judged(level, check_test(secret))),
    }
    until = time.monotonic() + 10.0  # the system ends the processes of a namespace some time after the first of them
    while (left := guests()) and time.monotonic() < until:
        time.sleep(0.05)
    for name in groups["exhaust"]:
        groups["exhaust"][name] += ", PROCESSES LEFT" if left else ", nothing left"
    return groups


def show(files: list[Path]) -> None:
    """Prints a Markdown table for each group, with a column for each level of each file."""
    columns = {}
    for file in files:
        content = json.loads(file.read_text())
        for level, groups in content["levels"].items():
            columns[f"{level}, {content['user']}"] = groups
    first = next(iter(columns.values()))
    for group in first:
        print(f"\n| {group} | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
        for name in first[group]:
            print(f"| {name} | {' | '.join(groups[group][name] for groups in columns.values())} |")


def main() -> None:
    """Records the outcomes of this user, or shows files of outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()
    if options.show:
        show(options.files)
        return
    if _SECRET not in os.environ:  # it has to be there from the start of the process
        environment = os.environ | {_SECRET: f"SECRET-{secrets.token_hex(8)}"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    system = f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}"
    content = {"user": "root" if os.geteuid() == 0 else "user", "system": system, "levels": {}}
    for level in LEVELS:
        if not missing(level):
            content["levels"][level] = outcomes(level, os.environ[_SECRET])
    options.files[0].write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
