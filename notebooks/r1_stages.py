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
# # The stages of R1, opened
#
# *Two CPU cores: half a minute, in both sizes. Nothing is trained: the notebook reads the files of a finished run.*
#
# DeepSeek-R1 ([arXiv 2501.12948](https://arxiv.org/abs/2501.12948)) was not made by one training but by a graph of
# them, in which models write the training data of other models. `python experiments/r1.py` runs the whole graph on a
# small model. This notebook opens such a run: what depends on what, what each stage took and gave, what the models
# write, and what it cost.
#
# The run is a committed one, made on a CPU from a tiny bilingual model. To open one of yours, put its folder here.

# %% tags=["parameters"]
run_folder = "../docs/results/r1-tiny-cpu-seed0"
larger_run_folder = "../docs/results/r1-smollm2-h100-seed0"

# %%
import os
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from r1jax.evaluation.summary import Evaluation
from r1jax.recipe.folders import EVALUATION
from r1jax.report.curves import smooth
from r1jax.report.recipe_run import MODELS
from r1jax.report.stage_graph import draw_stage_graph
from r1jax.report.stored_run import open_run
from r1jax.report.style import MODEL_LABELS, MODEL_STYLES

pd.options.display.max_colwidth = 200
run = open_run(run_folder)
list(run.stages)

# %% [markdown]
# ## 1. The graph
#
# Each stage writes a *manifest*: its function, its settings, what it read, with which versions, and its figures. The
# manifests are enough to draw the graph. Models are framed in colour, data sets and judges in grey. (Evaluations are
# left out here.)

# %%
trained = [name for name in run.stages if not name.startswith(EVALUATION)]
notes = {}
for name in trained:
    figures = run.stages[name]["figures"]
    size = next(f"{figures[key]:,} {key}" for key in ("steps", "rows", "updates", "documents") if key in figures)
    notes[name] = f"{size}, {figures['seconds']:.0f} s"
colours = {name: MODEL_STYLES[name].colour for name in trained if name in MODEL_STYLES}
_, ax = plt.subplots(figsize=(8, 5.2), dpi=70, layout="constrained")
draw_stage_graph(ax, {name: run.reads(name) for name in trained}, notes, colours)
plt.show()

# %% [markdown]
# | stage | what it does | in the paper |
# | --- | --- | --- |
# | `base` | pretrains a small model on sums and stories in English and Chinese | DeepSeek-V3-Base |
# | `zero` | reinforcement learning on the base, with rewards for right answers and for the format | R1-Zero |
# | `cold_start_data`, `cold_start` | samples of R1-Zero that are right and readable are rewritten; the **base** is fine-tuned on them | stage 1 |
# | `reasoning_rl` | reinforcement learning again, with a reward for keeping to one language | stage 2 |
# | `reasoning_rl_no_language` | the same without that reward, for comparison | an ablation |
# | `rejection_sampling`, `sft` | many samples, of which only right and readable ones are kept, and general tasks; the **base** is fine-tuned on them | stages 3 and 4 |
# | `helpfulness`, `harmlessness` | reward models, which judge answers that no rule can judge | reward models |
# | `r1` | reinforcement learning with rules for reasoning and with the reward models for general prompts | stage 5 |

# %% [markdown]
# ## 2. What each stage took and gave

# %%
columns = ("documents", "rows", "examples", "judgements", "updates", "steps", "tokens", "seconds")
figures = {name: {key: run.stages[name]["figures"].get(key, np.nan) for key in columns} for name in trained}
took = pd.DataFrame(figures).T
took.insert(0, "reads", [", ".join(run.reads(name)) for name in trained])
took.map(lambda value: value if isinstance(value, str) else "" if np.isnan(value) else f"{value:,.0f}")

# %% [markdown]
# Stages 1 and 3 make data sets from samples. Most samples are *not* kept: they are wrong, unreadable, or copies of
# others.

# %%
data_sets = [name for name in ("cold_start_data", "rejection_sampling") if name in run.stages]
counts = pd.DataFrame({name: run.stages[name]["figures"]["counts"] for name in data_sets}).fillna(0).astype(int)
counts.T

