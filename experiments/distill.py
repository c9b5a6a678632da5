"""Distillation of a run of r1.py into another base model, beside RL on that model alone (arXiv 2501.12948, section 4).

    python experiments/distill.py --teacher runs/r1-pretrain-seed0                   a small Qwen is made first
    python experiments/distill.py --teacher RUN --student PATH                       any Hugging Face folder, or GGUF
    python experiments/distill.py --teacher RUN --student PATH --match.steps=100     then match distributions as well

The student learns the data set of stage 3 by fine-tuning; for comparison the same student learns by RL with rules. Both
are evaluated on the teacher's held-out problems, and the teacher's report gains their rows.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from r1jax import cli
from r1jax.algorithms.grpo import GRPO
from r1jax.checkpoints.load import read_config, read_tokenizer, resolve, short_name
from r1jax.data.text.bilingual_corpus import BilingualCorpusConfig
from r1jax.errors import UserError
from r1jax.pipeline.command import carry_out, run_command, weights_of
from r1jax.pipeline.graph import GraphConfig, Stage, finished
from r1jax.recipe import stages as recipe
from r1jax.recipe.config import MatchSettings, PretrainSettings, RLSettings, SFTSettings, evaluation_from
from r1jax.recipe.distillation import MatchConfig, check_vocabularies
from r1jax.recipe.pretraining import PretrainConfig
from r1jax.recipe.sft import SFTConfig, check_sft
from r1jax.report.recipe_run import EVALUATION, STUDENTS
from r1jax.rl.config import RLConfig, check_run
from r1jax.sharding import parse_mesh
from r1jax.training.gradients import check_microbatch


@dataclasses.dataclass(frozen=True)
class Config(GraphConfig):
    """Everything that a distillation is made of; problems, template, sampling and evaluation are the teacher's."""

    teacher: Path | None = None
    """The output folder of a finished r1.py."""
    student: str = "pretrain"
    """The base to teach: pretrain (make a small one), smollm2, a Hugging Face folder, a .gguf file or a run."""
    name: str | None = None
    """Of the output folder in TEACHER/students; None: named after the student."""
    remat: Literal["none", "block", "dots"] = "none"
    """What the backward pass computes again instead of storing it."""
    gather: Literal["auto", "update", "layer"] = "auto"
    """Collect weights split over the data axis once an update, or by layer in each pass; auto: once up to 16 GiB."""
    pretrain: PretrainConfig = PretrainConfig(
        architecture="qwen2", steps=750, width=60, vocabulary=480, corpus=BilingualCorpusConfig()
    )
    sft: SFTConfig = SFTConfig(epochs=6, batch=16, width=256, learning_rate=3e-3)
    rl: RLConfig = RLConfig(steps=70, prompts=32, group=8, learning_rate=4e-4, schedule="cosine")
    match: MatchConfig = MatchConfig(steps=0, prompts=32, samples=4, learning_rate=3e-4)


PRESETS = {
    "tiny": ("a small Qwen made on the spot, a teacher of preset tiny; minutes on two CPU cores", Config()),
    "smollm2": (
        "for a teacher of preset smollm2: the same base as a student; minutes on one GPU",
        Config(
            student="smollm2",
            sft=SFTConfig(epochs=3, batch=8, width=512, learning_rate=2e-4),
            rl=RLConfig(steps=60, prompts=64, group=16, microbatch=256, learning_rate=3e-5, warmup_steps=5),
        ),
    ),
    "deepseek-r1": (
        "the published settings for Qwen2.5-1.5B (batch 64, cosine from 1e-4 to a tenth)",
        Config(
            remat="block",
            sft=SFTConfig(epochs=2, batch=64, width=32_768, microbatch=8, learning_rate=1e-4),
            rl=RLConfig(
                steps=650,
                prompts=512,
                group=16,
                minibatches=16,
                microbatch=16,
                learning_rate=3e-6,
                algorithm=GRPO(beta=0.001),
                reference_every=25,
            ),
        ),
    ),
}


def teacher_settings(run: Path) -> dict[str, Any]:
    """The settings of each stage of the teacher's run, which must be finished."""
    made = finished(run)
    if not {"r1", f"{EVALUATION}r1", f"{EVALUATION}base", "reasoning_rl"} <= made.keys():
        raise UserError(f"{run} holds no finished R1: give --teacher the output folder of experiments/r1.py")
    return {name: manifest["settings"] for name, manifest in made.items()}


