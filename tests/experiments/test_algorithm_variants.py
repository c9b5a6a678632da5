"""The settings of GRPO's relatives in docs/algorithms.md, compared with their papers and with the named algorithms."""

import dataclasses
import re

import pytest

from experiments.r1_zero import PRESETS
from r1jax import cli
from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.ppo import PPO
from r1jax.algorithms.table import ALGORITHMS
from r1jax.models.config import ModelConfig
from r1jax.rl.config import check_run, without_effect
from r1jax.rl.learned import make_learners
from tests.helpers.paths import ROOT

ALGORITHMS_PAGE = (ROOT / "docs" / "algorithms.md").read_text()
VARIANTS = {  # from the papers: the clipped range of the ratio, its level, the mean, the baseline
    "Dr. GRPO": {"normalise_std": False, "aggregate": "constant", "beta": 0},
    "DAPO": {
        "eps_low": 0.2,
        "eps_high": 0.28,
        "aggregate": "token",
        "drop_equal_groups": True,
        "max_resamples": 9,
        "mask_truncated": True,
        "overlong_buffer": 4096,
        "updates": 16,
        "beta": 0,
    },
    "GSPO": {"eps_low": 3e-4, "eps_high": 4e-4, "ratio": "sequence", "aggregate": "sequence", "updates": 4, "beta": 0},
    "CISPO": {"loss": "cispo", "eps_low": 1, "eps_high": 4, "aggregate": "token", "updates": 16, "beta": 0},
    "RLOO": {"baseline": "leave_one_out", "aggregate": "constant", "updates": 1},
    "REINFORCE++": {"baseline": "batch", "normalise_std": True},
    "truncated importance sampling": {"importance_cap": 2},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_documented_variants_are_those_of_their_papers(name):
    flags = re.search(rf"^\| \[{re.escape(name)}\].*\| `(.*)` \|$", ALGORITHMS_PAGE, re.MULTILINE)[1].split()
    config = cli.parse(PRESETS, "tiny", flags)
    check_run(config.rl, config.sampling, 1)
    settings = vars(config.rl) | vars(config.rl.algorithm) | {"updates": config.rl.updates}
    assert {key: settings[key] for key in VARIANTS[name]} == VARIANTS[name]
    assert without_effect(config.rl) == []


RELATIVES = [name for name, one in ALGORITHMS.items() if type(one) is GRPO and name != "grpo"]


@pytest.mark.parametrize("name", RELATIVES)
def test_a_named_algorithm_has_the_settings_of_the_documented_variant(name):
    """The other flags of a variant are settings of the rollout and belong to no algorithm."""
    variant = {"dr-grpo": "Dr. GRPO"}.get(name, name.upper())
    flags = re.search(rf"^\| \[{re.escape(variant)}\].*\| `(.*)` \|$", ALGORITHMS_PAGE, re.MULTILINE)[1].split()
    rollout = ("--rl.group", "--rl.minibatches", "--sampling.max-tokens")
    named = cli.parse(PRESETS, "tiny", [f"--rl.algorithm={name}", *(f for f in flags if f.startswith(rollout))])
    assert named == cli.parse(PRESETS, "tiny", flags) and named.rl.algorithm == ALGORITHMS[name]
    plain = PRESETS["tiny"][1]
    assert dataclasses.replace(named.rl, algorithm=plain.rl.algorithm, group=8, minibatches=1) == plain.rl
    other = dataclasses.replace(ALGORITHMS[name], entropy=0.5)
    assert cli.parse(PRESETS, "tiny", ["--rl.entropy=0.5", f"--rl.algorithm={name}"]).rl.algorithm == other


def test_ppo_has_the_settings_of_its_sources():
    """Clip: arXiv 1707.06347, table 1. Value clip: the program of arXiv 1909.08593. Others: arXiv 2503.24290."""
    config = cli.parse(PRESETS, "tiny", ["--rl.algorithm=ppo", "--rl.minibatches=2", "--rl.group=1"]).rl
    settings = {"eps_low": 0.2, "eps_high": 0.2, "value_clip": 0.2, "gamma": 1, "gae_lambda": 1, "beta": 0}
    settings |= {"whiten": True, "critic": "policy", "aggregate": "token", "mask_truncated": False}
    assert {key: getattr(config.algorithm, key) for key in settings} == settings
    assert without_effect(config) == []
    rate = make_learners(config, ModelConfig(), 0, "rl")["critic"].settings.learning_rate
    assert rate == pytest.approx(5 * config.learning_rate)  # 5e-6 and 1e-6
    own = cli.parse(PRESETS, "tiny", ["--rl.gae-lambda=0.95", "--rl.algorithm=ppo", "--rl.critic-learning-rate=1e-5"])
    assert own.rl.algorithm.gae_lambda == 0.95 and type(own.rl.algorithm) is PPO
    assert make_learners(own.rl, ModelConfig(), 0, "rl")["critic"].settings.learning_rate == 1e-5


def test_every_documented_variant_is_tested():
    table = re.findall(r"^\| \[(.*?)\].*\| `--.*` \|$", ALGORITHMS_PAGE, re.MULTILINE)
    assert table == list(VARIANTS)


def test_prime_takes_the_flags_of_its_row():
    flags = re.search(r"^\| \[PRIME\].*?\| `(.*?)` \|", ALGORITHMS_PAGE, re.MULTILINE)[1].split()
    rl = cli.parse(PRESETS, "tiny", [*flags, "--rl.prm-learning-rate=1e-4"]).rl
    assert (rl.group, rl.learning_rate, rl.algorithm.prm_learning_rate, rl.algorithm.prm_beta) == (4, 5e-7, 1e-4, 0.05)
    check_run(rl, PRESETS["tiny"][1].sampling, 1)
    assert without_effect(rl) == []
    changed = cli.parse(PRESETS, "tiny", [*flags, "--rl.max-resamples=9", "--rl.accuracy-low=0.1"]).rl
    assert without_effect(changed) == []
    unfiltered = cli.parse(PRESETS, "tiny", [*flags, "--rl.accuracy-low=0.1", "--rl.drop-equal-groups=false"]).rl
    assert without_effect(unfiltered)[0].startswith("rl.accuracy-low=0.1: no effect unless equal groups are dropped")
