"""A small workload and its rewards."""

import numpy as np

from r1jax.benchmark.workload import CPU_SETTINGS, Workload
from r1jax.rewards.scores import Scores

# Heads and vocabulary do not split evenly over every model axis here, and a rollout makes two backward passes.
WORK = Workload(**CPU_SETTINGS | {"prompts": 2, "group": 8, "prompt": 8, "tokens": 6}, unroll=False)


class Parity:
    """Rewards that differ within a group: whether a completion's first word is even."""

    names = ("parity",)

    def score(self, problems, completions):
        values = np.array([float(int(one.text.split()[0]) % 2 == 0) for one in completions], np.float32)
        return Scores(values=values[:, None], total=values, names=self.names, timeouts=0, crashes=0)
