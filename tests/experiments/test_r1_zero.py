"""R1-Zero through its command: files, output, refused settings, and effects of settings."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.r1_zero import PRESETS, check, default_preset, stages
from r1jax import cli, load
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.evaluation.summary import Evaluation
from r1jax.recipe.base_model import small_base_stage
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.sharding import make_mesh
from tests.experiments.helpers import SMALL, params_of, rows_of, run, same, short_run
from tests.helpers.paths import FIXTURES


def test_the_folder_of_a_run_holds_what_was_promised(finished):
    out, _ = finished
    summary = json.loads((out / "summary.json").read_text())
    for name in ("accuracy", "pass_at_8", "maj_at_8", "format"):
        for when in ("before", "after"):
            assert 0 <= summary[f"{name}_{when}"] <= 1
    listed = {name for name in summary if "_at_" in name}
    assert listed == {f"{f}_at_{k}_{when}" for f in ("pass", "maj") for k in (2, 4, 8) for when in ("before", "after")}
    assert summary["steps"] == 6 and summary["seconds"] > 0 and summary["tokens_per_second"] > 0
    assert summary["device"] == "1 x cpu"
    rows = rows_of(out)
    assert [row["step"] for row in rows] == list(range(6))
    promised = (
        "reward reward_accuracy reward_format advantage_spread equal_groups kl entropy ratio_mean ratio_max clip_share "
        "bounded_share sampler_gap length_mean truncated_share verifier_timeouts gradient_norm tokens_per_second "
        "seconds_sampling seconds_rewards seconds_update seconds_host skipped_updates empty_updates"
    )
    assert not set(promised.split()) - set(rows[0])
    assert all(row["sampler_gap_max"] < 1e-4 for row in rows)
    assert all(row["gradient_norm"] > 1e-3 and row["skipped_updates"] == 0 for row in rows)
    assert rows[5]["kl"] > 1e-6 and summary["held_out_problems"] == 4
    trained, base = params_of(out), params_of(out, "pretrain")
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).max(), trained, base))) > 1e-3
    completions = [json.loads(line) for line in (out / "r1-zero" / "completions.jsonl").read_text().splitlines()]
    assert {row["step"] for row in completions} == set(range(6)) and "<think>" in completions[0]["completion"]
    assert (out / "curves.png").stat().st_size > 10_000
    assert list((out / "r1-zero" / "tensorboard").iterdir())
    assert json.loads((out / "config.json").read_text())["rl"]["group"] == 4
    change = summary["changes"]["pass_at_1"]
    assert change["value"] == pytest.approx(summary["accuracy_after"] - summary["accuracy_before"])
    low, high = change["interval"]
    assert low <= change["value"] <= high


def test_the_first_line_says_where_and_the_last_lines_what_changed(finished):
    out, stdout = finished
    lines = stdout.rstrip().splitlines()
    assert lines[0] == f"device: 1 x cpu, weights: made in {out}/pretrain, folder: {out}"
    assert lines[-1].startswith("pass@1 ") and "% -> " in lines[-1] and lines[-1].endswith("points)")
    table = next(i for i, line in enumerate(lines) if line.startswith("pass@1, %"))
    assert any(line.startswith("maj@8, %") for line in lines[table:])
    samples = [i for i, line in enumerate(lines) if line.startswith("prompt ")]
    assert samples and max(samples) < table
    assert lines[-1] in (out / "report.md").read_text()


def test_the_report_is_one_page_with_its_pictures_in_it(finished):
    page = (finished[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "seed 0" in page and "<pre>" in page


def test_the_export_is_the_last_checkpoint(finished):
    out, _ = finished
    exported, own = load(out / "model"), load(out / "r1-zero")
    same(jax.device_get(exported.params), jax.device_get(own.params))
    assert exported.tokenizer.encode("12 + 34 = ?\n<think>") == own.tokenizer.encode("12 + 34 = ?\n<think>")


def test_a_finished_run_is_not_run_again(finished):
    out, _ = finished
    before = (out / "r1-zero" / "metrics.jsonl").stat().st_mtime_ns
    status, stdout, _ = run(out)
    assert status == 0 and "is finished" in stdout and "{" not in stdout
    table = [line for line in finished[1].splitlines() if line.startswith(("pass@", "maj@", "format"))]
    assert len(table) > 6 and [line for line in table if line not in stdout.splitlines()] == []
    assert (out / "r1-zero" / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_setting_in_the_same_folder_is_refused(finished):
    status, _, stderr = run(finished[0], "--rl.eps-low=0.1")
    assert status == 2
    assert len(stderr.strip().splitlines()) == 1 and "rl.algorithm.eps_low was 0.2, now 0.1" in stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rl.grup=4"], "--rl.grup: no such flag; did you mean --rl.group?"),
        (["--rl.group=1"], "at least 2"),
        (["--rl.beta=nan"], "not a finite number"),
        (["--seed=-1"], "at least 0"),
        (["--problems.digits=4"], "longer than pretrain.width=52"),
        (["--template=r1-zero"], "raise pretrain.width"),
        (["--pretrain.vocabulary=20"], "needs at least"),
        (["--mesh=8x1", "--pretrain.batch=60"], "does not split over the 8 devices"),
        (["--rl.group=many"], "expected a whole number"),
        (["--mesh=8"], "expected DATAxMODEL"),
        (
            ["--mesh=expert:3", "--pretrain.architecture=deepseek_v3", "--pretrain.num-layers=2"],
            "16 experts do not split over the 3 devices",
        ),
        (
            ["--mesh=16x1", "--rl.prompts=16", "--pretrain.batch=16"],
            "XLA_FLAGS=--xla_force_host_platform_device_count=16",
        ),
        (["--mesh=8x1", "--rl.prompts=3", "--rl.minibatches=1"], "does not split over the 8 devices"),
        (["--base=/nowhere"], "/nowhere does not exist"),
        (["--problems.source=/nowhere.jsonl", "--base=MODEL"], "/nowhere.jsonl"),
        (["--sampling.max-tokens=9999", "--base=MODEL"], "leaves no room"),
        (["--sampling.max-tokens=60", "--base=MODEL"], "together they are beyond the model's context"),
        (["--sampling.temperature=0"], "teaches nothing"),
        (["--template=chat"], "unknown template"),
        (["--rewards", "speed"], "unknown reward"),
        (["--out=/proc/none"], "/proc/none"),
        (["--rl.algorithm=prime"], "rl.reference-every=2: this algorithm keeps the first reference"),
        (["--rl.algorithm=prime", "--rl.reference-every=0", "--rl.group=1"], "at least 2"),
        (
            ["--rl.algorithm=prime", "--rl.reference-every=0", "--rewards", "format", "length"],
            "PRIME learns from the reward accuracy, which is not among the rewards format, length",
        ),
    ],
)
def test_what_cannot_work_ends_in_one_line(flags, message, tmp_path, finished):
    flags = [flag.replace("MODEL", str(finished[0] / "model")) for flag in flags]
    status, _, stderr = run(tmp_path / "run", *flags)
    assert status == 2
    assert len(stderr.strip().splitlines()) == 1 and message in stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gym:chain_sum", "beyond the model's context"),  # a later check: the fixture has a context of 128
        ("gym:word_sorting", "--template=steps asks for a number, but some answers of the problems are not numbers"),
    ],
)
def test_a_template_for_numbers_takes_every_source_whose_answers_are_numbers(source, message, tmp_path):
    flags = [f"--base={FIXTURES / 'llama_tied'}", f"--problems.source={source}", "--problems.train-size=32"]
    more = ["--problems.held-out-size=8", "--template=steps", "--rewards", "accuracy"]
    status, _, stderr = run(tmp_path / "run", *flags, *more, "--dry-run")
    assert status == 2 and message in stderr


def test_programs_may_be_trained_on_from_a_file_of_tests(tmp_path):
    test = "def check(candidate):\n    assert candidate() == 1\n"
    rows = [{"prompt": f"def f{i}():\n", "entry_point": f"f{i}", "test": test} for i in range(8)]
    path = tmp_path / "humaneval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [f"--base={FIXTURES / 'llama_tied'}", f"--problems.source={path}", "--problems.held-out-share=0.5"]
    status, stdout, stderr = run(tmp_path / "run", *flags, "--dry-run", "--rewards", "code")
    assert status == 0 and "r1-zero" in stdout, stderr


def test_preview_shows_prompts_samples_and_rewards_and_stops(finished, tmp_path):
    status, stdout, stderr = run(tmp_path / "run", "--preview", f"--base={finished[0] / 'model'}")
    assert status == 0, stderr
    assert stdout.startswith(f"device: 1 x cpu, weights: {finished[0] / 'model'}, folder: ")
    assert "<think>" in stdout and "accuracy" in stdout and "format" in stdout and "mean rewards" in stdout
    assert not (tmp_path / "run").exists()


@pytest.fixture
def no_update(monkeypatch):
    """Updates that change nothing, so that none is compiled."""
    metrics = {"loss": (np.float32(0), np.float32(1))}
    monkeypatch.setattr("r1jax.rl.step.update", lambda state, *_: (state, metrics, {}))


@pytest.mark.usefixtures("no_update")
def test_a_reward_of_the_users_own_joins_the_two(finished, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from r1jax.rewards import reward\n\n"
        "@reward\ndef brevity(problem, completion):\n    return 1 / completion.tokens\n"
    )
    out = tmp_path / "run"
    flags = [f"--base={finished[0] / 'model'}", "--rewards", f"{file}:brevity=0.5", "--rl.steps=1"]
    status, stdout, stderr = run(out, *flags)
    assert status == 0, stderr
    assert "rewards may stay at 0: see --preview" in " ".join(stdout.split())  # nothing is right or in the format
    (row,) = rows_of(out)
    assert 0 < row["reward_brevity"] <= 1
    assert row["reward"] == pytest.approx(row["reward_accuracy"] + row["reward_format"] + 0.5 * row["reward_brevity"])
    file.write_text(file.read_text() + "\n")
    status, _, stderr = run(out, *flags)
    assert status == 2 and str(file) in stderr and "run with other settings (reward_brevity" in stderr


def test_a_reference_is_replaced_as_often_as_asked(finished, pool, tmp_path):
    """A reference from the previous step is closer than the base model, so k3 is smaller."""
    kept, replaced = (
        short_run("1x1", finished[0], pool, tmp_path / name, steps=3, reference_every=every)[0]
        for name, every in (("kept", 0), ("replaced", 2))
    )
    assert [row["kl"] for row in kept[:2]] == [row["kl"] for row in replaced[:2]]
    assert kept[2]["kl"] > 1e-4 > 1e-8 > abs(replaced[2]["kl"])


@pytest.mark.usefixtures("no_update")
def test_verifiers_end_what_takes_too_long(finished, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import time\n\nfrom r1jax.rewards import reward\n\n"
        "@reward\ndef slow(problem, completion):\n"
        "    time.sleep(1 if completion.tokens % 2 else 0)\n    return 1.0\n"
    )
    out = tmp_path / "run"
    settings = [
        "--verifier.workers=2",
        "--verifier.deadline=0.5",
        "--rl.steps=1",
        "--evaluation.problems=1",
        "--evaluation.samples=2",
    ]
    status, _, stderr = run(out, f"--base={finished[0] / 'model'}", "--rewards", f"{file}:slow", *settings)
    assert status == 0, stderr
    (row,) = rows_of(out)
    assert row["verifier_timeouts"] > 0


def measured(finished, folder, config):
    """The figures of an evaluation of the finished run's export, with the settings of the run except ``config``."""
    small = cli.parse(PRESETS, "tiny", [*SMALL, "--sampling.max-tokens=40", f"--base={finished / 'model'}"])
    (stage,) = (one for one in stages(dataclasses.replace(small, evaluation=config)) if one.name == "evaluation_before")
    with jax.set_mesh(make_mesh("1x1")):
        return stage.function(stage.settings, stage.files, folder)["reasoning"]


