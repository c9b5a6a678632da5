"""Distillation of a run of r1.py into another base model, compared with RL on that model (arXiv 2501.12948, section 4).

    python experiments/distill.py --teacher runs/r1-pretrain-seed0                   pretrains a small Qwen first
    python experiments/distill.py --teacher RUN --student PATH                       a Hugging Face folder or GGUF file
    python experiments/distill.py --teacher RUN --student PATH --match.steps=100     also match distributions

The student learns the data set of stage 3 by fine-tuning; for comparison the same student learns by RL with rules. Both
are evaluated on the teacher's held-out problems, and the teacher's report gains their rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from r1jax import cli
from r1jax.checkpoints.load import read_config, read_tokenizer, short_name
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.data.text.bilingual_corpus import BilingualCorpusConfig
from r1jax.errors import UserError
from r1jax.models.config import COMPUTE_OPTIONS, SAVING_OPTIONS
from r1jax.models.experts import check_mesh
from r1jax.pipeline.command import PipelineConfig, call_and_exit, run_experiment
from r1jax.pipeline.plan import finished_stages
from r1jax.pipeline.stage import Stage
from r1jax.recipe.base_model import PRETRAIN, base_config, base_description, base_input, base_title
from r1jax.recipe.config import PUBLISHED_RL
from r1jax.recipe.distillation import MatchConfig, MatchSettings, check_vocabularies, match_stage
from r1jax.recipe.evaluation import EvaluationSettings, evaluation_stage
from r1jax.recipe.folders import CONVERSATIONS, EVALUATION, STUDENTS
from r1jax.recipe.judge import JUDGES
from r1jax.recipe.make_stage import StageRow, make_stage
from r1jax.recipe.pretraining import PretrainConfig, pretrain_settings, pretrain_stage
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, reasoning_rl_stage
from r1jax.recipe.sft import SFTConfig, SFTSettings, check_sft, sft_stage
from r1jax.recipe.starts import check_starts
from r1jax.report.recipe_run import write_report
from r1jax.report.recipe_screen import print_recipe
from r1jax.rl.config import RLConfig, check_run
from r1jax.sampling.processors import Sampling
from r1jax.settings import from_json
from r1jax.sharding import parse_mesh
from r1jax.training.by_device import check_gather
from r1jax.training.gradients import check_microbatch
from r1jax.training.loop import SaveConfig
from r1jax.training.multi_token import check_mtp_weight


@dataclasses.dataclass(frozen=True)
class Config(PipelineConfig):
    """The settings of a distillation; problems, template, sampling and evaluation are the teacher's."""

    teacher: Path | None = None
    """The output folder of a finished r1.py."""
    student: str = "pretrain"
    """The student: pretrain (a stage trains a small one), smollm2, a model of the hub (ORG/NAME[@REVISION]), a Hugging
    Face folder, a .gguf file, the folder of a stage, or the folder of a finished run of R1-Zero."""
    name: str | None = None
    """The name of the output folder in TEACHER/students. None: the name of the student."""
    remat: Literal["none", "block", "dots"] = "none"
    """What the backward pass recomputes: nothing, each block, or everything except the matrix products."""
    gather: Literal["auto", "update", "layer", "device"] = "auto"
    """Gather weights that are split over the data axis once per update or per layer. auto: per update up to 16 GiB.
    device: once per update, and each device computes its rows by itself, on a data axis alone, without experts."""
    accumulate: Literal["float32", "bfloat16"] = "float32"
    """Add up the gradients of microbatches in this type; bfloat16 halves the memory and rounds after each of them."""
    pretrain: PretrainConfig = PretrainConfig(
        architecture="qwen2", steps=750, width=60, vocabulary=480, corpus=BilingualCorpusConfig()
    )
    sft: SFTConfig = SFTConfig(epochs=6, batch=16, width=256, learning_rate=3e-3)
    rl: RLConfig = RLConfig(steps=70, prompts=32, group=8, learning_rate=4e-4, schedule="cosine")
    match: MatchConfig = MatchConfig(steps=0, prompts=32, samples=4, learning_rate=3e-4)


