"""A tiny decoder with multi-token prediction, and its formulas in float64 NumPy, one text and one token at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tests.helpers.latent import LATENT
from tests.models.helpers import SMALL

MTP = dataclasses.replace(
    LATENT, vocab_size=61, num_layers=2, num_heads=4, num_kv_heads=4, rope_scaling=None, experts=SMALL, mtp_layers=1
)
"""Latent attention, and experts after a dense layer."""

Weights = dict[str, Any]


def layer_of(weights: Weights, i: int) -> Weights:
    """One layer of stacked weights, in float64."""
    return {
        name: layer_of(w, i) if isinstance(w, dict) else np.asarray(w, np.float64)[i] for name, w in weights.items()
    }


def _norm(x: np.ndarray, weight: Any) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + MTP.norm_eps) * np.asarray(weight, np.float64)


def _turned(x: np.ndarray, position: int) -> np.ndarray:
    half = len(x) // 2
    pairs = x[:half] + 1j * x[half:]
    pairs = pairs * np.exp(1j * position * MTP.rope_theta ** (-np.arange(half) / half))
    return np.concatenate([pairs.real, pairs.imag])


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _mlp(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    return (_silu(x @ gate) * (x @ up)) @ down


def _experts(x: np.ndarray, w: Weights) -> np.ndarray:
    own = MTP.experts
    assert own is not None
    scores = 1 / (1 + np.exp(-(x @ w["router"])))
    biased, size = scores + w["router_bias"], own.number // own.groups
    best_two = [np.sort(biased[g * size : (g + 1) * size])[-2:].sum() for g in range(own.groups)]
    groups = np.argsort(best_two)[-own.active_groups :]
    allowed = [e for e in range(own.number) if e // size in groups]
    chosen = sorted(allowed, key=lambda e: biased[e])[-own.active :]
    y = _mlp(x, w["shared_gate"], w["shared_up"], w["shared_down"])
    for e in chosen:
        share = own.scale * scores[e] / scores[chosen].sum()
        y = y + share * _mlp(x, w["gate"][e], w["up"][e], w["down"][e])
    return y


def _attention(rows: np.ndarray, w: Weights) -> np.ndarray:
    own = MTP.latent
    assert own is not None
    keys, values, found = [], [], []
    for position, x in enumerate(rows):
        down = x @ w["kv_down"]
        vector = _norm(down[: own.kv_rank], w["kv_norm"])
        both = np.einsum("r,rhk->hk", vector, w["kv_up"])
        turned = _turned(down[own.kv_rank :], position)
        keys.append([np.concatenate([head[: own.nope_dim], turned]) for head in both])
        values.append(both[:, own.nope_dim :])
        queries = np.einsum("r,rhk->hk", _norm(x @ w["query_down"], w["query_norm"]), w["query_up"])
        y = np.zeros(MTP.hidden_size)
        for head, q in enumerate(queries):
            q = np.concatenate([q[: own.nope_dim], _turned(q[own.nope_dim :], position)])
            scores = np.array([q @ key[head] for key in keys]) / np.sqrt(len(q))
            weights = np.exp(scores - scores.max())
            mixed = sum(a * v[head] for a, v in zip(weights / weights.sum(), values, strict=True))
            y += mixed @ w["output"][head]
        found.append(y)
    return np.array(found)


def _block(x: np.ndarray, w: Weights) -> np.ndarray:
    x = x + _attention(_norm(x, w["attention_norm"]), w["attention"])
    h, mlp = _norm(x, w["mlp_norm"]), w["mlp"]
    one = (lambda row: _experts(row, mlp)) if "router" in mlp else lambda row: _mlp(row, *map(mlp.get, _DENSE))
    return x + np.array([one(row) for row in h])


_DENSE = ("gate", "up", "down")


def reference_states(params: Weights, tokens: list[int]) -> list[np.ndarray]:
    """The final states of the decoder [n, D], and those of layer k of multi-token prediction [n - k, D], of a text."""
    embedding = np.asarray(params["embedding"], np.float64)
    x = embedding[tokens]
    for run in ("dense_layers", "layers"):
        for i in range(len(params[run]["attention_norm"]) if run in params else 0):
            x = _block(x, layer_of(params[run], i))
    found = [_norm(x, params["final_norm"])]
    for k in range(1, 1 + len(params["mtp"]["final_norm"])):
        w = layer_of(params["mtp"], k - 1)
        rows = [
            np.concatenate([_norm(embedding[tokens[i + k]], w["embedding_norm"]), _norm(h, w["state_norm"])])
            for i, h in enumerate(found[-1][: len(tokens) - k])
        ]
        found.append(_norm(_block(np.array(rows) @ w["projection"], w), w["final_norm"]))
    return found
