"""Artificial evaluations and metrics."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from r1jax.evaluation.summary import Outcomes, summarise
from r1jax.report.recipe_tables import evaluated_model


def evaluation(correct, language=1.0, readable=True, length=10, samples=4, names="abcde", **rewards):
    """The figures of an evaluation stage: 5 problems, with this share of right samples."""
    right = np.arange(5 * samples).reshape(5, samples) < round(5 * samples * correct)
    ones = np.ones((5, samples), bool)
    outcomes = Outcomes(
        votes=np.where(right, 0, 1),
        correct=right,
        well_formed=ones,
        readable=ones if readable else ~ones,
        lengths=ones * length,
        truncated=~ones,
        rewards={name: ones * value for name, value in {"language": language, **rewards}.items()},
    )
    found = summarise(list(names), outcomes, {"sum": correct}, ks=range(1, samples + 1), seed=0)
    return json.loads(json.dumps(dataclasses.asdict(found)))


def figures(correct, general=0.5, **more):
    answers = [{"question": "2|2?", "answer": "4", "completion": "<think>`x`</think>\n4", "correct": correct > 0.5}]
    return {
        "reasoning": evaluation(correct, **more),
        "general": evaluation(general, helpfulness=0.25),
        "reasoning_completions": answers,
        "general_completions": [],
    }


def model(label, correct, made=(), **more):
    return evaluated_model(label, figures(correct, **more), made)


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line]


def row(step, score, own, elsewhere, length=30.0):
    return {
        "step": step,
        "reward_helpfulness": score,
        "accuracy_facts": own,
        "accuracy_self": own,
        "accuracy_sum": elsewhere,
        "length_mean": length,
    }
