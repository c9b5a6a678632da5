"""A task of experiments/evaluate.py as a stage: samples of each problem, judged, and their figures."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from r1jax.data.problems.problem import Problem
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.evaluation.endpoint import Endpoint
from r1jax.evaluation.evaluate import problem_hash
from r1jax.evaluation.records import FILE, read_records, sort_records
from r1jax.evaluation.task_figures import judge_samples, task_evaluation
from r1jax.evaluation.task_samples import Drawn, Place, endpoint_samples, model_samples
from r1jax.evaluation.tasks.prompts import TaskTemplate, task_template
from r1jax.evaluation.tasks.sources import Source, read_source
from r1jax.evaluation.tasks.table import find_task, for_problems
from r1jax.evaluation.tasks.task import Task
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.loading import load_model
from r1jax.recipe.reasoning_rl import rule_rewards
from r1jax.rewards.config import VerifierConfig
from r1jax.sampling.processors import Sampling
from r1jax.seeds import stage_key, stage_seed
from r1jax.settings import may_change, may_rise

PROBLEMS = "problems.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSettings(ComputeOptions):
    """Settings of the evaluation of one task.

    problems: problems_hash of the problems, which may come from another place on resume, but not be others.
    endpoint: the server that is asked; None for a model on this machine, the input "model".
    chat: the prompt is the task's own for chat models; otherwise it is plain text.
    """

    task: str
    problems: str
    limit: int | None
    samples: int = may_rise(1)
    template: str | None
    chat: bool
    sampling: Sampling
    seed: int
    endpoint: Endpoint | None = None
    source: Source = may_change(Source())
    batch: int = may_change(512)
    concurrency: int = may_change(16)
    verifier: VerifierConfig = VerifierConfig()


def problems_hash(problems: Sequence[Problem]) -> str:
    """Identifies a list of problems by its content."""
    return hashlib.blake2b(" ".join(map(problem_hash, problems)).encode(), digest_size=8).hexdigest()


def template_of(task: Task, chat: bool, named: str | None) -> TaskTemplate:
    """The template of a task; arguments and errors as in task_template."""
    return task_template(task.form, task.request, chat, named)


def stage_name(task: str) -> str:
    """The name of a task's stage and folder."""
    return task.replace(":", "-")


def task_stage(settings: TaskSettings, inputs: Inputs, folder: Path) -> Figures:
    """Samples the problems of a task and judges the completions; writes problems.jsonl and completions.jsonl.

    Figures: evaluation, an Evaluation; samples, tokens and seconds of this process; counted, False if an endpoint does
    not count tokens; finished, the date.
    """
    began, task = time.perf_counter(), find_task(settings.task)
    problems = read_source(task, settings.source, settings.limit)
    if problems_hash(problems) != settings.problems:
        raise UserError(f"the problems of {task.name} have changed since the command started: run it again")
    task = for_problems(task, problems)
    template = template_of(task, settings.chat, settings.template)
    rows = ({"id": problem_hash(p), "prompt": template.question(p), **dataclasses.asdict(p)} for p in problems)
    write_whole(folder / PROBLEMS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    path, total = folder / FILE, len(problems) * settings.samples
    done = {record.place for record in read_records(path)}
    with rule_rewards(("accuracy",), (), settings.verifier) as pool:
        if len(done) < total:
            drawn = _samples(settings, inputs, problems, template, done)
            judge_samples(drawn, problems, template, pool, path, task.name, total, len(done))
        records = sort_records(path, read_records(path))
        evaluation = task_evaluation(
            problems, records, settings.samples, pool, settings.seed, votes=task.form != "code"
        )
    return {
        "evaluation": dataclasses.asdict(evaluation),
        "samples": total - len(done),
        "tokens": sum(record.tokens or 0 for record in records if record.place not in done),
        "seconds": time.perf_counter() - began,
        "counted": all(record.tokens is not None for record in records),
        "finished": datetime.datetime.now().isoformat(timespec="seconds"),
    }


def _samples(
    settings: TaskSettings, inputs: Inputs, problems: Sequence[Problem], template: TaskTemplate, done: Collection[Place]
) -> Iterator[list[Drawn]]:
    stream = ("evaluate", settings.task)
    if settings.endpoint is not None:
        seed = stage_seed(settings.seed, *stream)
        return endpoint_samples(
            settings.endpoint, problems, template, settings.sampling, settings.samples, settings.concurrency, seed, done
        )
    model = load_model(inputs["model"], settings, settings.dtype)
    key = stage_key(settings.seed, *stream)
    return model_samples(model, problems, template, settings.sampling, settings.samples, settings.batch, key, done)