PRESETS = {
    "tiny": ("a small pretrained Qwen, for a teacher of preset tiny; minutes on two CPU cores", Config()),
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
            rl=PUBLISHED_RL,
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The settings that a student shares with its teacher, from the manifests of the teacher's run."""

    evaluation: EvaluationSettings
    base_template: str  # of the base model's prompts
    rl: Mapping[str, Any]  # the settings of the teacher's stage 2, as JSON
    judges: Mapping[str, Path]  # the other inputs of its evaluations than the policy

    @property
    def problems(self) -> ProblemsConfig:
        """The problems that the teacher was trained on."""
        return from_json(ProblemsConfig, self.rl["problems"])

    @property
    def sampling(self) -> Sampling:
        """The sampling of the teacher's stage 2, but for its draft, for which a student may lack the layer."""
        return dataclasses.replace(from_json(Sampling, self.rl["sampling"]), draft="none")


def read_teacher(run: Path) -> Teacher:
    """Reads the teacher from the folder of its run; raises UserError if the run is not finished."""
    made = finished_stages(run)
    if not {"r1", f"{EVALUATION}r1", f"{EVALUATION}base", "reasoning_rl"} <= made.keys():
        raise UserError(f"{run} has no finished R1: give --teacher the output folder of experiments/r1.py")
    last = made[f"{EVALUATION}r1"]
    trained = {role: run / stage for role, stage in last["inputs"].items() if role != "policy"}
    given = {role: Path(path) for role, path in last["paths"].items() if role in JUDGES or role.endswith("_file")}
    return Teacher(
        evaluation=from_json(EvaluationSettings, last["settings"]),
        base_template=made[f"{EVALUATION}base"]["settings"]["template"],
        rl=made["reasoning_rl"]["settings"],
        judges={**trained, **given},
    )


def student_stages(config: Config, run: Path, teacher: Teacher) -> list[Stage]:
    """The student as it is, distilled, matched if match.steps > 0, and with RL only, each with its evaluation."""
    options = {name: getattr(teacher.evaluation, name) for name in COMPUTE_OPTIONS}
    options |= {name: getattr(config, name) for name in ("remat", "gather", "accumulate")}
    chat, seed, save = teacher.evaluation.template, teacher.evaluation.seed, from_json(SaveConfig, teacher.rl["save"])
    own, student = config.student == PRETRAIN, base_input(config.student, "student")
    # The student has the prompts of the teacher's base; a pretrained one knows only the prompts of its corpus.
    plain = chat if own else teacher.base_template
    trained = {"seed": seed, "save": save, **options}
    sampling, general = teacher.sampling, teacher.evaluation.general
    pretraining = pretrain_settings(
        config.pretrain, chat, teacher.problems, general and general.problems, sampling.max_tokens, seed, save
    )
    match = MatchSettings(match=config.match, problems=teacher.problems, template=chat, sampling=sampling, **trained)
    rl = ReasoningRLSettings(
        rl=config.rl,
        problems=teacher.problems,
        template=plain,
        sampling=sampling,
        routes=tuple(teacher.rl["routes"]),
        verifier=teacher.evaluation.verifier,
        **trained,
    )

    def evaluation(of: str, template: str, policy: str | Path | None = None) -> StageRow:
        settings = dataclasses.replace(teacher.evaluation, template=template, **options)
        return EVALUATION + of, evaluation_stage, settings, {"policy": policy or of, **teacher.judges}

    data = run / "rejection_sampling" / CONVERSATIONS
    table: list[StageRow] = [  # stage, function, settings, inputs
        ("student", pretrain_stage, pretraining, {}),
        evaluation("student", plain, student),
        ("distilled", sft_stage, SFTSettings(sft=config.sft, **trained), {"policy": student, "conversations": data}),
        evaluation("distilled", chat),
        ("matched", match_stage, match, {"policy": "distilled", "teacher": run / "r1"}),
        evaluation("matched", chat),
        ("student_rl", reasoning_rl_stage, rl, {"policy": student}),
        evaluation("student_rl", plain),
    ]
    left_out = {*(() if own else ("student",)), *(() if config.match.steps else ("matched", f"{EVALUATION}matched"))}
    model = base_config(config.student, config.pretrain, sampling.max_tokens)
    return [make_stage(*row, model, config.mesh) for row in table if row[0] not in left_out]


def check(config: Config, run: Path, teacher: Teacher) -> None:
    """Raises UserError for settings that cannot work together, before any device work."""
    data = parse_mesh(config.mesh).rows
    check_run(config.rl, teacher.sampling, data)
    check_sft(config.sft, data)
    if config.match.steps:
        settings = "match.prompts, match.samples, match.microbatch"
        check_microbatch(config.match.microbatch_size, "sequences", data, settings)
    if config.student == PRETRAIN and teacher.problems.source != "word-problems":
        raise UserError("--student=pretrain trains a model on word-problems only: give another --student")
    own = base_config(config.student, config.pretrain, teacher.sampling.max_tokens)
    check_mesh(config.mesh, own, read_config(run / "r1"))
    check_gather(config.gather, config.mesh, own, read_config(run / "r1"))
    tokenizer = None if config.student == PRETRAIN else read_tokenizer(config.student)
    check_starts(config.rl, own, tokenizer)
    check_mtp_weight(config.sft.mtp_weight, own, "sft.mtp-weight")
    if tokenizer:
        context = own.context_length
        if teacher.sampling.max_tokens >= context:
            raise UserError(
                f"completions of {teacher.sampling.max_tokens} tokens leave no room in {config.student}'s {context}"
            )
        if config.match.steps:
            check_vocabularies(tokenizer, read_tokenizer(run / "r1"))


def main() -> None:
    """Runs the distillation that the command line asks for."""
    config = cli.parse(PRESETS, "tiny", prog="distill.py", description=(__doc__ or "").splitlines()[0])
    if config.teacher is None:
        raise UserError("--teacher: give the output folder of experiments/r1.py")
    run = config.teacher
    teacher = read_teacher(run)
    check(config, run, teacher)
    own = f"{config.pretrain.architecture}-small"
    name = own if config.student == PRETRAIN else short_name(config.student)
    model = own if config.student == PRETRAIN else base_title(config.student)
    out = run / STUDENTS / (config.name or name)

    def report(console: Console) -> None:
        print_recipe(write_report(run), run, console)

    stages = student_stages(config, run, teacher)
    weights = base_description(config.student, out / "student")
    run_experiment(stages, out, config, "experiments/distill.py", weights=weights, model=model, report=report)


if __name__ == "__main__":
    call_and_exit(main, f"lower the microbatch or logprob-chunk of the stage, or add {SAVING_OPTIONS}")
