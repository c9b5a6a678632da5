"""Results of evaluations in the layout of lm-evaluation-harness, for programs that read it.

A folder MODEL holds ``results_DATE.json`` and ``samples_TASK_DATE.jsonl``, DATE being that of the last finished task.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.disk import write_whole
from r1jax.evaluation.records import FILE, Record, read_records
from r1jax.report.finished_evaluations import ModelResults, TaskResult

_FILTER = "none"
_VERSION = 1  # of the tasks as they are defined here, which are not those of the harness


def write_harness(results: ModelResults, out: Path) -> None:
    """Writes the layout of one model into ``out``/MODEL, whose earlier files are replaced."""
    finished = max(one.figures["finished"] for one in results.tasks.values())
    date = finished.replace(":", "-")
    folder = out / re.sub(r"[\"<>:/|\\?*\[\]]+", "__", results.name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    hashes: dict[str, str] = {}
    for task, one in _by_name(results).items():
        rows = list(_samples(one))
        hashes[task] = _hash("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(folder / f"samples_{task}_{date}.jsonl", "".join(lines))
    content = {**_aggregated(results, finished), "task_hashes": hashes}
    write_whole(folder / f"results_{date}.json", json.dumps(content, indent=2) + "\n")


def _by_name(results: ModelResults) -> dict[str, TaskResult]:
    """The tasks by names that can be part of the name of a file, by which the files and the figures of a task match."""
    return {re.sub(r"[^A-Za-z0-9_]", "-", task): one for task, one in results.tasks.items()}


def _aggregated(results: ModelResults, finished: str) -> dict[str, Any]:
    """The content of results_DATE.json without the hashes of the tasks."""
    tasks, made_by = _by_name(results), results.made_by
    last = list(tasks.values())[-1]
    endpoint = last.settings["endpoint"]
    source = "local-chat-completions" if endpoint else "r1jax"
    arguments = f"model={results.name}" + (f",base_url={endpoint['url']}" if endpoint else "")
    seconds = sum(one.figures["seconds"] for one in tasks.values())
    return {
        "results": {task: {"alias": one.task, **_metrics(one)} for task, one in tasks.items()},
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: _config(one) for task, one in tasks.items()},
        "versions": dict.fromkeys(tasks, _VERSION),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: dict.fromkeys(_by_problem(one), True) for task, one in tasks.items()},
        "n-samples": {
            task: {"original": one.evaluation.n_problems, "effective": one.evaluation.n_problems}
            for task, one in tasks.items()
        },
        "config": {
            "model": source,
            "model_args": arguments,
            "batch_size": last.settings["batch"],
            "device": made_by.get("device"),
            "limit": last.settings["limit"],
            "bootstrap_iters": 0,
            "gen_kwargs": _generation(last),
            "random_seed": last.settings["seed"],
        },
        "git_hash": None,
        "date": datetime.fromisoformat(finished).timestamp(),
        "pretty_env_info": ", ".join(
            f"{name} {made_by[name]}" for name in ("python", "r1jax", "jax") if name in made_by
        ),
        "model_source": source,
        "model_name": results.name,
        "model_name_sanitized": re.sub(r"[\"<>:/|\\?*\[\]]+", "__", results.name),
        "system_instruction": None,
        "chat_template": None,
        "total_evaluation_time_seconds": str(seconds),
    }


def _metric(one: TaskResult) -> str:
    """The name of pass@1: programs pass tests, other answers match."""
    return "pass@1" if not one.evaluation.maj_at and _is_code(one) else "exact_match"


def _is_code(one: TaskResult) -> bool:
    with (one.folder / "problems.jsonl").open(encoding="utf-8") as file:
        return json.loads(file.readline())["checker"] == "code"


def _by_problem(one: TaskResult) -> Mapping[str, tuple[float, ...]]:
    """Metric -> its value for each problem."""
    n, values = one.evaluation.samples_per_problem, one.evaluation.by_problem
    found = {_metric(one): values["pass_at_1"]}
    if n > 1:
        found[f"pass@{n}"] = values[f"pass_at_{n}"]
        if f"maj_at_{n}" in values:
            found[f"maj@{n}"] = values[f"maj_at_{n}"]
    return found


def _metrics(one: TaskResult) -> dict[str, float | str]:
    """METRIC,none -> mean over problems, and METRIC_stderr,none -> its standard error; "N/A" for one problem."""
    found: dict[str, float | str] = {}
    for name, values in _by_problem(one).items():
        found[f"{name},{_FILTER}"] = float(np.mean(values))
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else "N/A"
        found[f"{name}_stderr,{_FILTER}"] = error
    return found


def _config(one: TaskResult) -> dict[str, Any]:
    settings = one.settings
    return {
        "task": one.task,
        "dataset_path": settings["source"]["rows"] or ", ".join(settings["source"]["files"]) or one.task,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "repeats": settings["samples"],
        "generation_kwargs": _generation(one),
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in _by_problem(one)],
        "metadata": {"version": _VERSION, "template": settings["template"], "problems": settings["problems"]},
    }


def _generation(one: TaskResult) -> dict[str, Any]:
    sampling = one.settings["sampling"]
    return {
        "do_sample": sampling["temperature"] > 0,
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "max_gen_toks": sampling["max_tokens"],
    }


def _samples(one: TaskResult) -> Iterator[dict[str, Any]]:
    """A row for each problem, with all of its completions."""
    n, metrics = one.evaluation.samples_per_problem, _by_problem(one)
    records = read_records(one.folder / FILE)
    arguments = _generation(one)
    with (one.folder / "problems.jsonl").open(encoding="utf-8") as file:
        for at, line in enumerate(file):
            problem = json.loads(line)
            own: list[Record] = records[at * n : (at + 1) * n]
            prompt, target = problem["prompt"], problem["answer"]
            yield {
                "doc_id": at,
                "doc": problem,
                "target": target,
                "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": arguments}},
                "resps": [[record.completion for record in own]],
                "filtered_resps": [record.answer or "" for record in own],
                "filter": _FILTER,
                "metrics": list(metrics),
                "doc_hash": _hash(line),
                "prompt_hash": _hash(prompt),
                "target_hash": _hash(target),
                **{name: values[at] for name, values in metrics.items()},
            }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
