"""What an evaluation found, and its comparison with another as a table or as completions side by side."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from r1jax.evaluation.estimators import bootstrap_intervals, maj_at_k, pass_at_k
from r1jax.evaluation.paired import Change, changes, not_paired

_HEADINGS = ("", "before", "after", "change")
Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of n samples to each of P held-out problems; shares are in [0, 1]."""

    pass_at: Mapping[int, float]  # k -> unbiased pass@k
    maj_at: Mapping[int, float]  # k -> share of the votes of k samples that the right answer wins
    format_rate: float  # share of samples in the asked format
    mean_length: float  # tokens of a completion
    truncated_share: float  # share of samples that the length limit cut
    readable_correct: float  # share of samples that are right, in the format, and reason readably
    intervals: Mapping[str, Interval | None]  # 95% bootstrap over problems, by the names in figures(); None if P is 1
    n_problems: int
    samples_per_problem: int
    rewards: Mapping[str, float]  # mean of each reward over the samples it judges
    accuracy_by_kind: Mapping[str, float]  # kind of problem -> share of samples that are right
    problems: tuple[str, ...] = ()  # what tells each problem from others; () in evaluations of older versions
    by_problem: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    # figure -> its value for each problem: those of figures() with k in shown_ks, and reward_NAME of rewards for all

    def figures(self) -> dict[str, float]:
        """Name -> value, for summary.json: pass_at_8, maj_at_8, format_rate, mean_length, truncated_share."""
        return {
            **{f"pass_at_{k}": value for k, value in self.pass_at.items()},
            **{f"maj_at_{k}": value for k, value in self.maj_at.items()},
            "format_rate": self.format_rate,
            "readable_correct": self.readable_correct,
            "mean_length": self.mean_length,
            "truncated_share": self.truncated_share,
        }


def shown_ks(n: int) -> tuple[int, ...]:
    """The k of n samples that tables show: powers of 2, and n."""
    return tuple(k for k in range(1, n + 1) if k == n or not k & (k - 1))


def summarise(
    problems: Sequence[str],
    votes: np.ndarray,
    correct: np.ndarray,
    well_formed: np.ndarray,
    lengths: np.ndarray,
    truncated: np.ndarray,
    ks: Sequence[int],
    seed: int,
    readable: np.ndarray,
    rewards: Mapping[str, np.ndarray],
    accuracy_by_kind: Mapping[str, float],
) -> Evaluation:
    """Evaluation of P problems with n samples each.

    problems: [P] texts that tell problems apart. votes: [P, n] int, as of r1jax.evaluation.voting. correct,
    well_formed, truncated, readable: [P, n] bool. lengths: [P, n] tokens. ks: the k of pass@k and, from 2 on, of maj@k.
    seed: of the bootstrap. rewards: name -> [P, n], NaN where it does not judge. accuracy_by_kind: as in Evaluation.
    Raises ValueError where a k exceeds n.
    """
    by_problem = {f"pass_at_{k}": pass_at_k(correct, k) for k in ks}
    by_problem |= {f"maj_at_{k}": maj_at_k(votes, k) for k in ks if k > 1}
    by_problem |= {
        "format_rate": np.mean(well_formed, 1),
        "readable_correct": np.mean(np.logical_and(readable, correct), 1),
        "mean_length": np.mean(lengths, 1),
        "truncated_share": np.mean(truncated, 1),
    }
    mean = {name: float(values.mean()) for name, values in by_problem.items()}
    n = np.shape(correct)[1]
    left_out = {f"{figure}_at_{k}" for figure in ("pass", "maj") for k in ks if k not in shown_ks(n)}
    kept = {name: values for name, values in by_problem.items() if name not in left_out}
    kept |= {f"reward_{name}": np.mean(table, 1) for name, table in rewards.items() if np.isfinite(table).all()}
    return Evaluation(
        pass_at={k: mean[f"pass_at_{k}"] for k in ks},
        maj_at={k: mean[f"maj_at_{k}"] for k in ks if k > 1},
        format_rate=mean["format_rate"],
        mean_length=mean["mean_length"],
        truncated_share=mean["truncated_share"],
        readable_correct=mean["readable_correct"],
        intervals=bootstrap_intervals(by_problem, seed),
        n_problems=len(correct),
        samples_per_problem=n,
        rewards={name: float(np.nanmean(table)) for name, table in rewards.items() if np.isfinite(table).any()},
        accuracy_by_kind=dict(accuracy_by_kind),
        problems=tuple(problems),
        by_problem={name: tuple(values.tolist()) for name, values in kept.items()},
    )


