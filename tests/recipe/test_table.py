"""The table of the recipe: what each stage reads, flag by flag, and that nothing else concerns it."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import distill, r1_zero
from r1jax import cli
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.pipeline.record import differences, fingerprint, make_record
from r1jax.recipe.config import RecipeConfig
from r1jax.recipe.evaluation import EvaluationSettings
from r1jax.recipe.table import recipe_stages
from r1jax.sampling.processors import Sampling
from r1jax.settings import MAY_CHANGE, marked

CONFIG = RecipeConfig(problems=ProblemsConfig("word-problems", train_size=40), sampling=Sampling(max_tokens=40))

MODELS = ("base", "zero", "cold_start", "reasoning_rl", "reasoning_rl_no_language", "sft", "r1")
JUDGES = {"helpfulness", "harmlessness"}
EVALUATIONS = {f"evaluation_{name}" for name in MODELS}
RL = {"zero", "reasoning_rl", "reasoning_rl_no_language", "r1"}
DATA = {"cold_start_data", "rejection_sampling"}
SFT = {"cold_start", "sft"}
SAMPLED = RL | DATA | EVALUATIONS
ALL = SAMPLED | SFT | JUDGES | {"base"}
RULES = JUDGES | {"rejection_sampling"}  # that take the general prompts that rules make
NEVER = set()

# Flag, or group of flags -> the stages that it concerns by itself, apart from the stages that these read.
READ_BY = {
    **dict.fromkeys(("mesh", "until", "only", "force", "dry_run", "out", "save", "verifier"), NEVER),
    **dict.fromkeys(("remat", "attention", "unroll", "gather", "sampling.slots"), NEVER),
    "dtype": ALL - {"base"},
    "seed": ALL,
    "template": {"base", "r1", "reasoning_rl", "reasoning_rl_no_language", *DATA, *EVALUATIONS},
    "zero_template": {"zero", "cold_start_data", "evaluation_base", "evaluation_zero"},
    "language_weight": {"reasoning_rl", "r1"},
    "general_steps": {"r1"},
    "general_share": {"r1"},
    "final_temperature": {"r1"},
    "cold_start_rows": {"cold_start_data"},
    "rewrite_prompt": NEVER,  # there is no rewriter
    "general_repeats": {"rejection_sampling"},
    "problems": SAMPLED,
    **dict.fromkeys(("problems.digits", "problems.operations", "problems.held_out_share"), SAMPLED | {"base"}),
    "problems.train_size": RL | DATA,
    "problems.held_out_size": EVALUATIONS,
    "general": {"r1", *EVALUATIONS},
    "general.held_out_share": {"r1", "base", *EVALUATIONS, *RULES},
    "general.seed": {"r1", *EVALUATIONS, *RULES},
    "general.train_size": {"r1"},
    "general.held_out_size": EVALUATIONS,
    "sampling": SAMPLED,
    "sampling.max_tokens": SAMPLED | {"base"},
    "sampling.temperature": RL - {"r1"},
    "pretrain": {"base"},
    "zero": {"zero"},
    "cold_start_select": {"cold_start_data"},
    "cold_start_sft": {"cold_start"},
    "reasoning_rl": {"reasoning_rl", "reasoning_rl_no_language"},
    "rejection": {"rejection_sampling"},
    "sft": {"sft"},
    "reward_model": JUDGES,
    "final_rl": {"r1"},
    "evaluation": EVALUATIONS,
}
# Flags that leave stages out or bring files, which tests of experiments look at.
SHAPES = {"base", "no_zero", "cold_start", "rewriter", "general_data", "compare_language"}
SHAPES |= {name + suffix for name in JUDGES for suffix in ("", "_data")}
CHANGES = {
    "dtype": "bfloat16",
    "remat": "block",
    "attention": "xla",
    "gather": "layer",
    "problems.operations": "+",
    "checker": "math",
    "schedule": "linear",
    "param_dtype": "bfloat16",
    "loss": "cispo",
    "baseline": "batch",
    "aggregate": "token",
    "ratio": "sequence",
    "rounding": "stochastic",
    "source": "general",
    "held_out_source": "general",
    "template": "think",
    "zero_template": "think",
    "rewrite_prompt": "{reasoning}",
    "mesh": "2x1",
    "top_p": 0.5,
    "min_p": 0.5,
    "architecture": "qwen2",
    "held_out_share": 0.3,
    "prompts": 64,
    "minibatches": 2,
    "microbatch": 4,
    "batch": 48,
    "hidden_size": 192,
    "general_steps": 20,
    "out": Path("elsewhere"),
}


def flags(config, prefix=""):
    """Dotted paths of all fields, those of unions of configs left out."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from flags(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def changed(config, path):
    """The config with another value of one flag; without the checks of values that hang together."""
    name, _, rest = path.partition(".")
    old = getattr(config, name)
    new = changed(old, rest) if rest else another(path, old)
    made = object.__new__(type(config))
    for field in dataclasses.fields(config):
        object.__setattr__(made, field.name, new if field.name == name else getattr(config, field.name))
    return made


