"""DeepSeek-R1 in five stages (arXiv 2501.12948), from a base model to R1, with a report of what each stage gave.

    python experiments/r1.py                        a bilingual base model is made first; two CPU cores, minutes
    python experiments/r1.py --preset smollm2       SmolLM2-135M; one GPU, minutes
    python experiments/r1.py --dry-run              what would run, with steps, tokens and memory
    python experiments/r1.py --until cold_start     so far and no further; the same command without it goes on

R1-Zero, cold start, reasoning RL (also without the language reward, for comparison), rejection sampling, SFT from base,
RL for all scenarios; each stage in a folder of its own, and each model evaluated on the same held-out problems. A stage
that is finished is skipped; killed anywhere, the same command goes on.
"""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn

import jax
from rich.console import Console

from r1jax import cli
from r1jax.checkpoints.load import read_config, resolve
from r1jax.data.bilingual import BilingualCorpusConfig
from r1jax.data.problems import ProblemsConfig, is_file, load_problems
from r1jax.data.readability import ReadabilityConfig
from r1jax.data.rewrite import PROMPT
from r1jax.data.template import find_template
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.models.config import ModelConfig
from r1jax.models.cost import training_bytes
from r1jax.rewards.config import VerifierConfig
from r1jax.rewards.routing import check_kinds, parse_routes, rule_specs
from r1jax.sampling.processors import Sampling
from r1jax.sharding import make_mesh, parse_mesh
from r1jax.stages import recipe
from r1jax.stages.graph import Stage, make_plan, plan_table, run_graph
from r1jax.stages.pretrain import PretrainConfig, model_config
from r1jax.stages.recipe_config import (
    SCORERS,
    EvaluateSettings,
    PretrainSettings,
    RewardModelSettings,
    RLSettings,
    SelectSettings,
    SFTSettings,
    Shared,
)
from r1jax.stages.rejection_sampling import SelectConfig, worked
from r1jax.stages.reward_model import RewardModelConfig, check_reward_model
from r1jax.stages.rl_config import RLConfig, check_run
from r1jax.stages.run import machine
from r1jax.stages.sft import SFTConfig, check_sft
from r1jax.stages.story import EVALUATION, with_evaluation, write_report
from r1jax.training.loop import SaveConfig, Stopped


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run is made of."""

    base: str = "pretrain"
    """The model to start from: pretrain (make a small one), smollm2, a Hugging Face folder, a .gguf file or a run."""
    out: Path | None = None
    """Output folder; None: runs/r1-BASE-seedSEED."""
    mesh: str = "1x1"
    """Devices as DATAxMODEL."""
    seed: int = 0
    """Of everything random."""
    until: str | None = None
    """The last stage to run; None runs all."""
    only: str | None = None
    """The one stage to run, where those that it reads are finished."""
    force: bool = False
    """Make stages again that were made with other settings, and those after them."""
    dry_run: bool = False
    """Print the plan and stop; memory is that of a device, without activations."""
    no_zero: bool = False
    """Leave R1-Zero out: rules, or --cold-start, give the cold start's data."""
    cold_start: Path | None = None
    """Conversations of your own for the cold start: JSONL or parquet with the column messages."""
    rewriter: str | None = None
    """A model that rewrites R1-Zero's samples for the cold start, asked with --rewrite-prompt; None: rules do."""
    rewrite_prompt: str = PROMPT
    """With {question}, {reasoning} and {language} in their places."""
    general_data: Path | None = None
    """Conversations that stage 4 learns beside the reasoning: JSONL or parquet; None makes some by rule."""
    helpfulness: str | None = None
    """A reward model, or FILE.py:FUNCTION; None trains one."""
    harmlessness: str | None = None
    """A reward model, or FILE.py:FUNCTION; None trains one."""
    helpfulness_data: Path | None = None
    """JSONL or parquet with prompt, chosen and rejected, to train the model on; None makes some by rule."""
    harmlessness_data: Path | None = None
    """JSONL or parquet with prompt, response and safe, to train the model on; None makes some by rule."""
    template: str = "r1"
    """Prompt of all stages but R1-Zero."""
    zero_template: str = "r1"
    """Prompt of R1-Zero and of the base model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and of the weights in products."""
    remat: Literal["none", "block", "dots"] = "none"
    """What the backward pass computes again instead of storing it."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """Attention kernel of training and prefill; auto: cudnn for bfloat16 on a GPU."""
    unroll: bool = False
    """Compile the blocks one by one: faster updates, longer compilation."""
    language_weight: float = 1.0
    """Weight of the language reward in stages 2 and 5."""
    compare_language: bool = True
    """Also run stage 2 without the language reward, for the report."""
    general_steps: int = 24
    """Last steps of stage 5, in which general prompts and the reward models join; 400 of 1,700 in the paper."""
    general_share: float = 0.5
    """Of general prompts among the prompts of such a step; the paper does not say."""
    final_temperature: float = 0.7
    """Sampling temperature of stage 5; that of R1-Zero and stage 2 is sampling.temperature."""
    cold_start_rows: int = 600
    """Conversations of the cold start: where R1-Zero gives fewer, rules write the others."""
    general_repeats: int = 4
    """How often each general reply stands in the data of stage 4."""
    problems: ProblemsConfig = ProblemsConfig(source="word-problems")
    general: ProblemsConfig = ProblemsConfig(source="general", held_out_share=0.25)
    sampling: Sampling = Sampling(max_tokens=72)
    pretrain: PretrainConfig = PretrainConfig(steps=1000, width=60, vocabulary=480, corpus=BilingualCorpusConfig())
    zero: RLConfig = RLConfig(steps=70, prompts=32, group=8, learning_rate=4e-4, schedule="cosine")
    cold_start_select: SelectConfig = SelectConfig(problems=512, samples=4, per_problem=1)
    cold_start_sft: SFTConfig = SFTConfig(epochs=3, batch=8, width=256, learning_rate=1e-3)
    reasoning_rl: RLConfig = RLConfig(steps=50, prompts=32, group=8, learning_rate=4e-4, schedule="cosine")
    rejection: SelectConfig = SelectConfig(problems=768, samples=4, per_problem=2)
    sft: SFTConfig = SFTConfig(epochs=3, batch=16, width=256, learning_rate=2e-3)
    reward_model: RewardModelConfig = RewardModelConfig(epochs=8, batch=32, width=128, learning_rate=1e-3)
    final_rl: RLConfig = RLConfig(steps=50, prompts=32, group=8, learning_rate=3e-4, schedule="cosine")
    verifier: VerifierConfig = VerifierConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    save: SaveConfig = SaveConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed={self.seed} must be at least 0 and below {2**31}")
        if not 0 <= self.general_steps <= self.final_rl.steps:
            raise UserError(
                f"--general-steps={self.general_steps}: choose from 0 to --final-rl.steps={self.final_rl.steps}"
            )
        if min(self.cold_start_rows, self.general_repeats) < 0 or self.language_weight < 0:
            raise UserError("--cold-start-rows, --general-repeats and --language-weight must be at least 0")
        if min(self.final_temperature, self.sampling.temperature) <= 0:
            raise UserError(
                "--final-temperature and --sampling.temperature must be above 0: equal samples teach nothing"
            )
        if not 0 <= self.general_share <= 1:
            raise UserError(f"--general-share={self.general_share}: choose one from 0 to 1")
        if "{reasoning}" not in self.rewrite_prompt:
            raise UserError("--rewrite-prompt has no {reasoning}: write where it stands")


_LONG = Sampling(max_tokens=32_768)
_PAPER_RL = RLConfig(
    # A step is a rollout of 8,192 outputs and 16 updates; the reference is replaced every 400 of these.
    steps=650, prompts=512, group=16, minibatches=16, microbatch=16, learning_rate=3e-6, beta=0.001, reference_every=25,
)  # fmt: skip
_PAPER_PROMPTS = 20_000  # 16 samples of each, at most 4 kept: the paper has 600,000 rows and names no number of prompts
_PAPER_SFT = SFTConfig(epochs=2, batch=128, width=32_768, microbatch=8, learning_rate=5e-5)

PRESETS = {
    "tiny": ("a small bilingual model made on the spot; minutes on two CPU cores", Config()),
    "smollm2": (
        "SmolLM2-135M on one-digit sums and stories; minutes on one GPU",
        Config(
            base="smollm2",
            zero_template="steps",
            dtype="bfloat16",
            problems=ProblemsConfig(source="word-problems", digits=1, held_out_share=0.25),
            sampling=Sampling(max_tokens=128),
            zero=RLConfig(steps=60, prompts=64, group=16, microbatch=256, learning_rate=3e-5, warmup_steps=5),
            cold_start_sft=SFTConfig(epochs=3, batch=8, width=512, learning_rate=3e-4),
            reasoning_rl=RLConfig(steps=40, prompts=64, group=16, microbatch=256, learning_rate=2e-5, warmup_steps=5),
            sft=SFTConfig(epochs=3, batch=8, width=512, learning_rate=2e-4),
            reward_model=RewardModelConfig(epochs=12, batch=32, width=256, learning_rate=1e-4),
            final_rl=RLConfig(steps=40, prompts=64, group=16, microbatch=256, learning_rate=1e-5, warmup_steps=5),
            general_steps=20,
            verifier=VerifierConfig(workers=8),
            evaluation=EvaluationConfig(samples=16),
            save=SaveConfig(every=50),
        ),
    ),
    "deepseek-r1": (
        "the published settings (arXiv 2501.12948): give --base, --problems.source and a --mesh that holds it",
        Config(
            dtype="bfloat16",
            remat="block",
            template="r1",
            zero_template="r1-zero",
            problems=ProblemsConfig(source="gym:gsm_symbolic", train_size=_PAPER_PROMPTS),
            sampling=_LONG,
            zero=_PAPER_RL,
            reasoning_rl=dataclasses.replace(_PAPER_RL, eps_low=10.0, eps_high=10.0),
            # 1,700 steps of 512 outputs are 106 rollouts here, the last 400 of them 25.
            final_rl=dataclasses.replace(_PAPER_RL, steps=106, eps_low=10.0, eps_high=10.0),
            general_steps=25,
            cold_start_rows=5_000,
            cold_start_select=SelectConfig(
                problems=10_000, samples=16, per_problem=1, readability=ReadabilityConfig(paragraph=4_000)
            ),
            rejection=SelectConfig(
                problems=_PAPER_PROMPTS, samples=16, per_problem=4, readability=ReadabilityConfig(paragraph=4_000)
            ),
            cold_start_sft=_PAPER_SFT,
            sft=_PAPER_SFT,
            reward_model=RewardModelConfig(microbatch=16),
            compare_language=False,
            verifier=VerifierConfig(workers=16),
            evaluation=EvaluationConfig(samples=64),
            save=SaveConfig(every=5),
        ),
    ),
}  # fmt: skip


def mixtures(config: Config, language: float, general_prompts: bool = False) -> tuple[str, ...]:
    """The rewards of a stage by kind of problem, judges of general prompts among them where these take part."""
    kinds = {problem.kind for problem in load_problems(config.problems).train}
    return recipe.routes(kinds, language, judges(config) if general_prompts else {})


def judges(config: Config) -> dict[str, str]:
    """Of each set of general prompts the reward: the model of its name, or a function as FILE.py:FUNCTION."""
    given = {name: getattr(config, name) for name in SCORERS}
    return {name: path if path and ".py:" in path else name for name, path in given.items()}


def stages(config: Config) -> list[Stage]:
    """The graph: models and data sets in the order in which they are made, each model followed by its evaluation."""
    shared = Shared(
        config.seed, config.template, config.problems, config.general, config.sampling, config.dtype, config.remat,
        config.attention, config.unroll, config.verifier, config.save,
    )  # fmt: skip
    own = config.base == "pretrain"
    base_files = {} if own else {"base": resolve(config.base)[0]}
    from_base = ("base",) if own else ()
    functions = {name: reward for name, reward in judges(config).items() if reward != name}
    scorers = tuple(name for name in SCORERS if name not in functions)
    trained = tuple(name for name in scorers if getattr(config, name) is None)
    given = {name: resolve(getattr(config, name))[0] for name in scorers if name not in trained}
    given |= {f"{name}_file": Path(reward.rpartition(":")[0]) for name, reward in functions.items()}
    shapes = _shapes(config)
    found: list[Stage] = []

    def add(
        name: str, function: Any, settings: Any, inputs: tuple[str, ...], files: dict[str, Path], **plan: str
    ) -> None:
        found.append(recipe.stage(name, function, settings, inputs, files, **plan))

    def add_rl(
        name: str, rl: RLConfig, start: tuple[str, ...], files: dict[str, Path], routes: tuple[str, ...],
        template: str, temperature: float = config.sampling.temperature, **late: Any,
    ) -> None:  # fmt: skip
        settings = RLSettings(shared, rl, routes, template, temperature, **late)
        longest = rl.sequences * config.sampling.max_tokens
        memory = _memory(config, shapes, rl.param_dtype, rl.logprob_chunk, bool(rl.beta), longest)
        tokens = f"{rl.steps * longest:,} at most"
        add(name, recipe.rl_stage, settings, start, files, steps=f"{rl.steps}", tokens=tokens, memory=memory)
        add_evaluation(name, template)

    def add_evaluation(name: str, template: str, files: dict[str, Path] | None = None) -> None:
        settings = EvaluateSettings(shared, config.evaluation, template, scorers, tuple(functions.items()))
        start = () if files else (name,)
        add(f"{EVALUATION}{name}", recipe.evaluate_stage, settings, (*start, *trained), {**(files or {}), **given})

    def add_data(
        name: str, select: SelectConfig, start: tuple[str, ...], files: dict[str, Path], **settings: Any
    ) -> None:
        sampled = select.problems * select.samples if start else 0
        tokens = f"{sampled * config.sampling.max_tokens:,} at most"
        add(
            name,
            recipe.data_stage,
            SelectSettings(shared, select, **settings),
            start,
            files,
            steps=f"{sampled} samples",
            tokens=tokens,
        )

    def add_sft(name: str, sft: SFTConfig, data: tuple[str, ...], files: dict[str, Path]) -> None:
        memory = _memory(config, shapes, sft.param_dtype, sft.logprob_chunk)
        add(
            name, recipe.sft_stage, SFTSettings(shared, sft), (*from_base, *data), {**base_files, **files},
            steps=f"{sft.epochs} epochs", memory=memory,
        )  # fmt: skip
        add_evaluation(name, config.template)

    if own:
        most = config.pretrain.steps * config.pretrain.batch * config.pretrain.width
        memory = _memory(config, shapes, config.pretrain.param_dtype, config.pretrain.batch * config.pretrain.width)
        add(
            "base", recipe.pretrain_stage, PretrainSettings(shared, config.pretrain), (), {},
            steps=f"{config.pretrain.steps}", tokens=f"{most:,} at most", memory=memory,
        )  # fmt: skip
    for name in trained:
        preferences = getattr(config, f"{name}_data")
        files = {**base_files, **({"preferences": preferences} if preferences else {})}
        settings = RewardModelSettings(shared, name, config.reward_model)  # pyright: ignore[reportArgumentType]
        memory = _memory(config, shapes, config.reward_model.param_dtype, 0)
        epochs = f"{config.reward_model.epochs} epochs"
        add(name, recipe.reward_model_stage, settings, from_base, files, steps=epochs, memory=memory)
    add_evaluation("base", config.zero_template, None if own else base_files)
    if not config.no_zero:
        add_rl("zero", config.zero, from_base, base_files, mixtures(config, 0.0), config.zero_template)
    if config.cold_start:
        add_sft("cold_start", config.cold_start_sft, (), {"conversations": config.cold_start})
    else:
        rewriter = {"rewriter": resolve(config.rewriter)[0]} if config.rewriter and not config.no_zero else {}
        add_data(
            "cold_start_data", config.cold_start_select, () if config.no_zero else ("zero",), rewriter,
            template=config.zero_template, kind="cold start", stand_in=config.cold_start_rows,
            rewrite_prompt=config.rewrite_prompt,
        )  # fmt: skip
        add_sft("cold_start", config.cold_start_sft, ("cold_start_data",), {})
    for name, weight in (("reasoning_rl", config.language_weight), ("reasoning_rl_no_language", 0.0)):
        if name == "reasoning_rl" or config.compare_language:
            add_rl(name, config.reasoning_rl, ("cold_start",), {}, mixtures(config, weight), config.template)
    add_data(
        "rejection_sampling", config.rejection, ("reasoning_rl",),
        {"general": config.general_data} if config.general_data else {},
        template=config.template, kind="rejection sampling", general_repeats=config.general_repeats,
    )  # fmt: skip
    add_sft("sft", config.sft, ("rejection_sampling",), {})
    add_rl(
        "r1", config.final_rl, ("sft", *trained), given, mixtures(config, config.language_weight, True),
        config.template, config.final_temperature, general_from=config.final_rl.steps - config.general_steps,
        general_share=config.general_share, scorers=scorers,
    )  # fmt: skip
    return found


def _shapes(config: Config) -> ModelConfig:
    if config.base != "pretrain":
        return read_config(config.base)
    return model_config(config.pretrain, config.pretrain.vocabulary, config.pretrain.width + config.sampling.max_tokens)


def _memory(
    config: Config, shapes: ModelConfig, stored: str, chunk: int, reference: bool = False, cached: int = 0
) -> str:
    data, model = parse_mesh(config.mesh)
    total = training_bytes(shapes, 2 if stored == "bfloat16" else 4, chunk, int(reference), cached)
    return f"{total / data / model / 2**30:.2f} GiB"


def check(config: Config) -> None:
    """Refuses what is known to fail before a device, a folder or a weight is touched."""
    data, _ = parse_mesh(config.mesh)
    for rl in (config.zero, config.reasoning_rl, config.final_rl):
        check_run(rl, config.sampling, data)
    for one in (config.cold_start_sft, config.sft):
        check_sft(one, data)
    check_reward_model(config.reward_model, data)
    if config.base == "pretrain":
        if config.problems.source != "word-problems":
            raise UserError("the model that pretrain makes knows word-problems alone: give another --base")
        if config.zero_template != config.template:
            raise UserError("the model that pretrain makes knows one template: leave --zero-template at --template")
    for name in (config.template, config.zero_template):
        find_template(name)
    if not find_template(config.template).tags:
        raise UserError(f"--template={config.template} has no place for reasoning: choose r1")
    for path in (config.cold_start, config.general_data, config.helpfulness_data, config.harmlessness_data):
        if path is not None and (not is_file(str(path)) or not path.is_file()):
            raise UserError(f"{path}: no .jsonl or .parquet file of that name")
    problems = load_problems(config.problems).train
    if config.no_zero and not config.cold_start and not worked(problems, find_template(config.template), 1):
        raise UserError(f"no rule can work {config.problems.source}: bring a --cold-start file, or leave --no-zero out")
    _check_general(config)
    found = parse_routes(mixtures(config, config.language_weight, True))
    check_kinds((*problems, *load_problems(config.general).train), found)
    rule_specs(found, SCORERS)
    context = _shapes(config).context_length
    if config.sampling.max_tokens >= context:
        raise UserError(f"--sampling.max-tokens={config.sampling.max_tokens} leaves no room in a context of {context}")


def _check_general(config: Config) -> None:
    """Whoever brings general prompts brings what is learned about them too: the rules know their own alone."""
    if config.general.source == "general":
        return
    brought = config.general_data and all(getattr(config, n) or getattr(config, f"{n}_data") for n in SCORERS)
    if config.base == "pretrain" or not brought:
        raise UserError(
            f"--general.source={config.general.source} needs --base, --general-data, and for --helpfulness and "
            "--harmlessness a model, a function or data"
        )


def main() -> None:
    """Runs the recipe that the command line asks for."""
    config = cli.parse(PRESETS, "tiny", prog="r1.py", description=(__doc__ or "").splitlines()[0])
    base = Path(config.base).name.removesuffix(".gguf")
    out = config.out or Path("runs") / f"r1-{base}-seed{config.seed}"
    check(config)
    graph = stages(config)
    until, only = with_evaluation(graph, config.until), with_evaluation(graph, config.only)
    console = Console()
    if config.dry_run:
        console.print(plan_table(make_plan(graph, out, until[-1] if until else None, only)))
        return
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "r1jax" / "xla"))
    with jax.set_mesh(make_mesh(config.mesh)):
        run_graph(
            graph, out, until=until[-1] if until else None, only=only, force=config.force,
            report=lambda line: console.print(line, style="bold", markup=False),
            made_by={"command": shlex.join(["python", "experiments/r1.py", *sys.argv[1:]]), **machine()},
        )  # fmt: skip
        write_report(out)
    console.print(f"{out}: report.md, report.html, summary.json, and a folder for each stage", highlight=False)


def stoppable() -> None:
    """main, with a stop on request as a success and a full device as one line."""

    def stop(*_: Any) -> NoReturn:  # within a step, training waits for its end instead
        raise Stopped("stopped")

    signal.signal(signal.SIGTERM, stop)
    try:
        main()
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from there")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            "the device is out of memory: lower the microbatch or logprob-chunk of the stage, or add --remat=block "
            f"({str(error).splitlines()[0][:200]})"
        ) from error


if __name__ == "__main__":
    cli.run(stoppable)
