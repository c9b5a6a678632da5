"""R1-Zero: reinforcement learning from rule rewards on a base model (arXiv 2501.12948, section 2.2).

    python experiments/r1_zero.py                          a base model is made first; two CPU cores, minutes
    python experiments/r1_zero.py --preset smollm2         SmolLM2-135M on arithmetic; one GPU, minutes
    python experiments/r1_zero.py --base PATH --mesh 8x1   any Llama or Qwen checkpoint, on eight devices

base -> evaluation -> GRPO with accuracy and format rewards -> evaluation, all in one folder; the same command goes on
where a run was stopped or killed. Left out: cold start, supervised fine-tuning and reward models, which belong to R1
and not to R1-Zero.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from r1jax import cli
from r1jax.checkpoints.huggingface import save_huggingface
from r1jax.checkpoints.load import load, read_config, read_tokenizer, resolve, short_name
from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemsConfig, ProblemSet, check_problems, is_file, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template, find_template
from r1jax.disk import alone, write_whole
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig, evaluate, evaluation_from, read_completions
from r1jax.evaluation.paired import changes
from r1jax.models.attention import check_attention
from r1jax.models.config import CHANGEABLE_COMPUTE_OPTIONS, ComputeOptions, with_compute_options
from r1jax.models.transformer import param_specs
from r1jax.pipeline.command import keep_compiled, print_opening, run_command, weights_of
from r1jax.pipeline.manifest import MANIFEST, claim_folder, file_hash, run_stage, versions
from r1jax.recipe.pretraining import PretrainConfig, pretrain
from r1jax.report.comparison import comparison_markdown, comparison_table, headline, side_by_side
from r1jax.report.curves import plot_curves, plot_headline, plot_pass_at_k
from r1jax.report.html import fenced, to_html
from r1jax.rewards.config import RewardSpec, VerifierConfig, parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.rl.config import RLConfig, check_run
from r1jax.rl.rollouts import Environment
from r1jax.rl.train import reinforce
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.seeds import stage_key
from r1jax.sharding import make_mesh, param_shardings, parse_mesh
from r1jax.tokenizer import Tokenizer
from r1jax.training.loop import SaveConfig
from r1jax.training.metrics import read_metrics


@dataclasses.dataclass(frozen=True)
class Config(ComputeOptions):
    """Everything that a run is made of."""

    base: str = "pretrain"
    """The model to start from: pretrain (make a small one), smollm2, a Hugging Face folder, a .gguf file or a run."""
    out: Path | None = None
    """Output folder; None: runs/r1-zero-BASE-seedSEED."""
    mesh: str = "1x1"
    """Devices as DATAxMODEL."""
    seed: int = 0
    """Of everything random."""
    template: str = "think"
    """Prompt: think, r1-zero, r1-zero-chat or number."""
    rewards: tuple[str, ...] = ("accuracy", "format")
    """NAME[=WEIGHT] or FILE.py:NAME[=WEIGHT]; files alone are added to accuracy and format."""
    preview: bool = False
    """Print prompts, samples of the base model and their rewards, then stop."""
    problems: ProblemsConfig = ProblemsConfig()
    sampling: Sampling = Sampling(max_tokens=48)
    rl: RLConfig = RLConfig(steps=100, prompts=32, group=8, learning_rate=4e-4, schedule="cosine")
    verifier: VerifierConfig = VerifierConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    save: SaveConfig = SaveConfig()
    pretrain: PretrainConfig = PretrainConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed={self.seed} must be at least 0 and below {2**31}")


# Settings of how a run computes, and not of what: with others of these the same folder goes on.
HOW = (
    *CHANGEABLE_COMPUTE_OPTIONS,
    "mesh",
    "preview",
    "sampling.slots",
    "rl.microbatch",
    "rl.logprob_chunk",
    "verifier.workers",
    "verifier.deadline",
    "save.every",
    "save.keep_last",
    "save.keep_best",
)


PRESETS = {
    "tiny": ("a small model made on the spot, two-digit sums and differences; minutes on two CPU cores", Config()),
    "smollm2": (
        "SmolLM2-135M on one-digit sums and products; minutes on one GPU",
        Config(
            base="smollm2",
            template="number",
            dtype="bfloat16",
            problems=ProblemsConfig(digits=1, operations="+*", held_out_share=0.25),
            sampling=Sampling(max_tokens=24),
            rl=RLConfig(steps=80, prompts=64, group=16, microbatch=256, learning_rate=3e-5, warmup_steps=5),
            evaluation=EvaluationConfig(samples=16),
            verifier=VerifierConfig(workers=8),
            save=SaveConfig(every=50),
        ),
    ),
    "r1-zero": (
        "the published settings (arXiv 2501.12948): give --base, --problems.source and a --mesh that holds it",
        Config(
            base="pretrain",
            template="r1-zero",
            dtype="bfloat16",
            remat="block",
            problems=ProblemsConfig(source="gym:gsm_symbolic"),
            # 65,536 after step 8,200 in the paper: start again from the checkpoint with the longer limit.
            sampling=Sampling(max_tokens=32_768),
            rl=RLConfig(
                # A step here is a rollout of 8,192 outputs and 16 updates: 650 of them are the 10,400 steps of the
                # paper, and the reference is replaced every 25, which are its 400.
                steps=650,
                prompts=512,
                group=16,
                minibatches=16,
                microbatch=16,
                learning_rate=3e-6,
                beta=0.001,
                reference_every=25,
            ),
            verifier=VerifierConfig(workers=16),
            save=SaveConfig(every=5),
        ),
    ),
}


def default_preset(words: list[str]) -> str:
    """The preset of a command line that names none: weights that a preset was made for bring it along."""
    text = " ".join(words)
    return "smollm2" if re.search(r"--base[ =]smollm2(?![^ ])", text) else "tiny"


def claim(config: Config, out: Path, console: Console) -> None:
    """Claims the folder for the run; where ``rl.steps`` is more than before, opens its end again to go on from there.

    Raises UserError naming other settings that differ.
    """
    settings = dataclasses.replace(config, out=None)
    for name, (old, new) in claim_folder(out, settings, HOW, rising=["rl.steps"]).items():
        # What says that the run is finished goes first, and the new settings come last: killed between, it is redone.
        for file in (out / "summary.json", out / "evaluation_after" / MANIFEST):
            file.unlink(missing_ok=True)
        write_whole(out / "config.json", cli.to_json(settings))
        console.print(f"{out}: {name} was {old}, now {new}: goes on to there and measures anew", highlight=False)
        if config.rl.schedule != "constant":
            console.print(
                f"the {config.rl.schedule} schedule of {new} steps is followed from here; what was trained followed "
                f"that of {old}",
                style="yellow",
                markup=False,
            )


def check(config: Config) -> None:
    """Refuses what is known to fail before a device, a folder or a weight is touched."""
    check_problems(config.problems)
    data, _ = parse_mesh(config.mesh)
    check_run(config.rl, config.sampling, data)
    if config.base == "pretrain" and config.pretrain.batch % data:
        raise UserError(
            f"pretrain.batch={config.pretrain.batch} does not split over the {data} devices of the data axis"
        )
    template = find_template(config.template)
    if config.base == "pretrain":
        if config.problems.source != "arithmetic" or config.problems.terms != 2:
            given = "source" if config.problems.source != "arithmetic" else "terms"
            raise UserError(
                f"--problems.{given}={getattr(config.problems, given)} needs a model of yours, since --base=pretrain "
                "makes one that knows arithmetic of two terms alone: give --base=FOLDER, --base=FILE.gguf or "
                "--base=smollm2, or set --problems.source=arithmetic --problems.terms=2"
            )
        if template.chat:
            raise UserError(f"--template={template.name} needs a chat model: give --base, or --template=think")
        context = _pretrain_context(config)
    else:
        context = read_config(config.base).context_length
    if config.sampling.max_tokens >= context:
        raise UserError(
            f"--sampling.max-tokens={config.sampling.max_tokens} leaves no room for a prompt in the model's context of "
            f"{context} tokens"
        )


def reward_specs(config: Config) -> tuple[RewardSpec, ...]:
    """The rewards asked for; accuracy is always among them, with weight 0 where it was not, since it is evaluated."""
    names = config.rewards
    if names and all(".py:" in name for name in names):
        names = ("accuracy", "format", *names)
    specs = parse_rewards(names)
    if not any(spec.name == "accuracy" for spec in specs):
        specs += (RewardSpec("accuracy", None, 0.0),)
    return specs


def check_prompts(config: Config, problems: ProblemSet, template: Template, tokenizer: Tokenizer, context: int) -> int:
    """Tokens of the longest prompt; refuses prompts that with their completions are beyond the context."""
    width = max(len(template.prompt_ids(p, tokenizer)) for p in (*problems.train, *problems.held_out))
    if width + config.sampling.max_tokens > context:
        raise UserError(
            f"the longest prompt has {width} tokens and --sampling.max-tokens={config.sampling.max_tokens}: together "
            f"they are beyond the model's context of {context}"
        )
    return width


def input_hashes(config: Config, specs: tuple[RewardSpec, ...]) -> dict[str, str]:
    """Hashes of the files that a run reads, so that other contents under the same names are noticed."""
    base = [] if config.base == "pretrain" else [resolve(config.base)[0]]
    sources = [config.problems.source, config.problems.held_out_source]
    files = [Path(source) for source in sources if source and is_file(source)]
    return {str(path): file_hash(path) for path in (*base, *files, *(Path(s.file) for s in specs if s.file))}


def make_base(config: Config, template: Template, out: Path) -> tuple[Model, float]:
    """The base model on the entered mesh, and the seconds that making it took, now or when it was made."""
    path, seconds = config.base, 0.0
    if config.base == "pretrain":
        folder = out / "base"
        settings = {"pretrain": config.pretrain, "problems": config.problems, "seed": config.seed}
        figures = run_stage(
            folder,
            "pretrain",
            settings,
            {},
            lambda: pretrain(
                config.pretrain, config.save, template, config.problems, _pretrain_context(config), config.seed, folder
            ),
        )
        path, seconds = str(folder), figures["seconds"]
    shardings = param_shardings(param_specs(read_config(path)), jax.sharding.get_mesh())
    model = load(path, config.rl.param_dtype, shardings)
    return dataclasses.replace(model, config=with_compute_options(model.config, config)), seconds


def _pretrain_context(config: Config) -> int:
    return config.pretrain.width + config.sampling.max_tokens


def show_preview(model: Model, environment: Environment, seed: int, console: Console) -> None:
    """Prints prompts, samples of the base model and each of their rewards."""
    problems = environment.problems[:4]
    prompts = [environment.template.prompt_ids(p, model.tokenizer) for p in problems]
    samples = sample(
        model.params,
        prompts,
        model.config,
        stage_key(seed, "preview"),
        sampling=environment.sampling,
        end_tokens=model.tokenizer.eos_ids,
        samples_per_prompt=4,
    )
    completions = read_completions(samples, model.tokenizer, environment.template, environment.sampling)
    scores = environment.pool.score([p for p in problems for _ in range(4)], completions)
    for i, (completion, values, total) in enumerate(zip(completions, scores.values, scores.total, strict=True)):
        if i % 4 == 0:
            console.rule(f"{problems[i // 4].question} -> {problems[i // 4].answer}", align="left")
            console.print(model.tokenizer.decode(prompts[i // 4]), style="dim", markup=False, highlight=False)
        listed = "  ".join(f"{name} {value:g}" for name, value in zip(scores.names, values, strict=True))
        console.print(completion.text, markup=False, highlight=False)
        console.print(f"reward {total:g}  ({listed})  {completion.tokens} tokens", style="bold", markup=False)
    means = "  ".join(f"{name} {scores.values[:, i].mean():.2f}" for i, name in enumerate(scores.names))
    console.rule(f"mean rewards: {means}", align="left")


def finish(
    config: Config, out: Path, before: dict[str, Any], after: dict[str, Any], base_seconds: float, console: Console
) -> None:
    """Writes pictures, report.md, report.html and summary.json, and prints some completions and the table."""
    rows = read_metrics(out)
    old, new = evaluation_from(before["evaluation"]), evaluation_from(after["evaluation"])
    title = f"R1-Zero · {short_name(config.base)} · seed {config.seed}"
    models = {"base": "base", "R1-Zero": "zero"}
    plot_curves({"": rows}, out / "curves.png", title, {"": "zero"})
    plot_headline({"base": old, "R1-Zero": new}, out / "pass-at-1.png", title, models)
    plot_pass_at_k({"base": old, "R1-Zero": new}, out / "pass-at-k.png", title, models)
    pairs = [
        (a["question"], a["completion"], b["completion"])
        for a, b in zip(before["completions"][:4], after["completions"][:4], strict=True)
    ]
    examples = side_by_side(pairs, width=min(console.width, 100))
    devices = jax.sharding.get_mesh().devices.flatten()
    figures = {"before": old, "after": new}
    summary = {
        **{f"accuracy_{when}": e.pass_at[1] for when, e in figures.items()},
        **{f"pass_at_{k}_{when}": value for when, e in figures.items() for k, value in e.pass_at.items() if k > 1},
        **{f"maj_at_{k}_{when}": value for when, e in figures.items() for k, value in e.maj_at.items()},
        **{f"format_{when}": e.format_rate for when, e in figures.items()},
        **{f"mean_length_{when}": e.mean_length for when, e in figures.items()},
        **{f"truncated_share_{when}": e.truncated_share for when, e in figures.items()},
        "changes": {name: dataclasses.asdict(change) for name, change in (changes(old, new) or {}).items()},
        "held_out_problems": old.n_problems,
        "steps": len(rows),
        "seconds": base_seconds + before["seconds"] + after["seconds"] + sum(row["seconds"] for row in rows),
        "seconds_base": base_seconds,
        "tokens_per_second": sum(r["tokens_per_second"] * r["seconds"] for r in rows) / sum(r["seconds"] for r in rows),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "seed": config.seed,
        "versions": versions("jax", "flax", "optax"),
    }
    names = {"pass@1": "pass-at-1.png", "pass@k": "pass-at-k.png", "training, step by step": "curves.png"}
    pictures = "\n\n".join(f"![{text}]({name})" for text, name in names.items() if (out / name).exists())
    parts = (f"# {title}", headline(old, new), comparison_markdown(old, new), pictures, "## Samples", fenced(examples))
    report = "\n\n".join(parts)
    write_whole(out / "report.md", report)
    write_whole(out / "report.html", to_html(report, title, out))
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    console.print(examples, markup=False, highlight=False)
    console.print(
        f"{out}: report.html, summary.json, metrics.jsonl, model/ (Hugging Face)", highlight=False, soft_wrap=True
    )
    show_result(before, after, console)


def show_result(before: dict[str, Any], after: dict[str, Any], console: Console) -> None:
    """Prints the table of two evaluations, and last the line that says it all."""
    old, new = evaluation_from(before["evaluation"]), evaluation_from(after["evaluation"])
    console.print(comparison_table(old, new, title="R1-Zero"))
    console.print(headline(old, new), style="bold", markup=False, highlight=False)


def main() -> None:
    """Runs the experiment that the command line asks for."""
    config = cli.parse(
        PRESETS, default_preset(sys.argv[1:]), prog="r1_zero.py", description=(__doc__ or "").splitlines()[0]
    )
    out = config.out or Path("runs") / f"r1-zero-{short_name(config.base)}-seed{config.seed}"
    specs = reward_specs(config)
    check(config)
    problems = load_problems(config.problems)
    template = find_template(config.template)
    if not template.tags and any(p.checker != "number" for p in problems.train):
        raise UserError(f"--template={template.name} asks for a number, and some answers of the problems are none")
    if config.base != "pretrain":
        check_prompts(config, problems, template, read_tokenizer(config.base), read_config(config.base).context_length)
    keep_compiled()
    mesh = make_mesh(config.mesh)
    check_attention(config)
    console = Console()
    with (
        nullcontext() if config.preview else alone(out),
        RewardPool(specs, config.verifier.workers, config.verifier.deadline) as pool,
        jax.set_mesh(mesh),
    ):
        if not config.preview:
            claim(config, out, console)
        if (out / "summary.json").exists() and not config.preview:
            console.print(
                f"{out} is finished: give another --out, or remove it to run it again", highlight=False, soft_wrap=True
            )
            before, after = (
                json.loads((out / f"evaluation_{when}" / MANIFEST).read_text())["figures"]
                for when in ("before", "after")
            )
            show_result(before, after, console)
            return
        print_opening(console, weights_of(config.base, out / "base"), out)
        model, base_seconds = make_base(config, template, out)
        width = check_prompts(config, problems, template, model.tokenizer, model.config.context_length)
        environment = Environment(problems.train, template, pool, config.sampling, config.seed, width)
        if config.preview:
            show_preview(model, environment, config.seed, console)
            return
        inputs = input_hashes(config, specs)
        held_out = problems.held_out[: config.evaluation.problems]

        def measure(name: str, model: Model) -> dict[str, Any]:
            return run_stage(
                out / name,
                "evaluate",
                config.evaluation,
                inputs,
                lambda: measured(model, dataclasses.replace(environment, stage=name), held_out, config.evaluation),
            )

        before = measure("evaluation_before", model)
        first = evaluation_from(before["evaluation"])
        if not first.format_rate and not first.pass_at[1]:
            console.print(
                "no held-out sample has a right answer or the format: rewards may stay at 0; look with --preview",
                style="yellow",
                markup=False,
            )
        trained = reinforce(model, environment, config.rl, config.save, out)
        after = measure("evaluation_after", trained)
        save_huggingface(trained, out / "model", replace=True)  # killed before the summary, it comes here again
        finish(config, out, before, after, base_seconds, console)


def measured(
    model: Model, environment: Environment, problems: tuple[Problem, ...], config: EvaluationConfig
) -> dict[str, Any]:
    """An evaluation and its first completions, as figures of the environment's stage."""
    began = time.perf_counter()
    evaluation, judged = evaluate(
        model.params,
        model.config,
        model.tokenizer,
        environment.template,
        problems,
        environment.pool,
        dataclasses.replace(environment.sampling, temperature=config.temperature),
        config.samples,
        environment.seed,
        environment.stage,
    )
    return {
        "evaluation": dataclasses.asdict(evaluation),
        "completions": [dataclasses.asdict(one) for one in judged[:20]],
        "seconds": time.perf_counter() - began,
    }


if __name__ == "__main__":
    advice = "lower --rl.microbatch, --sampling.slots or --rl.logprob-chunk, or add --remat=block or --gather=layer"
    run_command(main, advice)
