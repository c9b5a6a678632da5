"""Relatives of GRPO as settings of it.

Settings of the rollout are not the algorithm's and stay flags: minibatches, group and sampling.max-tokens.
"""

from __future__ import annotations

from r1jax.algorithms.grpo import GRPO

# arXiv 2503.20783: no division by the standard deviation, and a constant in place of the length.
DR_GRPO = GRPO(normalise_std=False, aggregate="constant")

# arXiv 2503.14476: 16 updates a rollout; the buffer is a fifth of the longest answer, which has 20,480 tokens. The
# paper samples until the batch is full; its authors' program (recipe/dapo of verl) makes at most 10 attempts.
DAPO = GRPO(
    eps_low=0.2,
    eps_high=0.28,
    aggregate="token",
    drop_equal_groups=True,
    max_resamples=9,
    mask_truncated=True,
    overlong_buffer=4096,
)

# arXiv 2402.14740: groups of 4, one update a rollout; the KL is part of the reward there and a term of the loss here.
RLOO = GRPO(baseline="leave_one_out", aggregate="constant", beta=0.03)

# arXiv 2501.03262, with a group baseline.
REINFORCE_PLUS_PLUS = GRPO(baseline="batch")

# arXiv 2507.18071: 4 updates a rollout.
GSPO = GRPO(ratio="sequence", eps_low=3e-4, eps_high=4e-4)

# arXiv 2506.13585: 16 updates a rollout; weights of at most 5 are those of ScaleRL (arXiv 2510.13786).
CISPO = GRPO(loss="cispo", eps_low=1.0, eps_high=4.0, aggregate="token", drop_equal_groups=True)
