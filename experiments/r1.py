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
from pathlib import Path
from typing import Any

from r1jax import cli
from r1jax.algorithms.grpo import GRPO
from r1jax.checkpoints.load import read_config, read_tokenizer, resolve, short_name
from r1jax.data.formats.conversations import read_conversations
from r1jax.data.formats.preferences import read_labelled, read_pairs
from r1jax.data.problems.dataset import ProblemsConfig, check_problems, load_problems
from r1jax.data.text.conversations import check_reasoning_is_kept
from r1jax.data.text.readability import ReadabilityConfig
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.models.attention import check_attention
from r1jax.models.config import ModelConfig
from r1jax.models.cost import logits_bytes, training_bytes
from r1jax.pipeline.command import carry_out, run_command, weights_of
from r1jax.pipeline.graph import Stage
from r1jax.recipe import stages as recipe
from r1jax.recipe.config import (
    SCORERS,
    EvaluateSettings,
    PretrainSettings,
    RecipeConfig,
    RewardModelSettings,
    RLSettings,
    SelectSettings,
    SFTSettings,
    Shared,
)
from r1jax.recipe.pretraining import model_config
from r1jax.recipe.rejection_sampling import SelectConfig, worked
from r1jax.recipe.reward_models import RewardModelConfig, check_reward_model
from r1jax.recipe.sft import SFTConfig, check_sft
from r1jax.report.recipe_run import EVALUATION
from r1jax.rewards.config import VerifierConfig
from r1jax.rewards.routing import check_kinds, parse_routes, rule_specs
from r1jax.rl.config import RLConfig, check_run
from r1jax.sampling.processors import Sampling
from r1jax.sharding import parse_mesh
from r1jax.training.loop import SaveConfig

_LONG = Sampling(max_tokens=32_768)
_PAPER_RL = RLConfig(
    # A step is a rollout of 8,192 outputs and 16 updates; the reference is replaced every 400 of these.
    steps=650,
    prompts=512,
    group=16,
    minibatches=16,
    microbatch=16,
    learning_rate=3e-6,
    algorithm=GRPO(beta=0.001),
    reference_every=25,
)
_PAPER_LATER = GRPO(beta=0.001, eps_low=10.0, eps_high=10.0)  # of reasoning RL and the last stage
_PAPER_PROMPTS = 20_000  # 16 samples of each, at most 4 kept: the paper has 600,000 rows and names no number of prompts
_PAPER_SFT = SFTConfig(epochs=2, batch=128, width=32_768, microbatch=8, learning_rate=5e-5)

