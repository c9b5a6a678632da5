"""Names of files, folders, modules and versions in the documents, compared with the repository."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import r1jax
from tests.helpers.paths import ROOT

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
# A path is one of the repository if it begins with one of these; files that a run writes do not.
FOLDERS = ("r1jax", "experiments", "tests", "docs", "launch", "notebooks", ".github")
ROOT_FILES = r"Makefile|LICENSE|[A-Z]+\.(?:md|cff)|pyproject\.toml|mkdocs\.yml|\.pre-commit-config\.yaml"


def wrong_names(text: str, folder: Path) -> list[str]:
    """Names in a document in ``folder`` of files, folders and modules that do not exist."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        there = folder / target
        # The built pages of docs/ link to files alone.
        if "://" not in target and not (there.is_file() if folder.name == "docs" else there.exists()):
            wrong.append(target)
    code = " ".join(found[2] for found in re.finditer(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", text, re.DOTALL))
    path = rf"(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*|{ROOT_FILES}"
    for name in re.findall(rf"(?<![\w./~-])(?:{path})(?![\w-])", code):
        if not any(ROOT.glob(name.rstrip("./"))):
            wrong.append(name)
    names = re.findall(r"\br1jax(?:\.[A-Za-z_]\w*)+", text)
    for module, imported in re.findall(r"from (r1jax[\w.]*) import ([\w, ]+)", text):
        names += [f"{module}.{name.split()[0]}" for name in imported.split(",")]
    for name in names:
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            wrong.append(name)
    return sorted(set(wrong))


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.name if path.parent == ROOT else f"docs/{path.name}"
)
def test_the_files_and_modules_that_a_document_names_exist(document: Path) -> None:
    assert wrong_names(document.read_text(), document.parent) == []


def test_a_wrong_name_is_found_wherever_it_stands() -> None:
    text = """The loss is in `r1jax/algorithms/lost.py`, see [speed](docs/sped.md) and `r1jax.algorithms.lost`, or call
    `r1jax.lode("x")`. Run
    ```sh
    python experiments/r0.py --until cold_start
    ```
    ```python
    from r1jax.rewards import reward, rewords
    ```
    Then read `CONTRIBUTION.md`. These exist: `r1jax/algorithms`, `r1jax/models/`, `r1jax.models.config`, `r1jax.load`,
    `experiments/*.py`, `r1jax/__init__.py`, [all](docs), [web](https://example.org/r1jax/none.py), `Makefile`. A run
    writes these: `report.md`, `runs/mine/model`, `model/config.json`.
    """
    assert wrong_names(text, ROOT) == [
        "CONTRIBUTION.md",
        "docs/sped.md",
        "experiments/r0.py",
        "r1jax.algorithms.lost",
        "r1jax.lode",
        "r1jax.rewards.rewords",
        "r1jax/algorithms/lost.py",
    ]


def test_the_version_is_the_same_everywhere() -> None:
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    released = re.search(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited and released
    assert (cited[1], released[1]) == (r1jax.__version__, r1jax.__version__)
