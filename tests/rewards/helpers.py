"""Completions that reward tests share."""

from __future__ import annotations

from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES
from r1jax.rewards.base import Completion

SUM = Problem("37 + 48", "85", "arithmetic")


def completion(text: str, template: str = "think", tokens: int = 5) -> Completion:
    return Completion(text, tokens, limit=20, finished=True, template=TEMPLATES[template])


def answered(answer: str) -> Completion:
    return completion(f"<think>hm</think><answer>{answer}</answer>")
