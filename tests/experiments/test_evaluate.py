"""experiments/evaluate.py: scores, resuming, comparison, and one line for each wrong input."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import socket

import numpy as np
import pytest

from experiments.evaluate import Config, names_of
from r1jax.errors import UserError
from r1jax.evaluation.summary import Evaluation
from r1jax.recipe import task_evaluation
from r1jax.report import task_evaluation as report
from r1jax.report.finished_evaluations import read_evaluation
from r1jax.report.harness import write_harness
from r1jax.rewards.checkers import check
from r1jax.rewards.code import isolation
from r1jax.rewards.rules import accuracy
from r1jax.rewards.scores import Scores
from tests.helpers.chat_server import chat_server, reply
from tests.helpers.commands import call
from tests.helpers.paths import FIXTURES

MODEL = FIXTURES / "llama_tied"
LOCAL = ["--tasks", "arithmetic", "--template", "think", "--sampling.max-tokens", "8", "--verifier.workers", "1"]
SMALL = [*LOCAL, "--limit", "6", "--samples", "2", "--batch", "4"]

# Question -> (right answer, completions).
SERVED = {
    "A": ("4", [r"So \boxed{4}.", "The answer is 4.", r"\boxed{4.0}", "#### 4"]),
    "B": ("1004", [r"\boxed{1,004}", r"\boxed{7}", r"<think>\boxed{1}</think>\boxed{1004}", r"\boxed{7}"]),
    "C": ("3", [r"\boxed{3}", r"\boxed{5}", r"\boxed{6}", r"\boxed{8}"]),
    "D": ("9", [r"\boxed{9}", r"\boxed{0.5}", r"\boxed{1/2}", "I do not know."]),
}


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def evaluation(folder, task):
    manifest = json.loads((folder / task / "manifest.json").read_text())
    return Evaluation.from_json(manifest["figures"]["evaluation"])


def gsm8k(folder):
    lines = [json.dumps({"question": q, "answer": f"...\n#### {answer}"}) for q, (answer, _) in SERVED.items()]
    folder.mkdir(exist_ok=True)
    (folder / "gsm8k.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def ok(*arguments):
    status, out, err = call("evaluate.py", *arguments)
    assert status == 0, err
    return out


def refused(*arguments):
    status, _, err = call("evaluate.py", *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert status == 2 and len(lines) == 1, err
    return lines[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The folder of a model that a server plays with the completions of SERVED, in their order."""
    folder = tmp_path_factory.mktemp("served")
    left = {question: iter(completions) for question, (_, completions) in SERVED.items()}

    def answer(body):
        text = next(left[body["messages"][-1]["content"].partition("\n")[0]])
        return reply(text, finish="length" if "know" in text else "stop")

    data = gsm8k(folder / "data")
    with chat_server(answer) as (url, received):
        out = ok(
            *("--endpoint", url, "--model", "org/served", "--tasks", "gsm8k", "--data", data, "--out", folder / "out"),
            *("--samples", "4", "--concurrency", "1", "--verifier.workers", "1"),
        )
    return folder / "out", received, out


class Judge:
    """Stands in for the pool of worker processes, whose start takes longer than all else here."""

    names = ("accuracy",)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def score(self, problems, completions):
        values = np.array([[accuracy(*pair)] for pair in zip(problems, completions, strict=True)], np.float32)
        return Scores(values, values[:, 0], self.names, 0, 0)

    def check(self, problems, answers):
        return np.array([check(*pair) for pair in zip(problems, answers, strict=True)], np.float32)


