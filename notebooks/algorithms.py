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
# # Nine algorithms, compared
#
# *Two CPU cores: 4 minutes, and 4 more the first time, when a small base model is pretrained. Quick size: 1 minute.*
#
# GRPO has many relatives, and each paper finds that its own is the best. Here all of them train the same model on the
# same problems, through the same sampler, rewards and updates, so that a comparison differs in the algorithm alone.
# They are compared at **equal samples**, which is what a paper shows, and at **equal time**, which is what one pays.

# %% tags=["parameters"]
folder = "../runs/notebooks"  # quick: "../build/notebooks"
pretrain_steps = 900  # quick: 30
algorithms = ("grpo", "rloo", "gspo", "ppo")  # quick: ("grpo", "rloo")
steps = 15  # quick: 2
prime_steps = 25  # quick: 1
prompts = 8  # quick: 2
group = 8  # quick: 4
seeds = (0, 1, 2)  # quick: (0,)
held_out = 32  # quick: 4
results_folder = "../docs/results/algorithms-tiny-h200"

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown

from r1jax.recipe.base_model import small_base

base = Path(folder) / "base" / "pretrain"
model = small_base(base.parent, pretrain_steps)
pd.options.display.max_colwidth = 60

# %% [markdown]
# ## 1. What differs
#
# All of them sample completions, say how much better each was than expected (the *advantage*), and raise the
# probability of its tokens in proportion, within limits. They differ in these parts, read from the package:

# %%
from r1jax.algorithms.family import family

pd.DataFrame(family()).T

# %% [markdown]
# - **Baseline**: what a completion is compared with. Most take the mean of its group; RLOO the mean of the *other*
#   completions; PPO a second model, the critic, which predicts the reward from each token on.
# - **Ratio** and **clip**: $\rho = \pi / \pi_{old}$ says how far the policy has moved since the rollout; beyond the clip
#   there is no further push. GSPO takes one ratio for the whole sequence. CISPO limits the *weight* of a token and
#   drops none. With one update a rollout $\rho = 1$, and none of this matters.
# - **Mean of the loss**: how tokens of short and long completions count.
# - **Learned models**: each is trained beside the policy and costs its memory and time.
# - **Groups**: in a group of equal rewards all advantages are 0. DAPO, CISPO and PRIME sample others instead.
#
# `docs/algorithms.md` has the formulas, the sources and the flags.

# %% [markdown]
# ## 2. A few steps, live
#
# `ablate` takes the algorithm as an axis like any other setting. The same seed means the same problems for all of them.
# Each rollout has four updates, so that ratio and clip have an effect.

# %%
from r1jax.ablation.ablate import ablate
from r1jax.ablation.config import AblationConfig, ChunkConfig
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.rl.config import RLConfig

rl = RLConfig(steps=steps, prompts=prompts, group=group, minibatches=4, learning_rate=1e-4, schedule="cosine")
config = AblationConfig(
    rl=rl, evaluation=EvaluationConfig(problems=held_out, samples=8), chunks=ChunkConfig(every=steps)
)
result = ablate(config, {"rl.algorithm": algorithms}, seeds, model, load_problems(ProblemsConfig()))
result.evaluations().groupby("rl.algorithm", sort=False)[["accuracy_before", "accuracy_after"]].mean().round(3)

# %%
from r1jax.report.ablation import by_value
from r1jax.report.curves import draw_axis

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3), dpi=60, width_ratios=(3, 2), layout="constrained")
draw_axis(left, right, *by_value(result, "rl.algorithm", "reward_accuracy"), ("Accuracy reward", "Held-out accuracy"))
left.legend(fontsize=8, frameon=False)
plt.show()

# %% [markdown]
# The bands are 95% intervals over seeds, which are wide for few seeds. The difference from the first algorithm is taken
# seed by seed: where its interval includes 0, a ranking by these curves would be one of luck.

# %%
from r1jax.evaluation.seeds import over_seeds
from r1jax.report.ablation import points, reading

accuracy = dict(zip(algorithms, result.after["accuracy"], strict=True))
changes = {name: over_seeds(accuracy[name] - accuracy[algorithms[0]]) for name in algorithms[1:]}
lines = [f"- {name}: {points(change, '+')} points, **{reading(change)}**" for name, change in changes.items()]
Markdown(f"Against {algorithms[0]}:\n\n" + "\n".join(lines))

# %% [markdown]
# The gradient tells more about the algorithms: how long it is, and which share of the tokens the clip has cut off.

# %%
columns = ["gradient_norm", "clip_share_low", "clip_share_high", "entropy", "critic_explained_variance"]
frame = result.frame()
found = [name for name in columns if name in frame]
frame.groupby("rl.algorithm", sort=False)[found].mean().round(4)

# %% [markdown]
# ## 3. PRIME: which token earned the reward?
#
# The rewards above belong to a whole completion. PRIME ([arXiv 2502.01456](https://arxiv.org/abs/2502.01456)) trains a
# second copy of the base to tell right completions from wrong ones, and takes from it a reward for each token,
# $r_t = \beta \log\,(\pi_{prm} / \pi_{ref})$. Nobody labels single tokens: only right or wrong at the end. Here all groups
# are kept, so that each step has something to show; PRIME itself drops those that are too easy or too hard.