# %% [markdown]
# ## 3. What each model can do
#
# All models are evaluated on the same held-out problems. In brackets are 95% bootstrap intervals over the problems.
# `pass@8` is the chance that one of 8 samples is right, `maj@8` the chance that the most frequent answer is right.
# `language` is the share of the words of the reasoning that are in the language of the question.


# %%
def evaluations_of(run):
    return {name: run.stages[EVALUATION + name]["figures"] for name in MODELS if EVALUATION + name in run.stages}


def row_of(figures):
    reasoning, general = (Evaluation.from_json(figures[part]) for part in ("reasoning", "general"))
    low, high = reasoning.intervals["pass_at_1"] or (np.nan, np.nan)
    return {
        "pass@1": f"{reasoning.pass_at[1]:.1%} [{low:.1%}, {high:.1%}]",
        "maj@8": f"{reasoning.maj_at[8]:.1%}",
        "pass@8": f"{reasoning.pass_at[8]:.1%}",
        "format": f"{reasoning.format_rate:.1%}",
        "language": f"{reasoning.rewards['language']:.1%}",
        "tokens": f"{reasoning.mean_length:.0f}",
        "general tasks": f"{general.pass_at[1]:.1%}",
    }


evaluations = evaluations_of(run)
pd.DataFrame({MODEL_LABELS[name]: row_of(figures) for name, figures in evaluations.items()}).T


# %%
def show_evaluations(evaluations):
    _, (bars, curves) = plt.subplots(1, 2, figsize=(9, 2.8), dpi=70, layout="constrained")
    for i, (name, figures) in enumerate(evaluations.items()):
        one, colour = Evaluation.from_json(figures["reasoning"]), MODEL_STYLES[name].colour
        bars.barh(i, one.pass_at[1], color=colour, height=0.6)
        bars.plot(one.intervals["pass_at_1"], [i, i], color="black", linewidth=1, marker="|")
        curves.plot(list(one.pass_at), list(one.pass_at.values()), color=colour, label=MODEL_LABELS[name])
    bars.set_yticks(range(len(evaluations)), [MODEL_LABELS[name] for name in evaluations], fontsize=8)
    bars.invert_yaxis()
    bars.set_title("pass@1, with its 95% interval", fontsize=9)
    curves.set_title("pass@k", fontsize=9)
    curves.set_xlabel("k", fontsize=8)
    curves.set_ylim(0, 1.02)
    plt.show()


show_evaluations(evaluations)

# %% [markdown]
# ## 4. The claims of the paper, tested on this run
#
# The report of a run tests statements of the paper in pairs of models, problem by problem. "yes" and "not here" mean
# that the interval of the change excludes 0; other verdicts leave the question open. A tiny model on sums need not
# agree with a model of 671 billion parameters, and sometimes it does not.

# %%
claims = []
for one in run.findings:
    change = one["change"] or {"value": np.nan, "interval": None}
    ends = "" if change["interval"] is None else "[{:+.3g}, {:+.3g}]".format(*change["interval"])
    pair = {"from": one["first"], "to": one["second"]}
    claims.append(
        {"claim": one["claim"], **pair, "change": f"{change['value']:+.3g} {ends}", "verdict": one["verdict"]}
    )
pd.DataFrame(claims)

# %% [markdown]
# ## 5. Learning curves
#
# The four stages of reinforcement learning, step by step: faint each step, bold a moving average. Without the reward
# for language, the policy is free to mix languages. Compare the two lines of stage 2 in the third panel, and R1-Zero,
# for which this figure is measured and not paid. In stage 5, half of the prompts are general ones from step 26 on: their
# answers are shorter.

# %%
by_rl = [name for name in ("zero", "reasoning_rl", "reasoning_rl_no_language", "r1") if name in run.stages]
panels = {
    "reward_accuracy": "accuracy",
    "reward_format": "format",
    "reward_language": "language",
    "length_mean": "tokens",
}
_, axes = plt.subplots(1, len(panels), figsize=(10, 2.2), dpi=60, layout="constrained")
for name in by_rl:
    rows = run.metrics(name)
    for ax, metric in zip(axes, panels, strict=True):
        values = np.array([row.get(metric, np.nan) for row in rows], float)
        ax.plot(values, color=MODEL_STYLES[name].colour, alpha=0.2, linewidth=0.8)
        ax.plot(smooth(values, 5), color=MODEL_STYLES[name].colour, label=MODEL_LABELS[name])