def comparison_table(before: Evaluation, after: Evaluation, title: str | None = None) -> Table:
    """Before and after as a rich table, each figure and each change with its 95% interval."""
    # As narrow as can be: 80 columns hold it. Where there are fewer, cells fold and lose nothing.
    table = Table(title=title, caption=_caption(before, after), box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in _rows(before, after):
        table.add_row(*row)
    return table


def comparison_markdown(before: Evaluation, after: Evaluation) -> str:
    """Before and after as a Markdown table, each figure and each change with its 95% interval."""
    lines = [_HEADINGS, ("---", "---:", "---:", "---:"), *_rows(before, after)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_caption(before, after)}\n"


def headline(before: Evaluation, after: Evaluation) -> str:
    """One line: pass@1 in percent, before and after, with the paired interval of the change."""
    old, new = (f"{100 * one.pass_at[1]:.1f}%" for one in (before, after))
    found = changes(before, after)
    if found is None:
        return f"pass@1 {old} -> {new} (not comparable: {not_paired(before, after)})"
    return f"pass@1 {old} -> {new} ({_change('pass_at_1', found)} points)"


def side_by_side(samples: Iterable[tuple[str, str, str]], width: int = 100, limit: int = 1200) -> str:
    """Completions of the same prompts before and after, as text in two columns.

    samples: (prompt, completion before, completion after). width: characters a line. limit: characters a completion,
    of which the middle is left out where it is longer.
    """
    # A notebook would print what a Console with a file of its own is given; force_jupyter=False keeps it in the file.
    text = io.StringIO()
    page = Console(file=text, width=width, color_system=None, force_jupyter=False)
    for prompt, *completions in samples:
        page.rule("prompt", align="left")
        page.print(Text(_shortened(prompt, limit)))  # Text, so that brackets are not read as markup
        columns = Table("before", "after", width=width, box=box.SIMPLE)
        for column in columns.columns:
            column.ratio, column.overflow = 1, "fold"
        columns.add_row(*(Text(_shortened(completion, limit)) for completion in completions))
        page.print(columns)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _rows(before: Evaluation, after: Evaluation) -> list[tuple[str, str, str, str]]:
    """Label, before, after and change of each figure that both have; of all k those in shown_ks."""
    new, found = after.figures(), changes(before, after)
    shown = set(shown_ks(before.samples_per_problem)) & set(shown_ks(after.samples_per_problem))
    left_out = {f"{figure}_at_{k}" for figure in ("pass", "maj") for k in before.pass_at if k not in shown}
    return [
        (_label(name), _cell(name, before), _cell(name, after), _change(name, found))
        for name in before.figures()
        if name in new and name not in left_out
    ]


def _label(name: str) -> str:
    words = {
        "format_rate": "format rate, %",
        "readable_correct": "readable and correct, %",
        "mean_length": "mean length, tokens",
        "truncated_share": "truncated share, %",
    }
    return words.get(name) or f"{name.replace('_at_', '@')}, %"


def _number(name: str, value: float, sign: str = "") -> str:
    shown = value if name == "mean_length" else 100 * value
    return f"{shown:{sign}.{0 if abs(shown) >= 99.95 else 1}f}"


def _with_interval(name: str, value: float, interval: Interval | None, sign: str = "") -> str:
    shown = _number(name, value, sign)
    return shown if interval is None else f"{shown} [{', '.join(_number(name, end, sign) for end in interval)}]"


def _cell(name: str, evaluation: Evaluation) -> str:
    return _with_interval(name, evaluation.figures()[name], evaluation.intervals[name])


def _change(name: str, found: Mapping[str, Change] | None) -> str:
    if found is None or name not in found:
        return "not comparable"
    return _with_interval(name, found[name].value, found[name].interval, "+")


def _caption(before: Evaluation, after: Evaluation) -> str:
    counts = [f"{one.n_problems} held-out problems, {one.samples_per_problem} samples each" for one in (before, after)]
    if after.n_problems == 1:
        note = "one problem gives no interval"
    else:
        note = "in brackets the 95% bootstrap interval over problems, of changes over the same problems in pairs"
    if reason := not_paired(before, after):
        note += f"; not comparable: {reason}"
    return f"{counts[1] if counts[0] == counts[1] else f'before: {counts[0]}; after: {counts[1]}'}; {note}"


def _shortened(text: str, limit: int) -> str:
    """The beginning and the end of a text of more than limit characters: an answer stands at the end."""
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 2, limit // 2
    return f"{text[:head]}\n[... {len(text) - limit} characters ...]\n{text[len(text) - tail :]}"
