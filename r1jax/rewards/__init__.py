"""Rewards: pure functions that judge completions, and the worker processes that apply them under a deadline.

To use a reward of your own, write a function in any file and mark it with ``@reward``::

    from r1jax.rewards import Completion, Problem, reward

    @reward
    def brevity(problem: Problem, completion: Completion) -> float:
        return 1.0 if completion.tokens < 100 else 0.0

and name the file, the function and its weight: ``--rewards accuracy format my_rewards.py:brevity=0.2``. The function
returns one finite number. It runs in a worker process without JAX, and only its arguments may decide the result.

To add to the rewards of the package:

- a reward by rule: a function with ``@reward`` in ``rules.py``, listed in its ``RULES``;
- a rule that judges answers: a function in ``checkers.py``, and its name in ``Checker`` (``data/problems/problem.py``);
- a reward that is computed for many completions at once, such as a model's score: an object with the methods of
  ``BatchReward`` (``scores.py``), as ``ModelReward`` in ``model.py``.

How the modules work together: ``config.py`` reads names of rewards, ``pool.py`` computes them in worker processes
(``process.py``, ``worker.py``), ``routing.py`` chooses rewards and weights by the kind of the problem, and
``scores.py`` holds the result.
"""

from r1jax.data.problems.problem import Problem
from r1jax.rewards.base import Completion, RewardError, reward

__all__ = ["Completion", "Problem", "RewardError", "reward"]