def another(name, old):
    if name in CHANGES and CHANGES[name] != old:
        return CHANGES[name]
    if isinstance(old, bool):
        return not old
    if old is None:
        return 30
    if isinstance(old, tuple):
        return (*old, *old[:1])
    return old + 1 if isinstance(old, int) else old * 0.5 + 0.13 if isinstance(old, float) else old + old


def own(stages):
    """Name -> what a stage's result depends on by itself, whatever the stages are that it reads."""
    return {one.name: fingerprint(make_record(one, dict.fromkeys(one.inputs.values(), ""))) for one in stages}


def readers(path):
    """The stages that the longest entry of READ_BY which covers a flag names."""
    entries = [entry for entry in READ_BY if f"{path}.".startswith(f"{entry}.")]
    return READ_BY[max(entries, key=len)]


def test_each_flag_concerns_the_stages_that_read_it_and_no_others():
    before = own(recipe_stages(CONFIG))
    assert before.keys() == ALL
    for path in flags(CONFIG):
        if path in SHAPES:
            continue
        config = changed(CONFIG, path)
        after = own(recipe_stages(config))
        found = {name for name in before if before[name] != after[name]}
        last = path.rpartition(".")[2]
        if last in ("microbatch", "logprob_chunk"):
            assert not found, path
        elif path.startswith("final_rl.steps"):
            assert found == {"r1"}, path
        else:
            assert found == readers(path), (path, found ^ readers(path))


def stages_of_all_experiments():
    teacher = distill.Teacher(
        evaluation=next(s.settings for s in recipe_stages(CONFIG) if isinstance(s.settings, EvaluationSettings)),
        base_template="r1",
        rl=json.loads(cli.to_json(next(s.settings for s in recipe_stages(CONFIG) if s.name == "reasoning_rl"))),
        judges={},
    )
    matched = dataclasses.replace(distill.Config(), match=dataclasses.replace(distill.Config().match, steps=3))
    found = {f"r1 {one.name}": one for one in recipe_stages(CONFIG)}
    found |= {f"r1_zero {one.name}": one for one in r1_zero.stages(r1_zero.Config())}
    return found | {f"distill {one.name}": one for one in distill.student_stages(matched, Path("none"), teacher)}


@pytest.mark.parametrize("name", ["r1", "r1_zero", "distill"])
def test_every_setting_of_a_stage_counts_unless_it_is_marked(name):
    """An older record that differs in one setting is that of another stage, or of the same where it is marked."""
    for label, stage in stages_of_all_experiments().items():
        if label.split()[0] != name:
            continue
        stage = dataclasses.replace(stage, reads={})
        record = make_record(stage, {})
        free = marked(stage.settings, MAY_CHANGE)
        paths = list(flags(stage.settings))
        assert paths
        for path in paths:
            old = json.loads(json.dumps(record))
            part = old["settings"]
            *parents, last = path.split(".")
            for parent in parents:
                part = part[parent]
            part[last] = "another"
            counts = not any(f"{path}.".startswith(f"{one}.") for one in free)
            assert bool(differences(old, record, stage)) == counts, (label, path)
            assert (fingerprint(old) != fingerprint(record)) == counts, (label, path)
