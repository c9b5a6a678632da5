"""The algorithms by name: what ``--rl.algorithm=NAME`` chooses, and the classes that may be chosen."""

from __future__ import annotations

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.ppo import PPO
from r1jax.algorithms.prime import PRIME
from r1jax.algorithms.relatives import CISPO, DAPO, DR_GRPO, GSPO, REINFORCE_PLUS_PLUS, RLOO

AnyAlgorithm = GRPO | PPO | PRIME  # a union of all classes below

ALGORITHMS: dict[str, AnyAlgorithm] = {
    "grpo": GRPO(),
    "dr-grpo": DR_GRPO,
    "dapo": DAPO,
    "rloo": RLOO,
    "reinforce++": REINFORCE_PLUS_PLUS,
    "gspo": GSPO,
    "cispo": CISPO,
    "ppo": PPO(),
    "prime": PRIME(),
}