# %%
import dataclasses

from r1jax.algorithms.table import ALGORITHMS
from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.stage import Stage
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, reasoning_rl_stage
from r1jax.rewards.config import VerifierConfig
from r1jax.sampling.processors import Sampling
from r1jax.training.loop import SaveConfig

prime = dataclasses.replace(ALGORITHMS["prime"], drop_equal_groups=False, max_resamples=2)
settings = ReasoningRLSettings(
    rl=dataclasses.replace(rl, steps=prime_steps, minibatches=1, algorithm=prime),
    problems=ProblemsConfig(), template="think", sampling=Sampling(max_tokens=48), rewards=("accuracy", "format"),
    verifier=VerifierConfig(), seed=0, save=SaveConfig(),
)  # fmt: skip
stage = Stage("prime", reasoning_rl_stage, settings, {"policy": base.resolve()})
done = execute_pipeline([stage], Path(folder) / "algorithms", force=True, report=lambda line: None)

# %% [markdown]
# Each row is a completion of the last step, with its question and reward on the left. Blue tokens were credited, orange
# ones blamed. In the advantage, these rewards count by their difference from the mean of the other completions.

# %%
from r1jax.report.token_values import draw_token_values, last_rows

rows = last_rows(Path(folder) / "algorithms" / "prime" / "completions.jsonl")
_, ax = plt.subplots(figsize=(11, 0.3 * len(rows) + 0.6), dpi=90, layout="constrained")
plt.colorbar(draw_token_values(ax, rows, "process_reward"), ax=ax, pad=0.01)
plt.show()

# %% [markdown]
# Does the process reward model know right from wrong? Its cross-entropy starts at $\log 2 = 0.693$, a guess.

# %%
from r1jax.training.metrics import read_metrics

metrics = pd.DataFrame(read_metrics(Path(folder) / "algorithms" / "prime")).set_index("step")
names = ["prm_loss", "prm_accuracy", "prm_reward_correct", "prm_reward_wrong", "reward_accuracy"]
metrics[names].iloc[:: max(1, len(metrics) // 6)].round(4)

# %% [markdown]
# ## 4. All of them on a GPU
#
# `launch/algorithms.sh` trains each algorithm with several seeds, with the prompts, group size and number of steps of the
# preset `tiny`, each from the same base per seed. Updates of a rollout are those of the papers, and the learning rate is
# divided by the square root of their number. The results are in `docs/results`.

# %%
from r1jax.report.algorithms import draw_algorithms, draw_final, leads_table, read_comparison

stored = read_comparison(results_folder)
if stored:
    entries, about = stored.entries, stored.about
    print("on", *about["device"], "|", about["held_out_problems"], "held-out problems |", entries[0].steps, "steps")
else:
    print("There are no results yet: launch/algorithms.sh makes them.")

# %% [markdown]
# Accuracy of one sample of held-out problems after training, with the 95% interval over seeds. The dotted line is the
# base.

# %%
if stored:
    _, ax = plt.subplots(figsize=(7, 3.2), dpi=75, layout="constrained")
    draw_final(ax, entries)
    plt.show()

# %% [markdown]
# The difference from GRPO, taken seed by seed. Where its interval includes 0 there is no difference that these seeds
# can show.

# %%
Markdown(leads_table(entries) if stored else "No results yet.")

# %% [markdown]
# Reward and accuracy of the training samples, over the samples drawn so far and over the seconds so far. Algorithms that
# drop groups draw more samples in a step, and the accuracy of their batches is that of the groups that they keep.

# %%
for metric in ("reward", "accuracy") if stored else ():
    figure, row = plt.subplots(1, 2, figsize=(10, 3.4), dpi=60, sharey=True, layout="constrained")
    draw_algorithms(row, entries, metric)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    plt.show()

# %% [markdown]
# What each of them costs:

# %%
from r1jax.report.algorithms import costs_table

Markdown(costs_table(entries) if stored else "No results yet.")

# %% [markdown]
# ## 5. What is a difference, and what is noise
#
# - An interval of three seeds is wide: its factor is 4.3, against 2 of many seeds. "No difference" means that these
#   seeds cannot show one, and not that there is none.
# - Eight algorithms are compared with GRPO. If none of them differed, at least one of the eight intervals would exclude
#   0 with a probability of about a third. A lead that matters repeats with other seeds.
# - The learning rate is not the best one of each algorithm. `RATES="1e-4 4e-4" SEEDS=3 launch/algorithms.sh` searches it,
#   on another seed than those that are reported.
# - Time and memory are those of a small model, for which the rewards of the host and the first compilation count. In a
#   large one sampling and updates do, and learned models cost more where the policy fills the device.
# - The model is tiny and its problems are easy. What a clip or a critic does in long trainings of large models, this
#   cannot show; that the same program runs all of them, it can.
