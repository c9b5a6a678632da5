# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does reinforcement learning change?
#
# *Two CPU cores: 6 minutes, and 6 more the first time, when a small base model is pretrained. Quick size: 1 minute.*
#
# After reinforcement learning (RL) a model solves more problems. Does it have a new ability, or does it only use more
# often what it could do before? DeepSeekMath ([arXiv 2402.03300](https://arxiv.org/abs/2402.03300), section 5.2.2)
# looked at many samples per problem and concluded: **RL raises maj@K and leaves pass@K where it was.** Right answers
# become more frequent, and the set of problems that can be solved at all stays.
#
# - **pass@k**: the chance that at least one of k samples is right. For large k it shows what a model *can* do.
# - **maj@k**: the chance that the most frequent answer of k samples is right.
#
# This notebook tests the claim, first live on a tiny model, then on SmolLM2-135M from committed results of a GPU.

# %% tags=["parameters"]
folder = "../runs/notebooks"  # quick: "../build/notebooks"
pretrain_steps = 900  # quick: 30
steps = 40  # quick: 2
prompts = 16  # quick: 4
problems = 48  # quick: 6
samples = 64  # quick: 8
seeds = (0, 1)  # quick: (0,)
study_folder = "../docs/results/what-rl-changes-smollm2-h200"

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from r1jax.recipe.base_model import small_base
from r1jax.report.rl_change import CLAIM, REFUTATION

base = Path(folder) / "base" / "pretrain"
out = Path(folder) / "what_rl_changes"
small_base(base.parent, pretrain_steps)
Markdown(f"> {CLAIM}")

# %% [markdown]
# ## 1. What would refute the claim
#
# A test that cannot fail is none. This is decided before any figure is seen:

# %%
Markdown(f"> {REFUTATION}")

# %% [markdown]
# ## 2. How pass@k is estimated
#
# Drawing k samples many times would be wasteful. With n samples of a problem, c of them right, all subsets of k samples
# can be counted at once ([arXiv 2107.03374](https://arxiv.org/abs/2107.03374)):
#
# $$\text{pass@}k = 1 - \binom{n-c}{k} \Big/ \binom{n}{k}$$
#
# A problem with 3 right answers of 64 is hard at k = 1, likely at k = 32, and certain at k = 64, where the only subset
# is the whole:

# %%
from r1jax.evaluation.rl_change import pass_curve

curve = pass_curve(np.array([3]), 64)[0]
{k: round(float(curve[k - 1]), 3) for k in (1, 4, 16, 32, 64)}

# %% [markdown]
# ## 3. The tiny model, before and after
#
# The stages are those of `experiments/r1_zero.py`: evaluate the base on held-out problems, train it with GRPO and rule
# rewards, evaluate again. Each seed is one run.

# %%
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.stage import Stage
from r1jax.recipe.evaluation import EvaluationSettings, evaluation_stage
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, reasoning_rl_stage
from r1jax.rewards.config import VerifierConfig
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from r1jax.training.loop import SaveConfig


# %%
def stages_of(seed):
    judged = {"template": "think", "rewards": ("accuracy", "format"), "verifier": VerifierConfig(), "seed": seed}
    judged |= {"problems": ProblemsConfig(), "sampling": Sampling(max_tokens=48)}
    rl = RLConfig(steps=steps, prompts=prompts, group=8, learning_rate=4e-4, schedule="cosine")
    training = ReasoningRLSettings(rl=rl, save=SaveConfig(), **judged)
    wanted = EvaluationConfig(problems=problems, samples=samples)
    evaluation = EvaluationSettings(evaluation=wanted, weights="float32", **judged)
    return [
        Stage(f"before-{seed}", evaluation_stage, evaluation, {"policy": base}),
        Stage(f"rl-{seed}", reasoning_rl_stage, training, {"policy": base}),
        Stage(f"after-{seed}", evaluation_stage, evaluation, {"policy": f"rl-{seed}"}),
    ]


for seed in seeds:
    execute_pipeline(stages_of(seed), out, force=True, report=lambda line: None)

# %%
from r1jax.evaluation.rl_change import rl_change
from r1jax.evaluation.summary import Evaluation
from r1jax.pipeline.manifest import manifests

figures = {name: manifest["figures"] for name, manifest in manifests(out).items()}


