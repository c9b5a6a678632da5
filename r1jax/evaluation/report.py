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

from r1jax.evaluation.estimators import bootstrap_interval, maj_at_k, pass_at_k

_HEADINGS = ("", "before", "after", "change")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of n samples to each of P held-out problems; shares are in [0, 1]."""

    pass_at: Mapping[int, float]  # k -> unbiased pass@k
    maj_at: Mapping[int, float]  # k -> majority vote of the first k samples
    format_rate: float  # share of samples in the asked format
    mean_length: float  # tokens of a completion
    truncated_share: float  # share of samples that the length limit cut
    readable_correct: float  # share of samples that are right, in the format, and reason readably
    intervals: Mapping[str, tuple[float, float]]  # 95% bootstrap over problems, by the names in figures()
    n_problems: int
    samples_per_problem: int
    rewards: Mapping[str, float]  # mean of each reward over the samples it judges
    accuracy_by_kind: Mapping[str, float]  # kind of problem -> share of samples that are right

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


def summarise(
    answers: Sequence[Sequence[str | None]],
    correct: np.ndarray,
    well_formed: np.ndarray,
    lengths: np.ndarray,
    truncated: np.ndarray,
    ks: Sequence[int],
    seed: int,
    readable: np.ndarray,
    rewards: Mapping[str, float],
    accuracy_by_kind: Mapping[str, float],
) -> Evaluation:
    """Evaluation of P problems with n samples each.

    answers: [P][n] in normal form, None where none could be read. correct, well_formed, truncated: [P, n] bool.
    lengths: [P, n] tokens. ks: the k of pass@k and, from 2 on, of maj@k. seed: of the bootstrap.
    readable: [P, n] bool. rewards, accuracy_by_kind: as in Evaluation. Raises ValueError where a k exceeds n.
    """
    per_problem = {f"pass_at_{k}": pass_at_k(correct, k) for k in ks}
    per_problem |= {f"maj_at_{k}": maj_at_k(answers, correct, k) for k in ks if k > 1}
    per_problem |= {
        "format_rate": np.mean(well_formed, 1),
        "readable_correct": np.mean(np.logical_and(readable, correct), 1),
        "mean_length": np.mean(lengths, 1),
        "truncated_share": np.mean(truncated, 1),
    }
    mean = {name: float(values.mean()) for name, values in per_problem.items()}
    return Evaluation(
        pass_at={k: mean[f"pass_at_{k}"] for k in ks},
        maj_at={k: mean[f"maj_at_{k}"] for k in ks if k > 1},
        format_rate=mean["format_rate"],
        readable_correct=mean["readable_correct"],
        mean_length=mean["mean_length"],
        truncated_share=mean["truncated_share"],
        intervals={name: bootstrap_interval(values, seed) for name, values in per_problem.items()},
        n_problems=len(correct),
        samples_per_problem=np.shape(correct)[1],
        rewards=dict(rewards),
        accuracy_by_kind=dict(accuracy_by_kind),
    )


def comparison_table(before: Evaluation, after: Evaluation, title: str | None = None) -> Table:
    """Before and after as a rich table, each figure with its 95% interval."""
    table = Table(title=title, caption=_caption(after), box=box.SIMPLE_HEAD)
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in _rows(before, after):
        table.add_row(*row)
    return table


def comparison_markdown(before: Evaluation, after: Evaluation) -> str:
    """Before and after as a Markdown table, each figure with its 95% interval."""
    lines = [_HEADINGS, ("---", "---:", "---:", "---:"), *_rows(before, after)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_caption(after)}\n"


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
    """Label, before, after and change of each figure that both have; of all k the powers of 2 and the last."""
    old, new = before.figures(), after.figures()
    left_out = {k for k in before.pass_at if k & (k - 1) and k < before.samples_per_problem}
    return [
        (_label(name), _cell(name, before), _cell(name, after), _number(name, new[name] - old[name], sign="+"))
        for name in old
        if name in new and name not in {f"{figure}_at_{k}" for figure in ("pass", "maj") for k in left_out}
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
    return f"{value if name == 'mean_length' else 100 * value:{sign}.1f}"


def _cell(name: str, evaluation: Evaluation) -> str:
    low, high = evaluation.intervals[name]
    return f"{_number(name, evaluation.figures()[name])} [{_number(name, low)}, {_number(name, high)}]"


def _caption(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.n_problems} held-out problems, {evaluation.samples_per_problem} samples each, "
        "in brackets the 95% bootstrap interval over problems"
    )


def _shortened(text: str, limit: int) -> str:
    """The beginning and the end of a text of more than limit characters: an answer stands at the end."""
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 2, limit // 2
    return f"{text[:head]}\n[... {len(text) - limit} characters ...]\n{text[len(text) - tail :]}"