PRESETS = {
    "tiny": ("a small bilingual model made on the spot; minutes on two CPU cores", RecipeConfig()),
    "smollm2": (
        "SmolLM2-135M on one-digit sums and stories; minutes on one GPU",
        RecipeConfig(
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
        RecipeConfig(
            dtype="bfloat16",
            remat="block",
            template="r1",
            zero_template="r1-zero",
            problems=ProblemsConfig(source="gym:gsm_symbolic", train_size=_PAPER_PROMPTS),
            sampling=_LONG,
            zero=_PAPER_RL,
            reasoning_rl=dataclasses.replace(_PAPER_RL, algorithm=_PAPER_LATER),
            # 1,700 steps of 512 outputs are 106 rollouts here, the last 400 of them 25.
            final_rl=dataclasses.replace(_PAPER_RL, steps=106, algorithm=_PAPER_LATER),
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
}


def mixtures(config: RecipeConfig, language: float, general_prompts: bool = False) -> tuple[str, ...]:
    """The rewards of a stage by kind of problem, judges of general prompts among them where these take part."""
    kinds = {problem.kind for problem in load_problems(config.problems).train}
    return recipe.routes(kinds, language, judges(config) if general_prompts else {})


def judges(config: RecipeConfig) -> dict[str, str]:
    """Of each set of general prompts the reward: the model of its name, or a function as FILE.py:FUNCTION."""
    given = {name: getattr(config, name) for name in SCORERS}
    return {name: path if path and ".py:" in path else name for name, path in given.items()}


def stages(config: RecipeConfig) -> list[Stage]:
    """The graph: models and data sets in the order in which they are made, each model followed by its evaluation."""
    shared = Shared(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Shared)})
    own = config.base == "pretrain"
    base_files = {} if own else {"base": resolve(config.base)[0]}
    from_base = ("base",) if own else ()
    functions = {name: reward for name, reward in judges(config).items() if reward != name}
    scorers = tuple(name for name in SCORERS if name not in functions)
    trained = tuple(name for name in scorers if getattr(config, name) is None)
    models = {name: resolve(getattr(config, name))[0] for name in scorers if name not in trained}
    files = {f"{name}_file": Path(reward.rpartition(":")[0]).expanduser() for name, reward in functions.items()}
    given = {**models, **files}
    paths = tuple((name, str(path.absolute())) for name, path in models.items())
    shapes = _shapes(config)
    found: list[Stage] = []

    def add(
        name: str, function: Any, settings: Any, inputs: tuple[str, ...], files: dict[str, Path], **plan: str
    ) -> None:
        found.append(recipe.stage(name, function, settings, inputs, files, **plan))

    def add_rl(
        name: str,
        rl: RLConfig,
        start: tuple[str, ...],
        files: dict[str, Path],
        routes: tuple[str, ...],
        template: str,
        temperature: float = config.sampling.temperature,
        **late: Any,
    ) -> None:
        settings = RLSettings(shared, rl, routes, template, temperature, **late)
        longest = rl.sequences * config.sampling.max_tokens
        memory = _memory(config, shapes, rl.param_dtype, rl.logprob_chunk, rl.algorithm.needs_reference, longest)
        tokens = f"{rl.steps * longest:,} at most"
        add(name, recipe.rl_stage, settings, start, files, steps=f"{rl.steps}", tokens=tokens, memory=memory)
        add_evaluation(name, template)

    def add_evaluation(name: str, template: str, files: dict[str, Path] | None = None) -> None:
        settings = EvaluateSettings(shared, config.evaluation, template, scorers, tuple(functions.items()), paths)
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
            name,
            recipe.sft_stage,
            SFTSettings(shared, sft),
            (*from_base, *data),
            {**base_files, **files},
            steps=f"{sft.epochs} epochs",
            memory=memory,
        )
        add_evaluation(name, config.template)

    if own:
        most = config.pretrain.steps * config.pretrain.batch * config.pretrain.width
        memory = _memory(config, shapes, config.pretrain.param_dtype, 2048)
        add(
            "base",
            recipe.pretrain_stage,
            PretrainSettings(shared, config.pretrain),
            (),
            {},
            steps=f"{config.pretrain.steps}",
            tokens=f"{most:,} at most",
            memory=memory,
        )
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
        rewriter = {"rewriter": resolve(config.rewriter)[0]} if config.rewriter else {}
        add_data(
            "cold_start_data",
            config.cold_start_select,
            () if config.no_zero else ("zero",),
            rewriter,
            template=config.zero_template,
            kind="cold start",
            stand_in=config.cold_start_rows,
            rewrite_prompt=config.rewrite_prompt,
        )
        add_sft("cold_start", config.cold_start_sft, ("cold_start_data",), {})
    for name, weight in (("reasoning_rl", config.language_weight), ("reasoning_rl_no_language", 0.0)):
        if name == "reasoning_rl" or config.compare_language:
            add_rl(name, config.reasoning_rl, ("cold_start",), {}, mixtures(config, weight), config.template)
    add_data(
        "rejection_sampling",
        config.rejection,
        ("reasoning_rl",),
        {"general": config.general_data} if config.general_data else {},
        template=config.template,
        kind="rejection sampling",
        general_repeats=config.general_repeats,
    )
    add_sft("sft", config.sft, ("rejection_sampling",), {})
    add_rl(
        "r1",
        config.final_rl,
        ("sft", *trained),
        given,
        mixtures(config, config.language_weight, True),
        config.template,
        config.final_temperature,
        general_from=config.final_rl.steps - config.general_steps,
        general_share=config.general_share,
        scorers=scorers,
    )
    return found


def _shapes(config: RecipeConfig) -> ModelConfig:
    if config.base != "pretrain":
        return read_config(config.base)
    return model_config(config.pretrain, config.pretrain.vocabulary, config.pretrain.width + config.sampling.max_tokens)


def _memory(
    config: RecipeConfig, shapes: ModelConfig, stored: str, chunk: int, reference: bool = False, cached: int = 0
) -> str:
    data, model = parse_mesh(config.mesh)
    split = training_bytes(shapes, 2 if stored == "bfloat16" else 4, int(reference), cached) / data
    return f"{(split + logits_bytes(shapes, chunk)) / model / 2**30:.2f} GiB"