def stages(config: Config, run: Path) -> list[Stage]:
    """The student as it is, distilled, matched where asked for, and with RL alone; each with its evaluation."""
    teacher = teacher_settings(run)
    measure = evaluation_from(teacher[f"{EVALUATION}r1"])
    shared = dataclasses.replace(measure.shared, remat=config.remat, gather=config.gather)
    scorers = {name: Path(dict(measure.given).get(name, run / name)) for name in measure.scorers}
    scorers |= {f"{name}_file": Path(path.rpartition(":")[0]).expanduser() for name, path in measure.functions}
    own = config.student == "pretrain"
    # A base is asked as the teacher's base was; one that is made here knows the prompt of its corpus alone.
    bare = shared.template if own else teacher[f"{EVALUATION}base"]["template"]
    files = {} if own else {"student": resolve(config.student)[0]}
    start = ("student",) if own else ()
    found: list[Stage] = []

    def add(
        name: str, function: Any, settings: Any, inputs: tuple[str, ...], more: dict[str, Path], steps: str
    ) -> None:
        found.append(recipe.stage(name, function, settings, inputs, more, steps=steps))
        add_evaluation(name, (name,), {})

    def add_evaluation(name: str, inputs: tuple[str, ...], more: dict[str, Path]) -> None:
        template = bare if name in ("student", "student_rl") else shared.template
        settings = dataclasses.replace(measure, shared=shared, template=template)
        found.append(recipe.stage(EVALUATION + name, recipe.evaluate_stage, settings, inputs, {**more, **scorers}))

    if own:
        add(
            "student",
            recipe.pretrain_stage,
            PretrainSettings(shared, config.pretrain),
            (),
            {},
            f"{config.pretrain.steps}",
        )
    else:
        add_evaluation("student", (), files)
    data = {"conversations": run / "rejection_sampling" / recipe.DATA}
    add(
        "distilled",
        recipe.sft_stage,
        SFTSettings(shared, config.sft),
        start,
        {**files, **data},
        f"{config.sft.epochs} epochs",
    )
    if config.match.steps:
        add(
            "matched",
            recipe.match_stage,
            MatchSettings(shared, config.match),
            ("distilled",),
            {"teacher": run / "r1"},
            f"{config.match.steps}",
        )
    routes = tuple(teacher["reasoning_rl"]["routes"])  # the same RL as the teacher's
    settings = RLSettings(shared, config.rl, routes, bare, shared.sampling.temperature)
    add("student_rl", recipe.rl_stage, settings, start, files, f"{config.rl.steps}")
    return found


def main() -> None:
    """Runs the distillation that the command line asks for."""
    config = cli.parse(PRESETS, "tiny", prog="distill.py", description=(__doc__ or "").splitlines()[0])
    if config.teacher is None:
        raise UserError("--teacher: give the output folder of experiments/r1.py")
    shared = evaluation_from(teacher_settings(config.teacher)[f"{EVALUATION}r1"]).shared
    data, _ = parse_mesh(config.mesh)
    check_run(config.rl, shared.sampling, data)
    check_sft(config.sft, data)
    if config.match.steps:
        settings = "match.prompts, match.samples, match.microbatch"
        check_microbatch(config.match.microbatch_size, "sequences", data, settings)
    if config.student == "pretrain" and shared.problems.source != "word-problems":
        raise UserError("the student that pretrain makes knows word-problems alone: give another --student")
    if config.student != "pretrain":
        context = read_config(config.student).context_length
        if shared.sampling.max_tokens >= context:
            raise UserError(
                f"completions of {shared.sampling.max_tokens} tokens leave no room in {config.student}'s {context}"
            )
        if config.match.steps:
            check_vocabularies(read_tokenizer(config.student), read_tokenizer(config.teacher / "r1"))
    own = f"{config.pretrain.architecture}-small"
    name = own if config.student == "pretrain" else short_name(config.student)
    out = config.teacher / STUDENTS / (config.name or name)
    carry_out(
        stages(config, config.teacher),
        out,
        config,
        "experiments/distill.py",
        weights=weights_of(config.student, out / "student"),
        report=config.teacher,
        done=f"{config.teacher}: report.md and report.html have the student's rows",
        model=name,
    )


if __name__ == "__main__":
    run_command(main, "lower the microbatch or logprob-chunk of the stage, or add --remat=block or --gather=layer")