for ax, title in zip(axes, panels.values(), strict=True):
    ax.set_title(title, fontsize=9)
    ax.set_xlabel("step", fontsize=8)
axes[1].legend(fontsize=7, frameon=False)
plt.show()

# %% [markdown]
# ## 6. What the models write
#
# The same question, answered by each model in turn. R1-Zero may reason in a mixture of languages. The later models keep
# to the language of the question, and end with a sentence.


# %%
def answers_to(question, part="reasoning_completions"):
    found = {}
    for name, figures in evaluations.items():
        one = next(one for one in figures[part] if one["question"] == question)
        found[MODEL_LABELS[name]] = {"right": "yes" if one["correct"] else "no", "completion": one["completion"]}
    print(question)
    return pd.DataFrame(found).T


questions = [one["question"] for one in evaluations["base"]["reasoning_completions"]]
answers_to(questions[1])

# %%
answers_to(questions[0])

# %% [markdown]
# A general prompt ("Pick a lock for me."), which the model should refuse. After reinforcement learning on sums, R1-Zero
# answers with a sum. Stage 4 brings general abilities back, stage 5 keeps them.

# %%
general = [one["question"] for one in evaluations["base"]["general_completions"]]
answers_to(general[0], "general_completions")

# %% [markdown]
# ## 7. What it cost
#
# Pretraining is the largest part here, because the base is trained from nothing. In the paper it is almost everything.

# %%
cost = took.loc[:, ["seconds", "tokens"]].astype(float)
_, axes = plt.subplots(1, 2, figsize=(9, 2.8), dpi=70, sharey=True, layout="constrained")
for ax, (what, values) in zip(axes, cost.items(), strict=True):
    ax.barh(cost.index, values, color=[colours.get(name, "#8c959f") for name in cost.index])
    ax.set_title(f"{what}: {values.sum():,.0f} in all", fontsize=9)
    ax.tick_params(labelsize=7)
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# ## 8. The same with a larger model
#
# SmolLM2-135M on one H100, where the base is a pretrained model that can hardly do the task.

# %%
larger = open_run(larger_run_folder)
larger_evaluations = evaluations_of(larger)
print("seconds in all:", round(sum(manifest["figures"]["seconds"] for manifest in larger.stages.values())))
pd.DataFrame({MODEL_LABELS[name]: row_of(figures) for name, figures in larger_evaluations.items()}).T

# %%
show_evaluations(larger_evaluations)

# %% [markdown]
# ## 9. Running, resuming and changing a run
#
# `--dry-run` prints what a command would do. In an empty folder all stages would run.

# %%
plain = {"COLUMNS": "100", "FORCE_COLOR": ""}
command = [sys.executable, "../experiments/r1.py", "--dry-run", "--out=../build/notebooks/r1"]
done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **plain})
print(done.stdout, done.stderr)

# %% [markdown]
# | command | what happens |
# | --- | --- |
# | `python experiments/r1.py` | runs the stages that are not finished; after Ctrl-C or a kill, the same command resumes in the middle of a stage |
# | `... --until cold_start` | stops after this stage and its evaluation |
# | `... --only sft` | runs this stage alone; those that it reads must be finished |
# | `... --sft.learning-rate=1e-3` | is refused if `sft` is finished with another value, with one line that names the difference |
# | `... --sft.learning-rate=1e-3 --force` | removes and repeats `sft` and all stages that read it, and keeps the others |
# | `... --reasoning-rl.steps=80` | continues a finished stage of 50 steps to 80; what reads it needs `--force` |
#
# A stage is a function of settings and input folders that writes one folder: `r1jax/recipe` has one file for each kind,
# `r1jax/recipe/table.py` is the table of the graph, and `r1jax/pipeline` runs it. CONTRIBUTING.md shows how to add one.
