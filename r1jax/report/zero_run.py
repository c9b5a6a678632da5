"""The report of a run of R1-Zero: the evaluations before and after training, the training curves, and samples."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from r1jax.disk import write_whole
from r1jax.evaluation.paired import changes
from r1jax.evaluation.summary import Evaluation, shown_ks
from r1jax.report.comparison import comparison_markdown, comparison_table, headline, side_by_side
from r1jax.report.curves import plot_curves, plot_headline, plot_pass_at_k
from r1jax.report.rendering import render, to_html
from r1jax.report.token_values import token_value_sections
from r1jax.training.metrics import read_metrics

Manifest = Mapping[str, Any]

TRAINING = "r1-zero"  # the stage of RL
EVALUATIONS = ("evaluation_before", "evaluation_after")
_MODELS = {"base": "base", "R1-Zero": "zero"}
_PICTURES = {"pass@1": "pass-at-1.png", "pass@k": "pass-at-k.png", "training, step by step": "curves.png"}


def write_report(out: Path, stages: Mapping[str, Manifest], console: Console) -> None:
    """Writes pictures, report.md, report.html and summary.json, and prints samples and the table of the evaluations.

    stages: name -> manifest of the finished stages in ``out``. Does nothing unless training and both evaluations are
    among them.
    """
    if not {TRAINING, *EVALUATIONS} <= stages.keys():
        return
    before, after = (stages[name]["figures"] for name in EVALUATIONS)
    rows = read_metrics(out / TRAINING)
    old, new = Evaluation.from_json(before["reasoning"]), Evaluation.from_json(after["reasoning"])
    made_by, seed = stages[TRAINING]["made_by"], stages[TRAINING]["settings"]["seed"]
    title = f"R1-Zero · {made_by['model']} · seed {seed}"
    plot_curves({"": rows}, out / "curves.png", title, {"": "zero"})
    plot_headline({"base": old, "R1-Zero": new}, out / "pass-at-1.png", title, _MODELS)
    plot_pass_at_k({"base": old, "R1-Zero": new}, out / "pass-at-k.png", title, _MODELS)
    pairs = [
        (a["question"], a["completion"], b["completion"])
        for a, b in zip(before["reasoning_completions"][:4], after["reasoning_completions"][:4], strict=True)
    ]
    examples = side_by_side(pairs, width=min(console.width, 100))
    page = render(
        "r1_zero.md.j2",
        title=title,
        headline=headline(old, new),
        comparison=comparison_markdown(old, new),
        pictures=[(text, file) for text, file in _PICTURES.items() if (out / file).exists()],
        examples=examples,
    )
    plain, coloured = token_value_sections({"": out / TRAINING})
    write_whole(out / "report.md", f"{page}\n{plain}" if plain else page)
    write_whole(out / "report.html", to_html(f"{page}\n{coloured}", title, out))
    write_whole(out / "summary.json", json.dumps(_summary(stages, old, new, rows), indent=2) + "\n")
    console.print(examples, markup=False, highlight=False)
    console.print(
        f"{out}: report.html, summary.json, {TRAINING}/metrics.jsonl, model/ (Hugging Face)",
        highlight=False,
        soft_wrap=True,
    )
    console.print(comparison_table(old, new, title="R1-Zero"))
    console.print(headline(old, new), style="bold", markup=False, highlight=False)


def _listed(evaluation: Evaluation) -> list[int]:
    """The k of summary.json beside 1; the manifests of the evaluations have every k."""
    return [k for k in shown_ks(evaluation.samples_per_problem) if k > 1]


def _summary(
    stages: Mapping[str, Manifest], old: Evaluation, new: Evaluation, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    evaluations = {"before": old, "after": new}
    seconds = {name: manifest["figures"].get("seconds", 0.0) for name, manifest in stages.items()}
    made_by, peak = stages[TRAINING]["made_by"], stages[TRAINING]["figures"].get("peak_bytes")
    return {
        **{f"accuracy_{when}": e.pass_at[1] for when, e in evaluations.items()},
        **{f"pass_at_{k}_{when}": e.pass_at[k] for when, e in evaluations.items() for k in _listed(e)},
        **{f"maj_at_{k}_{when}": e.maj_at[k] for when, e in evaluations.items() for k in _listed(e) if k in e.maj_at},
        **{f"format_{when}": e.format_rate for when, e in evaluations.items()},
        **{f"mean_length_{when}": e.mean_length for when, e in evaluations.items()},
        **{f"truncated_share_{when}": e.truncated_share for when, e in evaluations.items()},
        **{f"entropy_{when}": e.entropy for when, e in evaluations.items() if e.entropy is not None},
        "changes": {name: dataclasses.asdict(change) for name, change in (changes(old, new) or {}).items()},
        "held_out_problems": old.n_problems,
        "steps": len(rows),
        "seconds": sum(seconds.values()),
        "seconds_base": seconds.get("pretrain", 0.0),
        **({"peak_bytes": peak} if peak is not None else {}),
        "tokens_per_second": sum(r["tokens_per_second"] * r["seconds"] for r in rows) / sum(r["seconds"] for r in rows),
        "device": made_by["device"],
        "seed": stages[TRAINING]["settings"]["seed"],
        "versions": {name: made_by[name] for name in ("python", "r1jax", "jax", "flax", "optax")},
    }