def test_without_a_group_with_spread_others_are_sampled_and_nothing_moves(finished, tmp_path):
    """A model this small is never right, so without the length reward all groups have equal rewards."""
    settings = {"steps": 1, "drop_equal_groups": True, "max_resamples": 3}
    with RewardPool(parse_rewards(["accuracy", "format"]), workers=1, deadline=5.0) as pool:
        rows, _, params = short_run("1x1", finished[0], pool, tmp_path / "run", **settings)
    assert rows[0]["rollout_attempts"] == 4 and rows[0]["equal_groups"] == rows[0]["empty_updates"] == 1
    assert rows[0]["skipped_updates"] == 0 and rows[0]["gradient_norm"] is None
    same(params, params_of(finished[0], "model"))


def test_a_run_warns_of_settings_without_effect_and_repeated_problems(finished, pool, tmp_path, monkeypatch):
    """Before its first step, which fails here."""

    def fails(*_):
        raise KeyError("first step")

    monkeypatch.setattr("r1jax.rl.train.rl_step", fails)
    few = {"steps": 1, "prompts": 48, "group": 2, "loss": "cispo"}
    with pytest.warns(UserWarning) as told, pytest.raises(KeyError, match="first step"):
        short_run("1x1", finished[0], pool, tmp_path / "run", **few)
    lines = [str(warning.message) for warning in told]
    assert any("rl.loss=cispo: no effect" in line for line in lines)
    assert any("asks for 48 problems but there are only 40" in line for line in lines)


