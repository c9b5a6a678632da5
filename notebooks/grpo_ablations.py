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
# # What each setting of GRPO does
#
# *Two CPU cores: 3 minutes, and 4 more the first time, when a small base model is pretrained. Quick size: 1 minute.*
#
# GRPO has about ten settings, and papers disagree on most of them. A difference between two trainings says little,
# since two random seeds with the same settings differ, too. This notebook trains several settings with several seeds in
# one compiled program, and then reads the results of such ablations that were made on a GPU.

# %% tags=["parameters"]
folder = "../runs/notebooks"  # quick: "../build/notebooks"
pretrain_steps = 900  # quick: 30
steps = 15  # quick: 2
prompts = 8  # quick: 2
group = 8  # quick: 4
seeds = (0, 1, 2)  # quick: (0, 1)
held_out = 32  # quick: 4
results_folder = "../docs/results/ablations-tiny-h100"

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown

from r1jax.recipe.base_model import small_base

model = small_base(f"{folder}/base", pretrain_steps)
pd.options.display.precision = 3

# %% [markdown]
# ## 1. The settings
#
# For each of $P$ questions, GRPO ([arXiv 2402.03300](https://arxiv.org/abs/2402.03300)) samples a group of $G$
# completions $i$ with rewards $r_i$, and lowers the loss
#
# $$L = \underset{\text{mean}}{\mathrm{avg}}\;\Big[-\min\big(\rho_{it} A_i,\ \mathrm{clip}(\rho_{it}, 1-\epsilon_{low},
# 1+\epsilon_{high})\,A_i\big) + \beta\, \mathrm{KL}_{it}\Big],\qquad A_i = \frac{r_i - \bar r}{\mathrm{std}(r)},
# \qquad \rho_{it} = \frac{\pi(o_{it})}{\pi_{old}(o_{it})}$$
#
# **Group size** (`rl.group`, $G$). The advantage $A_i$ compares a completion with the mean $\bar r$ of its group, whose
# error falls as $1/\sqrt G$. With a fixed number of samples $PG$ a larger group means fewer questions.
#
# **KL weight** (`rl.beta`, $\beta$). The divergence $\mathrm{KL}_{it} = e^{d} - d - 1$, with
# $d = \log \pi_{ref} - \log \pi$ of the token, holds the policy near the reference. A large $\beta$ protects what the
# model knew, and slows down what it shall learn.
#
# **Clip** (`rl.eps-high`, $\epsilon_{high}$). A token whose probability has already risen by the factor
# $1+\epsilon_{high}$ since the rollout gets no further push. It acts only with several updates a rollout, as the first
# one has $\rho = 1$; DAPO ([arXiv 2503.14476](https://arxiv.org/abs/2503.14476)) raises it from 0.2 to 0.28 so that
# rare tokens can grow.
#
# **Division by the deviation** (`rl.normalise-std`). With it, groups in which one completion of $G$ differs have the
# largest advantages, so very easy and very hard questions weigh more. Dr. GRPO
# ([arXiv 2503.20783](https://arxiv.org/abs/2503.20783)) takes $A_i = r_i - \bar r$.
#
# **Length normalisation** (`rl.aggregate`). The mean over tokens is $\frac{1}{G}\sum_i \frac{1}{|o_i|}\sum_t$
# (`sequence`, GRPO), $\frac{1}{\sum_i |o_i|}\sum_{it}$ (`token`, DAPO) or $\frac{1}{G\,T_{max}}\sum_{it}$ (`constant`,
# Dr. GRPO). With the first, a token of a long wrong completion is punished less than one of a short one, which favours
# long wrong answers.
#
# **Temperature** (`sampling.temperature`, $\tau$). Completions are drawn from $\mathrm{softmax}(z/\tau)$. A low $\tau$
# gives groups of equal answers, whose advantages are 0; a high one gives more errors to learn from.
#
# **Reference period** (`rl.reference-every`). After every so many steps the policy becomes the reference,
# $\pi_{ref} \leftarrow \pi$, so that the KL term limits the speed and not the distance. DeepSeek-R1
# ([arXiv 2501.12948](https://arxiv.org/abs/2501.12948)) does it every 400 steps.
#
# **Updates a rollout** (`rl.minibatches`). Each rollout is split into parts with one update each. More updates learn
# more from the same samples, and the later ones from samples of an older policy, with $\rho \ne 1$.

# %% [markdown]
# ## 2. An ablation, live
#
# `ablate(config, grid, seeds)` trains each combination of the values in the grid with each seed. Sampling, rewards,
# advantages and updates are one program; arms that differ in numbers alone share it. Here are two settings, the
# learning rate, whose effect should be plain, and the KL weight.

# %%
from r1jax.ablation.ablate import ablate
from r1jax.ablation.config import AblationConfig, ChunkConfig
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.rl.config import RLConfig

