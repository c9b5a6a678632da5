"""Evaluates models on tasks by the published protocol: temperature 0.6, top-p 0.95, pass@1 as the mean over samples.

    python experiments/evaluate.py --model PATH --tasks gsm8k,math500,gym:gsm_symbolic       files in the folder data/
    python experiments/evaluate.py --model PATH --tasks gsm8k --data hf:                     data sets of the hub
    python experiments/evaluate.py --model A B --tasks aime24 --samples 64                   pass@k and cons@64
    python experiments/evaluate.py --endpoint http://localhost:8000/v1 --model NAME --tasks gsm8k
    python experiments/evaluate.py --compare runs/evaluation/A runs/evaluation/B             samples nothing

Each model has a folder with each judged completion, report.md, report.html, summary.json and pictures; several models
are compared problem by problem. A command that was stopped or killed goes on from the completions that it has written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import jax
from rich.console import Console

from r1jax import cli
from r1jax.checkpoints.load import read_config, read_tokenizer, resolve, short_name
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.evaluation.endpoint import Endpoint
from r1jax.evaluation.estimators import MOST_SAMPLES
from r1jax.evaluation.tasks.sources import Source, find_sources, read_source
from r1jax.evaluation.tasks.table import find_tasks, for_problems
from r1jax.evaluation.tasks.task import Task
from r1jax.models.attention import check_attention
from r1jax.models.config import ComputeOptions
from r1jax.models.experts import check_mesh
from r1jax.pipeline.command import call_and_exit, keep_compiled, print_opening
from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.manifest import machine, versions
from r1jax.pipeline.plan import make_plan, plan_table
from r1jax.pipeline.stage import Stage
from r1jax.recipe.loading import keep_models
from r1jax.recipe.task_evaluation import TaskSettings, problems_hash, stage_name, task_stage, template_of
from r1jax.report.finished_evaluations import ModelResults, distinct_names, of_models, read_evaluation
from r1jax.report.harness import write_harness
from r1jax.report.task_evaluation import screen_table, write_model_comparison, write_report
from r1jax.rewards.code.isolation import choose_level
from r1jax.rewards.config import VerifierConfig
from r1jax.sampling.processors import Sampling
from r1jax.sharding import make_mesh
from r1jax.tokenizer import Tokenizer

HARNESS = "lm-eval"  # the folder with the layout of lm-evaluation-harness


@dataclasses.dataclass(frozen=True)
class TaskSampling:
    """How completions are drawn; the defaults are those of the published evaluations (arXiv 2501.12948, section 3)."""

    temperature: float = 0.6
    """Divide logits by this temperature; 0 decodes greedily and needs --samples=1."""
    top_p: float = 0.95
    """Keep the smallest set of most likely tokens whose total probability reaches this value."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all tokens."""
    min_p: float = 0.0
    """Drop tokens whose probability is below this fraction of the highest one."""
    max_tokens: int | None = None
    """Sample at most this many tokens per completion. None: the number of the task, or what the model's context has."""
    slots: int = 0
    """Decode this many sequences in parallel, over all devices; 0 decodes as many as fit into memory."""

    def of(self, max_tokens: int) -> Sampling:
        """The settings of the sampler with the longest completion of a task."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, max_tokens, self.slots)


@dataclasses.dataclass(frozen=True)
class Config:
    """The models, the tasks, and how completions are drawn."""

    model: tuple[str, ...] = ()
    """The models: Hugging Face folders, .gguf files, folders of runs, smollm2; with --endpoint their names there."""
    tasks: tuple[str, ...] = ()
    """The tasks, separated by spaces or commas: gsm8k, math500, aime24, gpqa, mmlu, humaneval, mbpp, livecodebench,
    arithmetic, countdown, word-problems, gym:NAME, or problems for the held-out problems of --problems."""
    data: tuple[str, ...] = ("data",)
    """Search these folders for the files of tasks. TASK=SOURCE names the file, folder or hf:ORG/NAME of one task, and
    hf: reads the data set of each task from the hub."""
    out: Path = Path("runs/evaluation")
    """The output folder, in which each model has a folder."""
    compare: tuple[Path, ...] = ()
    """Compare the finished evaluations in these folders of models, and sample nothing. Files, and lm-eval beside the
    folders, are left out, so that OUT/* names all models."""
    samples: int | None = None
    """Draw this many samples per problem. None: the number of the task. A larger number continues a finished task."""
    limit: int | None = None
    """Evaluate on the first problems of each task, at most this many."""
    template: str | None = None
    """The prompt template, such as think or r1-zero. None: the prompt of the task, in the model's chat template."""
    seed: int = 0
    """The random seed. A sample depends on it, the task, the problem and the number of the sample alone."""
    sampling: TaskSampling = TaskSampling()
    problems: ProblemsConfig = ProblemsConfig()
    verifier: VerifierConfig = VerifierConfig()
    batch: int = 512
    """Sample about this many sequences in one compiled program; they are judged and written together."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Load the weights and compute in this type."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """Use this attention kernel for prompts; auto selects cudnn for bfloat16 on a GPU, else xla."""
    mesh: str = "1x1"
    """The devices as DATAxMODEL or DATAxMODELxEXPERT, or with named axes, such as data:2,expert:4."""
    endpoint: str | None = None
    """The address of an OpenAI-compatible server to ask instead. The key is read from OPENAI_API_KEY."""
    concurrency: int = 16
    """Send this many requests to the endpoint at a time."""
    retries: int = 5
    """Repeat a request that failed this many times, each time after a longer pause."""
    timeout: float = 600.0
    """Wait this many seconds for a completion of the endpoint."""
    force: bool = False
    """Remove and run again the tasks that were run with other settings."""
    dry_run: bool = False
    """Print the plan and stop."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed={self.seed} must be at least 0 and below {2**31}")
        for name in ("samples", "limit", "batch", "concurrency"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name}={value} must be at least 1")
        if self.samples is not None and self.samples > MOST_SAMPLES:
            raise UserError(f"--samples={self.samples} must be at most {MOST_SAMPLES}")
        if self.retries < 0 or not self.timeout > 0:
            raise UserError("--retries must be at least 0 and --timeout above 0")


def names_of(models: Sequence[str]) -> list[str]:
    """A folder name for each model: the last part of its path, or as many more parts as it takes to differ."""
    # A path such as .. has a name only as an absolute one.
    paths = [Path(os.path.abspath(model)) if Path(model).exists() else Path(model) for model in models]
    for depth in range(1, 8):
        names = ["-".join(part for part in path.parts[-depth:] if part != "/") for path in paths]
        if len(set(names)) == len(names):
            return [short_name(name) for name in names]
    raise UserError("--model names a model twice: name each once")


def check_samples(config: Config, tasks: Sequence[Task]) -> dict[str, int]:
    """Task -> samples per problem; raises UserError for several samples without randomness."""
    counts = {task.name: config.samples or task.samples for task in tasks}
    if config.sampling.temperature == 0 and max(counts.values()) > 1:
        raise UserError("--sampling.temperature=0 draws equal samples: add --samples=1")
    return counts


def limit_of(config: Config, task: Task, model: str, width: int) -> int:
    """The longest completion of a task in tokens; raises UserError if a prompt of ``width`` tokens leaves no room."""
    context, given = read_config(model).context_length, config.sampling.max_tokens
    room = context - width
    if room < 1 or (given is not None and given > room):
        what = f"--sampling.max-tokens={given}" if given is not None else "a completion"
        raise UserError(
            f"{task.name}: a prompt of {width} tokens and {what} do not fit the context of {model}, {context} tokens: "
            + (f"at most {room} fit" if room > 0 else "leave the task out, or give another --template")
        )
    return given or min(task.max_tokens, room)


def stages_of(
    config: Config, model: str, tasks: Sequence[Task], problems: dict[str, list[Problem]], sources: dict[str, Source]
) -> list[Stage]:
    """A stage for each task of a model; checks that prompts can be written and fit its context."""
    endpoint = Endpoint(config.endpoint, model, config.retries, config.timeout) if config.endpoint else None
    if not endpoint:
        check_mesh(config.mesh, read_config(model))
    tokenizer: Tokenizer | None = None if endpoint else read_tokenizer(model)
    chat = tokenizer is None or tokenizer.chat_template is not None
    counts = check_samples(config, tasks)
    stages = []
    for task in tasks:
        template = template_of(task, chat, config.template)
        if tokenizer is not None:
            width = max(len(template.prompt_ids(problem, tokenizer)) for problem in problems[task.name])
            longest = limit_of(config, task, model, width)
        elif not template.chat:
            raise UserError(f"--template={config.template} is plain text, and an endpoint takes messages: leave it out")
        else:
            longest = config.sampling.max_tokens or task.max_tokens
        settings = TaskSettings(
            task=task.name,
            problems=problems_hash(problems[task.name]),
            limit=config.limit,
            samples=counts[task.name],
            template=config.template,
            chat=chat,
            sampling=config.sampling.of(longest),
            seed=config.seed,
            endpoint=endpoint,
            source=sources[task.name],
            batch=config.batch,
            concurrency=config.concurrency,
            verifier=config.verifier,
            dtype=config.dtype,
            attention=config.attention,
        )
        costs = {"problems": str(len(problems[task.name])), "samples": str(settings.samples), "tokens": str(longest)}
        reads = {} if endpoint else {"model": resolve(model)[0]}
        check = partial(choose_level, config.verifier.code) if task.form == "code" else lambda: None
        stages.append(Stage(stage_name(task.name), task_stage, settings, reads, costs, check=check))
    return stages


def evaluate_model(config: Config, name: str, model: str, stages: Sequence[Stage], console: Console) -> None:
    """Runs the stages of a model in its folder."""
    where = {"device": config.endpoint, **versions("jax")} if config.endpoint else machine()
    made_by = {"command": shlex.join(["python", "experiments/evaluate.py", *sys.argv[1:]]), "model": name, **where}
    out = config.out / name
    if config.endpoint:
        console.print(f"endpoint: {config.endpoint}, model: {model}, folder: {out}", highlight=False, soft_wrap=True)
    else:
        print_opening(console, str(resolve(model)[0]), out)
    with keep_models():  # all tasks have the same weights
        execute_pipeline(
            stages,
            out,
            force=config.force,
            config=config,
            made_by=made_by,
            report=lambda line: console.print(line, style="bold", markup=False, highlight=False, soft_wrap=True),
        )


def report(folders: Sequence[Path], tasks: Sequence[str] | None, out: Path, console: Console) -> None:
    """Writes and prints the comparison of several models in ``out``. tasks: those to print for one model, or all."""
    results = [read_evaluation(folder) for folder in folders]
    if len(results) > 1:
        results = distinct_names(results)
        write_model_comparison(results, out)
    shown = results if tasks is None or len(results) > 1 else [_only(results[0], tasks)]
    console.print(screen_table(shown))
    folder = out if len(results) > 1 else results[0].folder
    console.print(f"{folder}: report.html, summary.json", highlight=False, soft_wrap=True)


def _only(results: ModelResults, tasks: Sequence[str]) -> ModelResults:
    return dataclasses.replace(results, tasks={name: results.tasks[name] for name in tasks})


def check(config: Config) -> None:
    """Raises UserError for flags that contradict each other."""
    if config.compare and (config.model or config.tasks):
        raise UserError("--compare reads finished evaluations: leave out --model and --tasks")
    if config.compare and len(config.compare) < 2:
        raise UserError("--compare needs two folders or more, such as runs/evaluation/A runs/evaluation/B")
    if not config.compare and not config.model:
        raise UserError("no model: give --model a Hugging Face folder, a .gguf file, the folder of a run, or smollm2")


def main() -> None:
    """Evaluates the models of the command line, or compares finished evaluations."""
    presets = {"evaluate": ("The published protocol.", Config())}
    config = cli.parse(presets, "evaluate", prog="evaluate.py", description=(__doc__ or "").splitlines()[0])
    check(config)
    console = Console()
    if config.compare:
        report(of_models(config.compare, HARNESS), None, config.out, console)
        return
    tasks = find_tasks(config.tasks)
    names = names_of(config.model)
    sources = find_sources(tasks, config.data, config.problems)
    problems = {task.name: read_source(task, sources[task.name], config.limit) for task in tasks}
    tasks = [for_problems(task, problems[task.name]) for task in tasks]
    stages = {model: stages_of(config, model, tasks, problems, sources) for model in config.model}
    folders = {model: config.out / name for model, name in zip(config.model, names, strict=True)}
    plans = {model: make_plan(stages[model], folders[model]) for model in config.model}
    if config.dry_run:
        for model, plan in plans.items():
            console.print(f"{model}, folder: {folders[model]}", highlight=False, soft_wrap=True)
            console.print(plan_table(plan))
        return
    with contextlib.ExitStack() as stack:
        if not config.endpoint:
            check_attention(ComputeOptions(dtype=config.dtype, attention=config.attention))
            keep_compiled()
            stack.enter_context(jax.set_mesh(make_mesh(config.mesh)))
        for model, name in zip(config.model, names, strict=True):
            evaluate_model(config, name, model, stages[model], console)
            results = read_evaluation(folders[model])
            write_report(results, folders[model])
            write_harness(results, config.out / HARNESS)
    report(list(folders.values()), [task.name for task in tasks], config.out, console)


if __name__ == "__main__":
    call_and_exit(main, "lower --batch or --sampling.slots, or use more devices with --mesh")
