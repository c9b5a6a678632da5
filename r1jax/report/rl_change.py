"""The study of what RL changes: its file, its page, and its tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.evaluation.rl_change import MARGIN, Comparison, Estimate, RLChange
from r1jax.report.rendering import markdown_table, render, to_html
from r1jax.report.rl_change_figures import plot_problems, plot_rl_change

FILE = "study.json"
_SHOWN = 40  # problems in the list of those that became solvable
_PICTURES = {"pass@k and maj@k": "curves.png", "right samples of each problem": "problems.png"}

CLAIM = (
    "RL raises maj@K and leaves pass@K where it was: it makes right answers more frequent and adds no ability "
    "(DeepSeekMath, arXiv 2402.03300, section 5.2.2)."
)
_NEAR = f"{100 * MARGIN:.0f} points"
REFUTATION = (
    "Let n be the number of samples per problem, and maj@k the mean of maj@k over k = 2, 4, 8 ... n. A figure rises if "
    "the interval of its change is above 0, falls if it is below 0, and stays if it contains 0 and lies between "
    f"-{_NEAR} and +{_NEAR}. The claim is supported if maj@k rises and pass@n falls or stays. It is refuted if pass@n "
    "rises, since RL then solves problems that the base does not solve in n samples, or if maj@k falls or stays. "
    "Otherwise it is undecided. If the base's pass@n is near 100%, pass@n cannot rise, and the problems are too easy "
    "for this test."
)
_EASY = 0.95  # pass@n of a base above which a study is said to be of too easy problems


@dataclasses.dataclass(frozen=True)
class Study:
    """The comparison of some runs, and what it needs to be read on its own."""

    model: str
    devices: tuple[str, ...]
    seeds: tuple[int, ...]
    commands: tuple[str, ...]
    versions: Mapping[str, str]
    problems: Mapping[str, Any]  # settings
    training: Mapping[str, Any]  # settings of RL
    temperature: float
    questions: tuple[str, ...]  # [P], in the order of change.problems; () if the problems were not found again
    change: RLChange


def write_study(study: Study, folder: Path) -> str:
    """Writes study.json, pictures, report.md and report.html into ``folder`` and returns the conclusion."""
    folder.mkdir(parents=True, exist_ok=True)
    title = f"What RL changes · {study.model} · seeds {', '.join(map(str, study.seeds))}"
    plot_rl_change(study.change, folder / _PICTURES["pass@k and maj@k"], title)
    plot_problems(study.change, folder / _PICTURES["right samples of each problem"], title)
    page = render(
        "rl_change.md.j2",
        title=title,
        study=study,
        claim=CLAIM,
        refutation=REFUTATION,
        conclusion=conclusion(study.change),
        figures=figures_table(study.change),
        levels=levels_table(study.change),
        crossing=crossing_line(study.change),
        solvable=solvable_lines(study.change),
        became=became_table(study),
        pictures=list(_PICTURES.items()),
    )
    write_whole(folder / "report.md", page)
    write_whole(folder / "report.html", to_html(page, title, folder))
    write_whole(folder / FILE, json.dumps(dataclasses.asdict(study)) + "\n")
    return conclusion(study.change)


def read_study(folder: Path) -> Study:
    """The study that write_study wrote; raises UserError if there is none."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {FILE}: write it with experiments/what_rl_changes.py")
    fields = json.loads(path.read_text())
    lists = {name: tuple(fields[name]) for name in ("devices", "seeds", "commands", "questions")}
    return Study(**{**fields, **lists, "change": RLChange.from_json(fields["change"])})


def conclusion(change: RLChange) -> str:
    """One sentence: whether the claim is supported, refuted or undecided, with the two changes."""
    verdicts, n = change.verdicts(), change.samples
    if verdicts["pass"] == "rises":
        found = "refuted: RL solves problems that the base does not"
    elif verdicts["maj"] in ("falls", "unchanged"):
        found = "refuted: the majority vote does not improve"
    elif verdicts["maj"] == "rises" and verdicts["pass"] in ("unchanged", "falls"):
        found = "supported" + (", and RL even loses problems" if verdicts["pass"] == "falls" else "")
    else:
        found = "undecided"
    changes = f"maj@k {_points(change.maj_mean.change)}, pass@{n} {_points(change.pass_at[n].change)} points"
    solved = change.pass_at[n].before.value
    note = f" The base solves {100 * solved:.0f}% in {n} samples: the problems are too easy for this test."
    return f"The claim is {found} ({changes})." + (note if solved > _EASY else "")


