"""What the algorithms differ in, in words: for tables."""

from __future__ import annotations

from collections.abc import Mapping

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.ppo import PPO
from r1jax.algorithms.prime import PRIME
from r1jax.algorithms.rollout_terms import RolloutTerms
from r1jax.algorithms.table import ALGORITHMS, AnyAlgorithm

_MEANS = {"sequence": "per sequence", "token": "over all tokens", "constant": "per longest length"}


def family() -> dict[str, dict[str, str]]:
    """Name of an algorithm -> the kind of its parts -> the part, read from the settings in ALGORITHMS."""
    return {name: _parts(algorithm) for name, algorithm in ALGORITHMS.items()}


def _parts(algorithm: AnyAlgorithm) -> dict[str, str]:
    return {
        "baseline": _baseline(algorithm),
        "ratio": f"of a {algorithm.ratio}" if isinstance(algorithm, GRPO) else "of a token",
        "clip": _clip(algorithm),
        "mean of the loss": _MEANS[algorithm.aggregate],
        "KL weight": f"{algorithm.beta:g}",
        "learned models": ", ".join({"policy": "", **algorithm.learned}),
        "groups": _groups(algorithm),
    }


def _baseline(algorithm: AnyAlgorithm) -> str:
    if isinstance(algorithm, PPO):
        return "value of the critic" + (", / std of all tokens" if algorithm.whiten else "")
    names: Mapping[str, str] = {"group": "group", "leave_one_out": "others of the group", "batch": "group"}
    text = names[algorithm.baseline]
    if algorithm.normalise_std and algorithm.baseline != "leave_one_out":
        text += f", / std of the {algorithm.baseline}"
    return text + (", plus process rewards" if isinstance(algorithm, PRIME) else "")


def _clip(algorithm: AnyAlgorithm) -> str:
    low, high = f"{max(0.0, 1 - algorithm.eps_low):g}", f"{1 + algorithm.eps_high:g}"
    weight = " as a weight" if isinstance(algorithm, GRPO) and algorithm.loss == "cispo" else ""
    return f"{low} to {high}{weight}"


def _groups(algorithm: RolloutTerms) -> str:
    if not algorithm.drop_equal_groups:
        return "all"
    limits = (
        f", accuracy {algorithm.accuracy_low:g} to {algorithm.accuracy_high:g}" if isinstance(algorithm, PRIME) else ""
    )
    return f"with spread{limits}"
