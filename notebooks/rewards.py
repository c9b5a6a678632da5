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
# # Your own problems and rewards, and a reward hack
#
# *Two CPU cores: 3 minutes, and 4 more the first time, when a small base model is pretrained. Quick size: 1 minute.*
#
# Reinforcement learning raises the reward that you wrote down, which need not be the one that you had in mind. This
# notebook writes a problem set and a reward function, looks at the rewards *before* training, trains, finds that the
# policy has learned to cheat, and repairs the reward.

# %% tags=["parameters"]
folder = "../runs/notebooks"  # quick: "../build/notebooks"
pretrain_steps = 900  # quick: 30
steps = 40  # quick: 4
prompts = 16  # quick: 4
group = 8

# %%
import dataclasses
import json
import random
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import r1jax
from r1jax.recipe.base_model import small_base

base = Path(folder) / "base" / "pretrain"
out = Path(folder) / "rewards"
out.mkdir(parents=True, exist_ok=True)
model = small_base(base.parent, pretrain_steps)
pd.options.display.max_colwidth = 120

# %% [markdown]
# ## 1. A problem set
#
# A problem set is a JSONL (or parquet) file with the columns `prompt` and `answer`. The column `kind` is optional:
# accuracy is also reported for each kind. These are sums of two-digit numbers. A sum whose ones add up to 10 or more
# has a carry, and is harder.

# %%
draw = random.Random(0)
lines = []
for a, b in sorted({(draw.randint(10, 99), draw.randint(10, 99)) for _ in range(800)}):
    kind = "carry" if a % 10 + b % 10 >= 10 else "plain"
    lines.append(json.dumps({"prompt": f"{a} + {b}", "answer": a + b, "kind": kind}))
problem_file = out / "sums.jsonl"
problem_file.write_text("\n".join(lines) + "\n")
print(*lines[:3], sep="\n")

# %% [markdown]
# `load_problems` reads the file and holds out a tenth of it. The choice depends on a hash of the problem, so no seed
# ever trains on a held-out problem. Mistakes in the file are reported with their line.

# %%
from r1jax.data.problems.dataset import ProblemsConfig, load_problems

source = ProblemsConfig(source=str(problem_file))
problems = load_problems(source)
print(len(problems.train), "for training,", len(problems.held_out), "held out")
pd.DataFrame(map(vars, problems.train[:4]))[["question", "answer", "kind", "checker"]]

# %% [markdown]
# ## 2. A reward
#
# The papers report that models learn to stop and check their work: "wait", "let me see". Suppose that we want more of
# that, and reward it. A reward is a function of the problem and the completion with the mark `@reward`, in any Python
# file. It returns one number.

# %%
reward_file = out / "my_rewards.py"
reward_file.write_text('''
from r1jax.rewards import Completion, Problem, reward

@reward
def reflection(problem: Problem, completion: Completion) -> float:
    """A point for each sign of second thoughts."""
    text = completion.text
    return float(text.count("wait") + text.count("let me see"))
''')

# %% [markdown]
# ## 3. A preview
#
# Before anything is trained: what does this reward say about samples of the base model? `parse_rewards` reads the
# names that the command line also takes, and `RewardPool` computes the rewards in worker processes.

# %%
from r1jax.data.text.template import find_template
from r1jax.rewards.completions import completions_from_samples
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.sampling.processors import Sampling

template, sampling = find_template("think"), Sampling(max_tokens=48)
asked = problems.train[:32]
samples = r1jax.sample(
    model.params,
    [template.prompt_ids(problem, model.tokenizer) for problem in asked],
    model.config,
    jax.random.key(0),
    sampling=sampling,
    end_tokens=model.tokenizer.eos_ids,
    samples_per_prompt=group,
)
completions = completions_from_samples(samples, model.tokenizer, template, sampling)

# %%
names = ("accuracy", "format", f"{reward_file}:reflection")
with RewardPool(parse_rewards(names), workers=2, deadline=5.0) as pool:
    scores = pool.score([problem for problem in asked for _ in range(group)], completions)
preview = pd.DataFrame(scores.values, columns=pd.Index(scores.names))
preview["total"] = scores.total
preview.insert(0, "completion", [completion.text for completion in completions])
preview.head(8)

# %% [markdown]
# The average looks harmless. The samples with the *highest* reward do not: this is where training will go.

# %%
preview.sort_values("total", ascending=False, kind="stable").head(4)

# %%
reflects = np.where(preview["reflection"] > 0, "with second thoughts", "without")
preview[["accuracy", "format", "total"]].groupby(reflects).agg("mean").round(2)

# %% [markdown]
# In the base model's text, second thoughts come in loops that never reach an answer. A careful person would stop here.
# We train, to see what happens.
#
# ## 4. Training with it
#
# The stage is the one that `experiments/r1_zero.py` runs. On the command line:
#
# ```sh
# cd runs/notebooks
# python ../../experiments/r1_zero.py --base base/pretrain --problems.source rewards/sums.jsonl \
#     --rewards accuracy format rewards/my_rewards.py:reflection --rl.steps 40 --rl.prompts 16
# ```