def test_an_evaluation_has_the_problems_samples_and_temperature_asked_for(finished, tmp_path):
    cold = EvaluationConfig(problems=6, samples=4, temperature=1e-6)
    warm = dataclasses.replace(cold, temperature=1.0)
    figures = [measured(finished[0], tmp_path, config) for config in (cold, warm)]
    for f in figures:
        assert (set(f["pass_at"]), f["n_problems"], f["samples_per_problem"]) == ({1, 2, 3, 4}, 6, 4)
    lengths = [f["mean_length"] * 6 for f in figures]  # without heat the four samples of a prompt are one
    assert lengths[0] == pytest.approx(round(lengths[0]), abs=1e-6) != lengths[1]


def test_an_evaluation_in_parts_shows_progress_and_finds_the_same(finished, tmp_path, monkeypatch, capsys):
    config = EvaluationConfig(problems=6, samples=4)
    whole = measured(finished[0], tmp_path, config)
    assert " 0/24\n" in capsys.readouterr().err
    monkeypatch.setattr("r1jax.evaluation.evaluate._PART_SEQUENCES", 8)
    monkeypatch.setattr("r1jax.training.progress.LINE_SECONDS", 0.0)
    parts = measured(finished[0], tmp_path, config)
    shown = [line.split("  ")[0].rpartition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert shown == [f"{done}/24" for done in (0, 8, 16, 24)]
    assert parts == whole


def test_every_preset_is_consistent():
    for name, (line, config) in PRESETS.items():
        assert line and config.rl.minibatch % config.rl.microbatch_size == 0, name
    published = PRESETS["r1-zero"][1]
    assert published.rl.sequences == 8192 and published.rl.minibatch == 512 and published.rl.learning_rate == 3e-6
    assert published.sampling.max_tokens == 32_768 and published.rl.algorithm.beta == 0.001


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("r1-zero", {}, "--problems.source=gym:gsm_symbolic needs another --base"),
        ("r1-zero", {}, "give --base=FOLDER"),
        ("tiny", {"terms": 3}, "--problems.terms=3 needs another --base"),
        ("tiny", {"source": "nope.jsonl"}, "no file nope.jsonl: give --problems.source"),
        ("r1-zero", {"held_out_source": "nope.parquet"}, "no file nope.parquet: give --problems.held-out-source"),
        ("tiny", {"source": "arithmetics"}, "problems from 'arithmetics': write arithmetic"),
    ],
)
def test_problems_that_a_model_cannot_be_made_for_name_the_flag_that_mends_it(preset, changes, message):
    config = PRESETS[preset][1]
    with pytest.raises(UserError) as error:
        check(dataclasses.replace(config, problems=dataclasses.replace(config.problems, **changes)))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_small_base_of_the_notebooks_is_that_of_the_tiny_preset():
    own, small = stages(PRESETS["tiny"][1])[0], small_base_stage()
    assert (small.name, small.function, small.settings) == (own.name, own.function, own.settings)
    assert small_base_stage(steps=3, seed=5).settings == dataclasses.replace(
        own.settings, seed=5, pretrain=dataclasses.replace(own.settings.pretrain, steps=3)
    )


def test_evaluations_survive_json(finished):
    figures = json.loads((finished[0] / "evaluation_before" / "manifest.json").read_text())["figures"]
    evaluation = Evaluation.from_json(figures["reasoning"])
    assert json.loads(json.dumps(dataclasses.asdict(evaluation))) == figures["reasoning"]
    assert set(evaluation.pass_at) == set(range(1, 9))


@pytest.mark.parametrize("words", [["--base", "smollm2"], ["--seed=3", "--base=smollm2"]])
def test_a_base_selects_its_preset(words):
    assert default_preset(words) == "smollm2"
    assert default_preset(["--seed=3"]) == default_preset(["--base=smollm2-of-mine"]) == "tiny"
