"""Rewards of the stages: rules for reasoning, and two judges for general prompts (arXiv 2501.12948, section 3.1).

A judge is a reward model, or a function of the user as FILE.py:FUNCTION.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from r1jax.data.problems import general
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.stage import Inputs
from r1jax.recipe.loading import load_model
from r1jax.rewards.config import VerifierConfig
from r1jax.rewards.model import ModelReward
from r1jax.rewards.pool import RewardPool
from r1jax.rewards.routing import RoutedRewards, parse_routes, rule_specs

JUDGES = ("helpfulness", "harmlessness")
JUDGED_KINDS = dict(zip(JUDGES, (general.HELPFULNESS, general.SAFETY), strict=True))  # judge -> kinds of prompts


def judge_of(kind: str) -> str:
    """The judge of a kind of prompts; "" for kinds that only rules judge."""
    return next((name for name, kinds in JUDGED_KINDS.items() if kind in kinds), "")


def reward_routes(kinds: Iterable[str], language: float, judges: Mapping[str, str]) -> tuple[str, ...]:
    """The rewards of RL by kind of problem: accuracy and format for ``kinds``, a judge and format for general prompts.

    language: the weight of the language reward of all kinds. judges: judge -> its reward, which is its own name for a
    reward model, or FILE.py:FUNCTION.
    """
    extra = f" language={language:g}" if language else ""
    judged = [f"{','.join(of)}: {judges[name]} format{extra}" for name, of in JUDGED_KINDS.items() if name in judges]
    return (f"{','.join(sorted(kinds))}: accuracy format{extra}", *judged)


def load_judges(names: Sequence[str], inputs: Inputs, options: ComputeOptions) -> list[ModelReward]:
    """The reward models among the inputs. Helpfulness judges the summary only, harmlessness the whole response."""
    return [
        ModelReward(name, load_model(inputs[name], options, "float32"), "summary" if name == JUDGES[0] else "response")
        for name in names
    ]


@contextmanager
def routed_rewards(
    routes: tuple[str, ...], verifier: VerifierConfig, models: Sequence[ModelReward] = ()
) -> Iterator[RoutedRewards]:
    """The rewards of ``routes``: worker processes compute the rules, and ``models`` the scores of the judges."""
    mixtures = parse_routes(routes)
    specs = rule_specs(mixtures, [model.name for model in models])
    with RewardPool(specs, verifier.processes, verifier.deadline, verifier.code) as pool:
        yield RoutedRewards(mixtures, pool, models)
