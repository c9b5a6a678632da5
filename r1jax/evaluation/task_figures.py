"""Judgement of the samples of a task, and its figures."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.evaluation.evaluate import accuracy_by_kind, problem_hash
from r1jax.evaluation.records import Record, append_records
from r1jax.evaluation.summary import Evaluation, Outcomes, shown_ks, summarise
from r1jax.evaluation.task_samples import Drawn
from r1jax.evaluation.voting import vote_classes
from r1jax.rewards import Completion
from r1jax.rewards.scores import FULL_SCORE, Scorer
from r1jax.training.progress import ProgressBar

_PROGRAM = Template("program", "{question}", prefill="", tags=False)  # of a text that is a program


def judge_samples(
    drawn: Iterable[list[Drawn]],
    problems: Sequence[Problem],
    template: Template,
    scorer: Scorer,
    path: Path,
    name: str,
    total: int,
    done: int,
) -> None:
    """Judges samples and appends them to the file of records, while the next ones are drawn.

    scorer: its rewards include "accuracy". name, total, done: of the progress bar, in samples. A warning counts the
    answers that were not judged before the deadline, which are wrong.
    """

    def judge(part: list[Drawn]) -> int:
        asked = [problems[one.place[0]] for one in part]
        scores = scorer.score(asked, [_judged(*pair) for pair in zip(asked, part, strict=True)])
        values = scores.values[:, scores.names.index("accuracy")]
        append_records(path, [_record(one, float(v), template) for one, v in zip(part, values, strict=True)])
        return scores.timeouts + scores.crashes

    lost, tokens, began = 0, 0, time.perf_counter()
    pending: Future[int] | None = None
    with ProgressBar(name, total, done) as progress, ThreadPoolExecutor(1) as judging:
        progress.update(done, {})
        for part in drawn:
            if pending is not None:
                lost += pending.result()
            pending = judging.submit(judge, part)
            done, tokens = done + len(part), tokens + sum(one.completion.tokens for one in part)
            progress.update(done, {"tokens_per_second": tokens / (time.perf_counter() - began)} if tokens else {})
        lost += pending.result() if pending is not None else 0
    if lost:
        warnings.warn(
            f"{name}: {lost} answers were not judged before the deadline and count as wrong: to judge them again, "
            "raise --verifier.deadline and add --force",
            stacklevel=2,
        )


def task_evaluation(
    problems: Sequence[Problem], records: Sequence[Record], samples: int, scorer: Scorer, seed: int, votes: bool
) -> Evaluation:
    """The Evaluation of all records of a task, in the order of problems and samples.

    votes: compute maj@k, by classes of equivalent answers; for programs there are none. The samples that are readable
    are those in the form of the task. seed: of the bootstrap.
    """
    P = len(problems)

    def table(values: Sequence[object]) -> np.ndarray:
        return np.asarray(values).reshape(P, samples)

    correct = table([record.correct for record in records])
    answers = [[record.answer for record in records[i * samples : (i + 1) * samples]] for i in range(P)]
    surprisals = [record.surprisal for record in records]
    well_formed = table([record.well_formed for record in records])
    outcomes = Outcomes(
        votes=vote_classes(problems, answers, correct, scorer) if votes and samples > 1 else None,
        correct=correct,
        well_formed=well_formed,
        readable=well_formed,
        lengths=table([record.tokens or 0 for record in records]),
        truncated=table([not record.finished for record in records]),
        rewards={"accuracy": table([record.score for record in records])},
        surprisals=None if None in surprisals else table(surprisals),
    )
    by_kind = accuracy_by_kind(problems, correct)
    hashes = [problem_hash(problem) for problem in problems]
    return summarise(hashes, outcomes, by_kind, shown_ks(samples), seed)


def _judged(problem: Problem, one: Drawn) -> Completion:
    """The completion that the scorer judges; of one for a code problem the program alone, without the reasoning."""
    if problem.checker != "code":
        return one.completion
    return dataclasses.replace(one.completion, text=one.completion.answer or "", template=_PROGRAM)


def _record(one: Drawn, score: float, template: Template) -> Record:
    completion = one.completion
    return Record(
        problem=one.place[0],
        sample=one.place[1],
        completion=completion.text,
        answer=completion.answer,
        correct=score > FULL_SCORE,
        score=score,
        well_formed=template.well_formed(completion.text),
        tokens=one.tokens,
        finished=completion.finished,
        surprisal=one.surprisal,
    )
