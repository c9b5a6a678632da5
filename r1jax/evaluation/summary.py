"""The figures of an evaluation, with intervals, and the same figures for each problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.evaluation.estimators import bootstrap_intervals, maj_at_k, pass_at_k

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Results of the rules for n samples of each of P problems."""

    votes: np.ndarray | None  # [P, n] int, classes of answers as in r1jax.evaluation.voting; None: no maj@k
    correct: np.ndarray  # [P, n] bool
    well_formed: np.ndarray  # [P, n] bool, in the requested format
    readable: np.ndarray  # [P, n] bool, in the requested format and with readable reasoning
    lengths: np.ndarray  # [P, n] int, in tokens
    truncated: np.ndarray  # [P, n] bool, cut at the length limit
    rewards: Mapping[str, np.ndarray]  # name -> [P, n] float, NaN for samples that the reward does not judge
    surprisals: np.ndarray | None = None  # [P, n] float, -log-probability of each whole sample in nats; None: unknown


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of n samples of each of P held-out problems; shares are in [0, 1]."""

    pass_at: Mapping[int, float]  # k -> unbiased pass@k
    maj_at: Mapping[int, float]  # k -> chance that the right answer wins the majority vote of k samples; {} without
    format_rate: float  # share of samples in the requested format
    mean_length: float  # in tokens
    truncated_share: float  # share of samples cut at the length limit
    readable_correct: float  # share of samples that are correct, in the format, and readable
    intervals: Mapping[str, Interval | None]  # 95% bootstrap over problems, by the names in figures(); None if P is 1
    n_problems: int
    samples_per_problem: int
    rewards: Mapping[str, float]  # mean of each reward over the samples it judges
    accuracy_by_kind: Mapping[str, float]  # kind of problem -> share of samples that are correct
    problems: tuple[str, ...] = ()  # a hash of each problem; () in evaluations of older versions
    by_problem: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    # figure -> its value for each problem: the names in figures() with k in shown_ks, and reward_NAME
    entropy: float | None = None  # of a token in nats, on the model's own samples; None in older evaluations

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Evaluation:
        """The Evaluation that ``dataclasses.asdict`` and JSON stored: keys became text and tuples became lists."""
        by_k = {name: {int(k): v for k, v in fields[name].items()} for name in ("pass_at", "maj_at")}
        intervals = {name: ends and tuple(ends) for name, ends in fields["intervals"].items()}
        problems = tuple(fields.get("problems", ()))
        by_problem = {name: tuple(values) for name, values in fields.get("by_problem", {}).items()}
        return cls(**{**fields, **by_k, "intervals": intervals, "problems": problems, "by_problem": by_problem})

    def figures(self) -> dict[str, float]:
        """Name -> value: pass_at_K, maj_at_K, format_rate, readable_correct, mean_length, truncated_share, entropy.

        The entropy is left out if it is unknown.
        """
        return {
            **{f"pass_at_{k}": value for k, value in self.pass_at.items()},
            **{f"maj_at_{k}": value for k, value in self.maj_at.items()},
            "format_rate": self.format_rate,
            "readable_correct": self.readable_correct,
            "mean_length": self.mean_length,
            "truncated_share": self.truncated_share,
            **({} if self.entropy is None else {"entropy": self.entropy}),
        }


def shown_ks(n: int) -> tuple[int, ...]:
    """The values of k that tables show for n samples: powers of 2, and n."""
    return tuple(k for k in range(1, n + 1) if k == n or not k & (k - 1))


def summarise(
    problems: Sequence[str], outcomes: Outcomes, accuracy_by_kind: Mapping[str, float], ks: Sequence[int], seed: int
) -> Evaluation:
    """The Evaluation of P problems with n samples each.

    problems: [P] hashes that identify the problems. accuracy_by_kind: as in Evaluation. ks: the values of k of pass@k
    and, from 2 on and if there are votes, of maj@k. seed: random seed of the bootstrap. Raises ValueError if a k
    exceeds n.

    The entropy of a problem is the sum of its samples' surprisals over the sum of their lengths, rounded to 4 decimal
    places: a Monte Carlo estimate of the entropy per token. The figure is the mean over problems.
    """
    correct = outcomes.correct
    by_problem = {f"pass_at_{k}": pass_at_k(correct, k) for k in ks}
    if (votes := outcomes.votes) is not None:
        by_problem |= {f"maj_at_{k}": maj_at_k(votes, k) for k in ks if k > 1}
    by_problem |= {
        "format_rate": np.mean(outcomes.well_formed, 1),
        "readable_correct": np.mean(np.logical_and(outcomes.readable, correct), 1),
        "mean_length": np.mean(outcomes.lengths, 1),
        "truncated_share": np.mean(outcomes.truncated, 1),
    }
    if outcomes.surprisals is not None:
        # Rounded, since the last digits of log-probabilities differ between programs for other numbers of sequences.
        by_problem["entropy"] = np.round(np.sum(outcomes.surprisals, 1) / np.sum(outcomes.lengths, 1), 4)
    mean = {name: float(values.mean()) for name, values in by_problem.items()}
    n = np.shape(correct)[1]
    omitted = {f"{figure}_at_{k}" for figure in ("pass", "maj") for k in ks if k not in shown_ks(n)}
    kept = {name: values for name, values in by_problem.items() if name not in omitted}
    rewards = outcomes.rewards
    kept |= {f"reward_{name}": np.mean(table, 1) for name, table in rewards.items() if np.isfinite(table).all()}
    return Evaluation(
        pass_at={k: mean[f"pass_at_{k}"] for k in ks},
        maj_at={k: mean[name] for k in ks if (name := f"maj_at_{k}") in mean},
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
        entropy=mean.get("entropy"),
    )