def figures_table(change: RLChange) -> str:
    """Markdown: pass@k, maj@k and entropy before and after, and their changes."""
    rows = [
        *((f"pass@{k}, %", one) for k, one in change.pass_at.items() if k == 1 or k in change.maj_at),
        *((f"maj@{k}, %", one) for k, one in change.maj_at.items()),
        ("maj@k, mean over k, %", change.maj_mean),
    ]
    cells = [[label, *(_share(part) for part in (one.before, one.after)), _points(one.change)] for label, one in rows]
    if change.entropy is not None:
        parts = (change.entropy.before, change.entropy.after, change.entropy.change)
        cells.append(["entropy, nats per token", *(_text(part, 1.0, 3) for part in parts)])
    return markdown_table(("", "base", "after RL", "change"), cells, align="lrrr")


def levels_table(change: RLChange) -> str:
    """Markdown: the changes by the difficulty of the problems."""
    n = change.samples
    rows = []
    for level in change.levels:
        name = "0" if level.above is None else f"above {100 * level.above:.3g} to {100 * level.up_to:.3g}"
        cells = (_both(one) for one in (level.pass_at_1, level.pass_at_n))
        rows.append([name, str(level.problems), *(text for pair in cells for text in pair)])
    head = ("base's pass@1, %", "problems", "pass@1, %", "change", f"pass@{n}, %", "change")
    return markdown_table(head, rows, align="lrrrrr")


def crossing_line(change: RLChange) -> str:
    """Where the curves of pass@k cross, with the interval, and in each run."""
    crossing, n = change.crossing, change.samples

    def text(k: int | None) -> str:
        return f"above {n}" if k is None else str(k)

    low, high = crossing.interval
    where = f"do not cross up to k = {n}" if crossing.k is None else f"cross at k = {crossing.k}"
    return (
        f"The mean curves of pass@k {where} (95% interval {text(low)} to {text(high)}; they cross in "
        f"{100 * crossing.share:.0f}% of the resamples). Single runs: {', '.join(map(text, crossing.runs))}."
    )


def solvable_lines(change: RLChange) -> list[str]:
    """Numbers of problems that became solvable and that were lost, beside what chance alone gives."""
    found, n = change.solvability, change.samples
    became, lost = (", ".join(map(str, values)) for values in (found.became, found.lost))
    lines = [
        f"no right sample of {n} before and one after: {became} problems (by run)",
        f"a right sample before and none after: {lost}",
    ]
    if found.by_chance is not None:
        lines.append(f"by chance alone, between two evaluations of the base: {found.by_chance:.1f}")
    runs = len(found.became)
    lines.append(
        f"without a right sample in any of the {runs * n} samples before: {len(found.never_before)}, of which "
        f"{sum(k > 0 for k in found.runs_after)} are solved after at least one run and "
        f"{sum(k == runs for k in found.runs_after)} after every run"
    )
    return lines


def became_table(study: Study) -> str:
    """Markdown: problems that no evaluation before RL solved, with right samples after each run; "" if there are none.

    The problems that most runs solve come first, at most _SHOWN of them.
    """
    change, found = study.change, study.change.solvability
    after = {at: [run[at] for run in change.correct_after] for at in found.never_before}
    order = sorted(
        (at for at in after if any(after[at])), key=lambda at: (-sum(k > 0 for k in after[at]), -sum(after[at]))
    )
    if not order:
        return ""
    name = {at: study.questions[at] if study.questions else change.problems[at] for at in order}
    rows = [[name[at], ", ".join(map(str, after[at]))] for at in order[:_SHOWN]]
    return markdown_table(("problem", f"right samples of {change.samples} after RL, by run"), rows, align="lr")


def _both(one: Comparison) -> tuple[str, str]:
    return f"{100 * one.before.value:.1f} -> {100 * one.after.value:.1f}", _points(one.change)


def _share(estimate: Estimate) -> str:
    return _text(estimate, 100.0, 1)


def _points(estimate: Estimate) -> str:
    return _text(estimate, 100.0, 1, "+")


def _text(estimate: Estimate, scale: float, digits: int, sign: str = "") -> str:
    def number(value: float) -> str:
        return f"{scale * value:{sign}.{digits}f}"

    ends = estimate.interval
    return number(estimate.value) + (f" [{number(ends[0])}, {number(ends[1])}]" if ends else "")