def check(config: RecipeConfig) -> None:
    """Refuses what is known to fail before a device, a folder or a weight is touched."""
    check_problems(config.problems)
    check_problems(config.general, "--general")
    data, _ = parse_mesh(config.mesh)
    for rl in (config.zero, config.reasoning_rl, config.final_rl):
        check_run(rl, config.sampling, data)
    for one in (config.cold_start_sft, config.sft):
        check_sft(one, data)
    check_reward_model(config.reward_model, data)
    if config.base == "pretrain":
        if config.problems.source != "word-problems":
            raise UserError(
                f"--problems.source={config.problems.source} needs a model of yours, since --base=pretrain makes one "
                "that knows word-problems alone: give --base=FOLDER, --base=FILE.gguf or --base=smollm2, or set "
                "--problems.source=word-problems"
            )
        if config.zero_template != config.template:
            raise UserError("the model that pretrain makes knows one template: leave --zero-template at --template")
    template, _ = find_template(config.template), find_template(config.zero_template)
    if not (template.tags and template.prose and template.chat):
        raise UserError(f"--template={config.template} is no chat with reasoning and a summary: choose r1")
    problems = load_problems(config.problems).train
    if config.no_zero and not config.cold_start and not worked(problems, template, min(config.cold_start_rows, 1)):
        raise UserError(
            f"without R1-Zero the cold start has nothing: no rule can work {config.problems.source}, or "
            "--cold-start-rows is 0; bring a --cold-start file"
        )
    _check_brought(config)
    found = parse_routes(mixtures(config, config.language_weight, True))
    check_kinds((*problems, *load_problems(config.general, "--general").train), found)
    rule_specs(found, SCORERS)
    context = _shapes(config).context_length
    if config.sampling.max_tokens >= context:
        raise UserError(f"--sampling.max-tokens={config.sampling.max_tokens} leaves no room in a context of {context}")


def _check_brought(config: RecipeConfig) -> None:
    """Reads what a user brings, so that what is wrong with it is said before hours of work and not after them."""
    for conversations in (config.cold_start, config.general_data):
        if conversations:
            read_conversations(conversations)
    for name, read in zip(SCORERS, (read_pairs, read_labelled), strict=True):
        given, data = getattr(config, name), getattr(config, f"{name}_data")
        if given and data:
            raise UserError(f"--{name}-data trains a model, and --{name} gives one: leave one out")
        if data:
            read(data)
        if given and ".py:" not in given and read_config(given).head != "scalar":
            raise UserError(f"--{name}={given} has no scalar head: give a reward model, or FILE.py:FUNCTION")
        if given and "=" in given.rpartition(":")[2]:
            raise UserError(f"--{name}={given}: a judge has no weight of its own")
    judge = config.harmlessness or config.base
    if judge != "pretrain" and ".py:" not in judge:  # harmlessness is judged with the reasoning
        check_reasoning_is_kept(read_tokenizer(judge))
    if config.rewriter:
        if config.no_zero or config.cold_start:
            raise UserError("--rewriter rewrites R1-Zero's samples: leave --no-zero and --cold-start out")
        read_tokenizer(config.rewriter).chat([{"role": "user", "content": config.rewrite_prompt}])
        if read_config(config.rewriter).head == "scalar":
            raise UserError(f"--rewriter={config.rewriter} is a reward model, which gives no tokens")
    if config.general.source != "general":  # the rules know their own prompts alone
        brought = config.general_data and all(getattr(config, n) or getattr(config, f"{n}_data") for n in SCORERS)
        if config.base == "pretrain" or not brought:
            raise UserError(
                f"--general.source={config.general.source} needs --base, --general-data, and for --helpfulness and "
                "--harmlessness a model, a function or data"
            )


def main() -> None:
    """Runs the recipe that the command line asks for."""
    config = cli.parse(PRESETS, "tiny", prog="r1.py", description=(__doc__ or "").splitlines()[0])
    base = short_name(config.base)
    out = config.out or Path("runs") / f"r1-{base}-seed{config.seed}"
    check(config)
    if not config.dry_run:
        check_attention(config)
    carry_out(
        stages(config),
        out,
        config,
        "experiments/r1.py",
        weights=weights_of(config.base, out / "base"),
        report=out,
        done=f"{out}: report.md, report.html, summary.json, and a folder for each stage",
        model=base,
    )


if __name__ == "__main__":
    run_command(main, "lower microbatch or logprob-chunk of the stage, or add --remat=block or --gather=layer")