@pytest.fixture(scope="module")
def quick(served):
    """Commands after ``served``, which has run as users run it, judge in this process and draw nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_evaluation, "rule_rewards", lambda *settings: Judge())
        for name in ("plot_tasks", "plot_tasks_at_k"):
            patch.setattr(report, name, lambda found, path, title: path.write_bytes(b""))
        yield


def evaluated(folder, seed):
    ok("--model", MODEL, *SMALL, "--seed", seed, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory, quick):
    """The output folder of a finished evaluation of a tiny model."""
    return evaluated(tmp_path_factory.mktemp("local") / "seed0", 0)


@pytest.fixture(scope="module")
def other_seed(tmp_path_factory, quick):
    """The same with another seed."""
    return evaluated(tmp_path_factory.mktemp("other") / "seed1", 1)


def test_the_scores_of_known_completions_are_those_worked_out_by_hand(served) -> None:
    out, received, _ = served
    found = evaluation(out / "served", "gsm8k")
    assert found.by_problem["pass_at_1"] == (1, 0.5, 0.25, 0.25)
    assert found.by_problem["pass_at_2"] == pytest.approx((1, 5 / 6, 1 / 2, 1 / 2))
    assert found.by_problem["pass_at_4"] == (1, 1, 1, 1)
    # B ties with one other answer, C with three; in D 0.5 and 1/2 are one answer with two votes.
    assert found.by_problem["maj_at_4"] == (1, 1 / 2, 1 / 4, 0)
    assert found.pass_at[1] == 0.5 and found.truncated_share == 1 / 16 and found.mean_length == 5
    assert found.format_rate == 13 / 16 and found.entropy is None
    (asked,) = {json.dumps({name: body[name] for name in ("temperature", "top_p", "max_tokens")}) for body in received}
    assert json.loads(asked) == {"temperature": 0.6, "top_p": 0.95, "max_tokens": 32768}
    assert len({(body["messages"][0]["content"], body["seed"]) for body in received}) == 16
    assert received[0]["messages"][0]["content"].endswith(r"put your final answer within \boxed{}.")


def test_the_report_has_the_figures_pictures_and_settings(served) -> None:
    folder, printed = served[0] / "served", served[2]
    summary = json.loads((folder / "summary.json").read_text())["tasks"]["gsm8k"]
    assert summary["pass_at_1"] == 0.5 and summary["maj_at_4"] == pytest.approx(0.4375)
    page = (folder / "report.md").read_text()
    assert re.search(r"\| gsm8k \| 4 \| 4 \| 50\.0 \[[\d., ]+\] \| 100\.0", page)
    assert r"So \boxed{4}." in page and "answer '4', expected '4': right" in page
    assert (folder / "report.html").read_text().count("data:image/png") == 2
    assert "gsm8k" in printed and "50.0" in printed


def test_the_layout_of_lm_evaluation_harness_holds_the_same_figures(served) -> None:
    folder = served[0] / "lm-eval" / "served"
    (results,) = folder.glob("results_*.json")
    (samples,) = folder.glob("samples_gsm8k_*.jsonl")
    date = results.stem.removeprefix("results_")
    assert samples.stem == f"samples_gsm8k_{date}" and re.fullmatch(r"[\d-]+T[\d-]+", date)
    content = json.loads(results.read_text())
    figures = content["results"]["gsm8k"]
    assert figures["alias"] == "gsm8k" and figures["exact_match,none"] == 0.5
    # The standard deviation of 1, 1/2, 1/4, 1/4 over the square root of 4.
    assert figures["exact_match_stderr,none"] == pytest.approx((0.375 / 3) ** 0.5 / 2)
    assert content["n-samples"]["gsm8k"] == {"original": 4, "effective": 4}
    assert content["versions"].keys() == content["configs"].keys() == content["n-shot"].keys() == {"gsm8k"}
    assert content["configs"]["gsm8k"]["repeats"] == 4
    lines = rows(samples)
    assert [line["doc_id"] for line in lines] == [0, 1, 2, 3]
    assert [line["exact_match"] for line in lines] == [1, 0.5, 0.25, 0.25]
    assert lines[3]["resps"] == [SERVED["D"][1]]
    assert lines[3]["filtered_resps"] == ["9", "0.5", "1/2", ""] and lines[3]["target"] == "9"
    assert lines[0]["arguments"]["gen_args_0"]["arg_0"].startswith("A\n")


def test_the_name_of_a_task_is_the_same_in_files_and_figures_of_the_harness(served, tmp_path) -> None:
    found = read_evaluation(served[0] / "served")
    task = dataclasses.replace(found.tasks["gsm8k"], task="gym:gsm_symbolic")
    write_harness(dataclasses.replace(found, tasks={task.task: task}), tmp_path)
    (samples,) = tmp_path.glob("served/samples_*.jsonl")
    (results,) = tmp_path.glob("served/results_*.json")
    content = json.loads(results.read_text())
    # The name stands between the first "_" and the last one.
    name = samples.name.removeprefix("samples_").rpartition("_")[0]
    assert name == "gym-gsm_symbolic" and content["results"][name]["alias"] == "gym:gsm_symbolic"
    assert all(name in content[part] for part in ("configs", "versions", "n-shot", "n-samples", "task_hashes"))


def test_an_endpoint_that_fails_half_way_goes_on_where_it_stopped(served, quick, tmp_path) -> None:
    reference = served[0] / "served" / "gsm8k" / "completions.jsonl"
    left = {question: list(completions) for question, (_, completions) in SERVED.items()}
    answered = 0

    def answer(body):
        nonlocal answered
        answered += 1
        if answered == 7:
            return 401, {"error": {"message": "expired"}}, {}
        return reply(left[body["messages"][-1]["content"].partition("\n")[0]].pop(0))

    data = gsm8k(tmp_path / "data")
    flags = ["--model", "org/served", "--tasks", "gsm8k", "--data", data, "--out", tmp_path / "out", "--samples", "4"]
    with chat_server(answer) as (url, received):
        flags += ["--endpoint", url, "--concurrency", "1", "--verifier.workers", "1"]
        assert "needs an API key: set OPENAI_API_KEY (status 401: expired)" in refused(*flags)
        path = tmp_path / "out" / "served" / "gsm8k" / "completions.jsonl"
        assert len(rows(path)) == 6
        ok(*flags, "--retries", "7", "--timeout", "30")  # as the message of a failure may advise
    assert len(received) == 17
    unlike = [  # the server of the fixture cuts one completion
        (a, b) for a, b in zip(rows(path), rows(reference), strict=True) if a != b
    ]
    assert [a["completion"] for a, _ in unlike] == ["I do not know."]


def test_more_samples_continue_a_finished_task(quick, tmp_path) -> None:
    data = gsm8k(tmp_path / "data")
    with chat_server(lambda body: reply(r"\boxed{4}", tokens=None)) as (url, received):
        flags = ["--endpoint", url, "--model", "m", "--tasks", "gsm8k", "--data", data, "--out", tmp_path, "--limit", 3]
        ok(*flags, "--samples", 2)
        out = ok(*flags, "--samples", 3, "--concurrency", 4)
    assert "gsm8k: continues (samples was 2, now 3)" in out and len(received) == 9
    found = rows(tmp_path / "m" / "gsm8k" / "completions.jsonl")
    assert [(row["problem"], row["sample"]) for row in found] == [(i, j) for i in range(3) for j in range(3)]
    assert {row["tokens"] for row in found} == {None}
    assert "mean_length" not in json.loads((tmp_path / "m" / "summary.json").read_text())["tasks"]["gsm8k"]


@pytest.mark.parametrize("kept", [0.13, 0.6, 0.99])
def test_a_killed_evaluation_goes_on_and_gives_the_same_files(local, tmp_path, kept) -> None:
    """The state after a kill is the record of the stage and a part of the completions, whose last line may be cut."""
    folder = shutil.copytree(local, tmp_path / "out") / "llama_tied"
    whole = (folder / "arithmetic" / "completions.jsonl").read_bytes()
    assert len(whole.splitlines()) == 12
    before = evaluation(folder, "arithmetic")
    (folder / "arithmetic" / "completions.jsonl").write_bytes(whole[: int(kept * len(whole))])
    (folder / "arithmetic" / "manifest.json").unlink()
    assert "arithmetic: resumes" in ok("--model", MODEL, *SMALL, "--out", tmp_path / "out")
    assert (folder / "arithmetic" / "completions.jsonl").read_bytes() == whole
    assert evaluation(folder, "arithmetic") == before
    summary, old = (json.loads((one / "llama_tied" / "summary.json").read_text()) for one in (tmp_path / "out", local))
    for one in (summary, old):
        one["tasks"]["arithmetic"].pop("seconds")
        one["made_by"].pop("command")
    assert summary == old


def texts(out):
    found = rows(out / "llama_tied" / "arithmetic" / "completions.jsonl")
    return {(row["problem"], row["sample"]): row["completion"] for row in found}


def test_a_sample_depends_on_seed_task_problem_and_number_alone(local, other_seed, tmp_path) -> None:
    """Not on the number of problems and samples, the batch and the devices."""
    first = texts(local)
    flags = [*LOCAL, "--limit", "4", "--samples", "3", "--batch", "64", "--mesh", "2x1"]
    ok("--model", MODEL, *flags, "--out", tmp_path)
    second = texts(tmp_path)
    shared = first.keys() & second.keys()
    assert len(shared) == 8 and len(second) == 12
    assert {place: first[place] for place in shared} == {place: second[place] for place in shared}
    assert len({second[0, i] for i in range(3)}) > 1
    assert texts(other_seed).keys() == first.keys() and texts(other_seed) != first


def test_a_finished_task_is_skipped_and_another_setting_refused(local) -> None:
    flags = ["--model", MODEL, *SMALL, "--out", local]
    assert "is finished" in ok(*flags, "--batch", "8", "--verifier.workers", "2")
    assert "run with other settings (sampling.temperature was 0.6, now 0.9): --force" in refused(
        *flags, "--sampling.temperature", "0.9"
    )
    message = refused(*flags[:-2], "--limit", "5", "--out", local)
    assert "limit was 6, now 5" in message
    assert "arithmetic" in ok(*flags, "--dry-run")


def test_evaluations_are_compared_problem_by_problem(local, other_seed, served, tmp_path) -> None:
    # The files and the folder lm-eval beside the first model are left out, as when a shell writes OUT/* in full.
    out = ok("--compare", *sorted(local.iterdir()), other_seed / "llama_tied", "--out", tmp_path)
    assert "seed1/llama_tied -" in out
    summary = json.loads((tmp_path / "summary.json").read_text())
    names = ("seed0/llama_tied", "seed1/llama_tied")
    change = summary[f"changes from {names[0]}"][names[1]]["arithmetic"]["pass_at_1"]
    first, second = (summary["models"][name]["arithmetic"]["pass_at_1"] for name in names)
    assert change["value"] == pytest.approx(second - first)
    page = (tmp_path / "report.md").read_text()
    assert "| arithmetic | " in page
    assert "Other settings: arithmetic, seed0/llama_tied and seed1/llama_tied: seed 0 and 1" in page
    assert "no task was finished by all models" in refused("--compare", local / "llama_tied", served[0] / "served")


def test_models_of_one_name_get_folders_of_their_own() -> None:
    assert names_of(["runs/a", "smollm2"]) == ["a", "smollm2"]
    assert names_of(["runs/a/model", "runs/b/model"]) == ["a-model", "b-model"]
    assert names_of(["models/a.gguf"]) == ["a"]
    assert names_of([str(FIXTURES / "qwen2" / "..")]) == ["fixtures"]
    with pytest.raises(UserError, match="names a model twice"):
        names_of(["a", "a"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--tasks gsm8k", "no model: give --model"),
        ("--model MODEL", "no tasks: give --tasks some of gsm8k"),
        ("--model MODEL --tasks aime42", "unknown task 'aime42': did you mean aime24"),
        ("--model MODEL --tasks gsm8k --data TMP", "no file of gsm8k in TMP .*`hf download openai/gsm8k"),
        ("--model MODEL --tasks math500 --data math500=TMP/empty.jsonl", "holds no problems of math500"),
        ("--model MODEL --tasks math500 --data math500=TMP/other.jsonl", "line 1: no column 'problem'"),
        ("--model TMP/none --tasks arithmetic", "TMP/none does not exist"),
        ("--model MODEL --tasks arithmetic --template thinks", "unknown template 'thinks'"),
        ("--model MODEL --tasks arithmetic --sampling.temperature 0", "add --samples=1"),
        ("--model MODEL --tasks arithmetic --samples 0", "--samples=0 must be at least 1"),
        ("--model MODEL --tasks arithmetic --sampling.max-tokens 999", "the context of MODEL, 128 tokens: at most"),
        ("--model MODEL --tasks arithmetic --template r1-zero", "do not fit the context .* leave the task out"),
        ("--model m --endpoint localhost:1 --tasks arithmetic", "write an address such as http"),
        ("--model m --endpoint DOWN --tasks arithmetic --retries 0", "DOWN cannot be reached .*: check --endpoint"),
        ("--model m --endpoint DOWN --tasks arithmetic --template think", "--template=think is plain text"),
        ("--compare TMP", "--compare needs two folders or more"),
        ("--compare TMP TMP/none", "TMP holds no finished task"),
        ("--compare TMP TMP/empty.jsonl", "TMP holds no finished task"),
        ("--compare TMP TMP --model MODEL", "leave out --model"),
    ],
)
def test_a_wrong_input_is_one_line(flags, message, tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "other.jsonl").write_text('{"q": 1}\n')
    with socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))  # a port without a server
        places = {"TMP": tmp_path, "MODEL": MODEL, "DOWN": f"http://127.0.0.1:{idle.getsockname()[1]}"}
        for name, place in places.items():
            flags, message = flags.replace(name, str(place)), message.replace(name, re.escape(str(place)))
        out = [] if flags.startswith("--compare") else ["--out", tmp_path / "out"]
        assert re.search(message, refused(*flags.split(), *out))


def test_a_level_of_isolation_that_is_missing_is_one_line_before_device_work(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(isolation, "missing", lambda level: f"no {level} here")
    row = {"prompt": "def f():\n", "entry_point": "f", "test": "def check(g):\n    assert g() == 1\n"}
    (tmp_path / "code.jsonl").write_text(json.dumps(row))
    flags = ["--model", MODEL, "--out", tmp_path / "out", "--code.isolation", "bwrap"]
    task = ["--tasks", "humaneval", "--data", f"humaneval={tmp_path}/code.jsonl", "--template", "number"]
    line = refused(*flags, *task)
    assert "code.isolation=bwrap does not work here (no bwrap here)" in line
    assert not (tmp_path / "out").exists()
    ok(*flags, *SMALL, "--dry-run")  # no task has programs


# Each flag of the command, and the test file where changing it changes something.
TESTED = {
    "experiments/test_evaluate.py": """model tasks data out compare samples limit template seed endpoint concurrency
        retries batch mesh force dry_run verifier problems sampling""",
    "evaluation/test_endpoint.py": "timeout",
    "experiments/test_settings_have_effect.py": "dtype attention",
}


def test_every_flag_is_tested_where_it_says() -> None:
    named = [name for names in TESTED.values() for name in names.split()]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(Config))