# %%
from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.stage import Stage
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, reasoning_rl_stage
from r1jax.rewards.config import VerifierConfig
from r1jax.rl.config import RLConfig
from r1jax.training.loop import SaveConfig
from r1jax.training.metrics import read_metrics

# %%
settings = ReasoningRLSettings(
    rl=RLConfig(steps=steps, prompts=prompts, group=group, learning_rate=4e-4, schedule="cosine"),
    problems=source,
    template=template.name,
    sampling=sampling,
    rewards=names,
    verifier=VerifierConfig(),
    seed=0,
    save=SaveConfig(),
)
reads = {"policy": base, "problems": problem_file, "rewards": reward_file}
execute_pipeline([Stage("hacked", reasoning_rl_stage, settings, reads)], out, force=True, report=lambda line: None)
hacked = read_metrics(out / "hacked")
len(hacked)


# %%
from r1jax.report.curves import smooth

panels = {"reward": "total reward", "reward_accuracy": "accuracy", "reward_format": "format", "length_mean": "tokens"}


def show(runs):
    _, axes = plt.subplots(1, len(panels), figsize=(10, 2.1), dpi=75, layout="constrained")
    for ax, (metric, title) in zip(axes, panels.items(), strict=True):
        for name, rows, colour in runs:
            values = np.array([row[metric] for row in rows])
            ax.plot(values, color=colour, alpha=0.3, linewidth=0.8)
            ax.plot(smooth(values, 5), color=colour, label=name)
        ax.set_title(title, fontsize=9)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("step", fontsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    plt.show()


show([("points for reflection", hacked, "#d55e00")])

# %% [markdown]
# The total reward rises steeply. A dashboard with this number alone would show a success. Accuracy and format fall,
# and the length runs into the limit of 48 tokens.
#
# ## 5. Reading samples
#
# The curves say that something is wrong, the samples say what. `completions.jsonl` holds a few of each step.


# %%
def samples_of(name, step):
    rows = [json.loads(line) for line in (out / name / "completions.jsonl").read_text().splitlines()]
    columns = ["step", "question", "completion", "reward_accuracy", "reward"]
    return pd.DataFrame([row for row in rows if row["step"] == step])[columns]


pd.concat([samples_of("hacked", 0), samples_of("hacked", steps - 1)], ignore_index=True)

# %% [markdown]
# This is **reward hacking**. The policy does what the reward says: it writes the words. It has even found that "wait, let
# me see" pays two points. Nothing in the reward says that there has to be work between them, or an answer after them.
#
# The package looks for the pattern in the metrics of a run: a reward that rises while accuracy falls or the length
# changes much.

# %%
from r1jax.report.reward_hacking import hacking_signs

judged = {"reflection": ["carry", "plain"]}
print(*hacking_signs(hacked, judged), sep="\n")

# %% [markdown]
# ## 6. The repair
#
# Three changes, each of which closes one way to cheat:
#
# - the reward is paid **once**, so that repetition brings nothing;
# - it is paid only if the answer is **right**, so that it cannot be had in place of the task;
# - it is **small** beside accuracy.

# %%
reward_file = out / "my_better_rewards.py"
reward_file.write_text('''
from r1jax.rewards import Completion, Problem, reward
from r1jax.rewards.rules import accuracy

@reward
def reflection(problem: Problem, completion: Completion) -> float:
    """1 for second thoughts that end in the right answer."""
    text = completion.text
    return float(("wait" in text or "let me see" in text) and accuracy(problem, completion) == 1)
''')
names = ("accuracy", "format", f"{reward_file}:reflection=0.2")

# %% [markdown]
# The preview comes first this time: do the samples with the highest reward look like what we want?

# %%
with RewardPool(parse_rewards(names), workers=2, deadline=5.0) as pool:
    scores = pool.score([problem for problem in asked for _ in range(group)], completions)
preview["total"] = scores.total
preview["reflection"] = scores.values[:, 2]
preview.sort_values("total", ascending=False, kind="stable").head(4)

# %%
settings = dataclasses.replace(settings, rewards=names)
reads["rewards"] = reward_file
execute_pipeline([Stage("repaired", reasoning_rl_stage, settings, reads)], out, force=True, report=lambda line: None)
repaired = read_metrics(out / "repaired")
show([("points for reflection", hacked, "#d55e00"), ("repaired", repaired, "#009e73")])

# %%
print(*hacking_signs(repaired, judged), sep="\n")
samples_of("repaired", steps - 1)

# %% [markdown]
# ## 7. What to remember
#
# - Look at the samples with the highest reward before training. `--preview` of `experiments/r1_zero.py` does this.
# - Always log a measure that the policy is not paid for. Accuracy can be logged with weight 0 (`accuracy=0`).
# - Read completions, not only curves.
# - The repaired reward does not teach reflection here, since the base model never reaches an answer after second
#   thoughts: a reward can select only among what the policy samples. Examples would have to come first, as in the cold
#   start of R1.

# %%
last = {name: pd.DataFrame(rows[-(len(rows) // 4) :]) for name, rows in (("hacked", hacked), ("repaired", repaired))}
columns = ["reward", "reward_accuracy", "reward_format", "reward_reflection", "length_mean", "truncated_share"]
pd.DataFrame({name: rows[columns].mean() for name, rows in last.items()}).round(3)