config = AblationConfig(
    rl=RLConfig(steps=steps, prompts=prompts, group=group, schedule="cosine"),
    evaluation=EvaluationConfig(problems=held_out, samples=8),
    chunks=ChunkConfig(every=steps),
)
grid = {"rl.learning-rate": (1e-4, 1e-3), "rl.beta": (0, 0.1)}
result = ablate(config, grid, seeds, model, load_problems(ProblemsConfig()))
print(len(result.arms), "arms x", len(seeds), "seeds in", result.about["programs"], "program")

# %% [markdown]
# The result is a set of arrays `[arms, seeds, steps]`. As a table it has a row for each training, with the held-out
# figures before and after:

# %%
rows = result.evaluations()
rows[["rl.learning-rate", "rl.beta", "seed", "accuracy_before", "accuracy_after", "format_after", "length_mean_after"]]

# %% [markdown]
# Or a row for each step:

# %%
result.frame()[["rl.learning-rate", "rl.beta", "seed", "step", "reward", "kl", "entropy", "gradient_norm"]].tail(3)

# %% [markdown]
# On the left the accuracy of the samples that were trained on, on the right that of held-out problems after training.
# Thin lines and dots are arms, bold ones the mean over arms, with its 95% interval over seeds.

# %%
from r1jax.report.ablation import by_value
from r1jax.report.curves import draw_axis

for axis in result.axes:
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), dpi=75, width_ratios=(3, 2), layout="constrained")
    draw_axis(left, right, *by_value(result, axis, "reward_accuracy"), ("Accuracy reward", "Held-out accuracy"))
    left.legend(fontsize=8, frameon=False)
    plt.show()

# %% [markdown]
# The larger learning rate is too large: the column `format_after` says that the policy has learned the format, and
# `accuracy_after` that it has forgotten how to calculate. The reward has two parts, and the cheap one was found first.
# With the KL weight the loss of accuracy is smaller in each of these seeds.
#
# Are the differences more than noise? Trainings with the same seed see the same problems, so the difference is taken
# seed by seed, and what the seed does to both cancels. If the 95% interval of the mean difference includes 0, we say
# *no difference*. With few seeds the interval is wide: only large effects can be seen.

# %%
from r1jax.evaluation.seeds import over_seeds
from r1jax.report.ablation import points, reading

lines = []
for axis, (first, second) in result.axes.items():
    means = [result.after["accuracy"][result.with_value(axis, value)].mean(axis=0) for value in (first, second)]
    change = over_seeds(means[1] - means[0])
    lines.append(f"- {axis}, {first} to {second}: {points(change, '+')} points, **{reading(change)}**")
Markdown("\n".join(lines))

# %% [markdown]
# ## 3. Ablations on a GPU
#
# `launch/ablations.sh` makes an ablation of each setting of section 1, with 256 samples a step in all arms. The results
# of those that have finished are in `docs/results`.

# %%
from r1jax.report.ablation_study import axes_table, draw_results, findings, read_axes

NAMES = ("group", "beta", "clip", "std", "length", "temperature", "reference", "updates")
results = read_axes(results_folder, NAMES)
if results:
    one = next(iter(results.values()))
    print(len(results), "ablations on", one.about["device"], "| seeds", *one.seeds, "| steps", one.steps)
else:
    print("There are no results yet: launch/ablations.sh makes them.")

# %% [markdown]
# Held-out accuracy after training by value. Lines are 95% intervals over seeds, small dots single seeds. The first
# value of each setting is the one that the others are compared with, paired by seed: better ones are green, worse ones
# orange, and grey ones show no difference. The scale does not start at 0.

# %%
if results:
    _, axes = plt.subplots(2, 4, figsize=(11, 4.6), dpi=66, sharey=True, squeeze=False, layout="constrained")
    draw_results(list(axes.flat), results)
    plt.show()

# %%
Markdown(axes_table(results) if results else "No results yet.")

# %% [markdown]
# In a sentence for each setting:

# %%
print(*findings(results), sep="\n")

# %% [markdown]
# ## 4. What one learns, and what not
#
# - Look at the intervals first. Differences of a point or two between single runs, on which settings are often chosen,
#   are within what the seed alone does.
# - One in 20 intervals excludes 0 by chance. The table above has so many comparisons that about one such finding is
#   expected even if no setting had an effect: repeat a small one with other seeds (`--seed` of `experiments/ablate.py`)
#   before you believe it.
# - Evaluations sample at temperature 1. A model that was trained at another temperature is evaluated away from it.
# - "No difference" is about this model, with 0.4 million weights, on two-digit sums and differences, after 100 steps
#   from a base that already solves a part of them. A clip or a KL weight guards against what happens in long trainings
#   and large steps; settings of length matter where completions may become long, and these have at most 48 tokens.
# - All arms have the same learning rate. A setting that scales the gradient, as the division by the deviation does, may
#   differ only because its best learning rate is another one: add it as an axis,
#   `--grid rl.normalise-std=true,false --grid rl.learning-rate=2e-4,4e-4,8e-4`.