def evaluation_of(stage):
    return Evaluation.from_json(figures[stage]["reasoning"])


runs = [(evaluation_of(f"before-{seed}"), evaluation_of(f"after-{seed}")) for seed in seeds]
tiny = rl_change(runs, bases=["tiny"] * len(seeds))

# %% [markdown]
# ## 4. Curves
#
# The horizontal axis is logarithmic: each step to the right doubles the number of samples. Bands are 95% intervals over
# problems, thin lines single runs.

# %%
from r1jax.report.rl_change_figures import draw_histogram, draw_maj_at, draw_pass_at, draw_problems


def show_curves(change):
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), dpi=75, sharey=True, layout="constrained")
    draw_pass_at(left, change)
    draw_maj_at(right, change)
    left.legend(fontsize=8, frameon=False, loc="lower right")
    plt.show()


show_curves(tiny)

# %% [markdown]
# Far to the left the trained model is much better. To the right the curves approach each other: what RL has made likely
# was already there among the base's samples. If the curve of the base rises above the other, RL has lost problems.

# %%
from r1jax.report.rl_change import conclusion, crossing_line, figures_table, levels_table, solvable_lines

Markdown(figures_table(tiny))

# %% [markdown]
# Entropy is the mean of -log p over the tokens that a model samples. RL lowers it: the model has become more certain,
# whether it is right or not. That is the price of sharpening, and the reason why more samples bring less than before.

# %%
Markdown(f"{crossing_line(tiny)}\n\n**{conclusion(tiny)}**")

# %% [markdown]
# ## 5. Problem by problem
#
# A mean over problems may hide that some get better and others worse. Each point is a problem. Points above the
# diagonal have gained.


# %%
def show_problems(change):
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), dpi=75, layout="constrained")
    draw_problems(left, change)
    draw_histogram(right, change)
    right.legend(fontsize=8, frameon=False)
    plt.show()


show_problems(tiny)

# %% [markdown]
# Which problems gain? Here they are sorted by how often the base solves them.

# %%
Markdown(levels_table(tiny))

# %% [markdown]
# A problem without a right sample before and with one after looks like a new ability. It may be luck: a problem that is
# solved once in a hundred samples is missed by 64 samples every other time. The fair comparison is with two evaluations
# of the *same* base, between which nothing was learned.

# %%
print(*solvable_lines(tiny), sep="\n")

# %% [markdown]
# ## 6. SmolLM2-135M
#
# The tiny base was pretrained on such problems and solves nearly all of them in a few samples, so the claim could
# hardly fail. A model that was not made for them is the better test: SmolLM2-135M on two-digit sums, differences and
# products, most of which it does not solve in one sample. The runs, rewarded for accuracy alone, were made on a GPU by
# `launch/what_rl_changes.sh`; their results are in `docs/results`.

# %%
from r1jax.report.rl_change import became_table, read_study

study = read_study(Path(study_folder))
print(study.model, "on", ", ".join(study.devices), "| seeds", *study.seeds, "| samples", study.change.samples)
show_curves(study.change)

# %%
Markdown(figures_table(study.change))

# %%
Markdown(f"{crossing_line(study.change)}\n\n**{conclusion(study.change)}**")

# %%
show_problems(study.change)

# %%
Markdown(levels_table(study.change))

# %%
print(*solvable_lines(study.change), sep="\n")
Markdown(became_table(study))

# %% [markdown]
# ## 7. Reading the result
#
# - pass@k at large k is the side of the claim that can fail. If the interval of its change is above 0 there, RL solves
#   problems that the base did not solve in as many samples.
# - "Not solved in 256 samples" is not "cannot be solved": with more samples the base may solve a problem, too. The
#   claim is about what is within reach of sampling.
# - The intervals are over problems. They do not say how much another training would differ: look at the thin lines.
# - Even here the answer depends on the reward. With a reward for the format beside that for accuracy, two of three runs
#   collapse to answers that are hardly ever right, and pass@256 falls:
#   `docs/results/what-rl-changes-smollm2-format-h200/report.md`.
# - One task and one small model decide nothing about other models. To test yours, run
#   `experiments/r1_zero.py --base PATH --evaluation.samples 256 --seed S` with several seeds, and
#   `experiments/what_rl_changes.py` on their folders.
