"""Every setting of R1-Zero changes something: each has an observer here, or a test elsewhere that is named here."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.r1_zero import Config, reward_specs, stages
from r1jax import cli
from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.interface import PolicyTokens, RolloutTokens
from r1jax.algorithms.ppo import PPO
from r1jax.algorithms.prime import PRIME
from r1jax.algorithms.rollout_terms import RolloutTerms
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.text.corpus import documents
from r1jax.data.text.template import find_template
from r1jax.kernels import platform
from r1jax.models.attention import implementation
from r1jax.models.config import COMPUTE_OPTIONS, ComputeOptions, ModelConfig
from r1jax.models.transformer import forward, param_specs
from r1jax.recipe.pretraining import document_rows, model_config, train_tokenizer
from r1jax.rl.batch import Batch
from r1jax.rl.config import RLConfig
from r1jax.rl.learned import make_learners
from r1jax.rl.update import policy_sums
from r1jax.sampling.memory import choose_slots
from r1jax.sampling.processors import sample_token
from r1jax.sampling.queues import make_queue
from r1jax.settings import MAY_CHANGE, marked
from r1jax.sharding import init_params, make_mesh, param_shapes
from r1jax.training.optimizer import make_optimizer
from r1jax.training.state import state_shapes


def problems(config):
    return load_problems(config.problems)


def token(config):
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]] * 9, np.float32))
    words = (np.linspace(0.05, 0.95, 9) * 2**32).astype(np.uint32)
    draw = jax.jit(sample_token, static_argnums=2)
    return jax.device_get(draw(logits, np.stack([words, words], axis=1), config.sampling))


def queue(config, tiny_config):
    wide = dataclasses.replace(tiny_config, context_length=4096)
    slots = choose_slots(
        wide, config.sampling, param_shapes(param_specs(wide), "float32"), prompts=8, width=4, sequences=32
    )
    return slots, make_queue([[1, 2]], wide, config.sampling).limits.tolist()


def optimiser_of(section):
    """The optimiser as a traced program, and the type of the weights."""

    def observe(config, tiny_config):
        settings = getattr(config, section)
        small = dataclasses.replace(tiny_config, num_layers=1, hidden_size=8, num_heads=1, num_kv_heads=1, vocab_size=8)
        optimizer = make_optimizer(settings, 40)
        params = {"w": jnp.full((3,), 0.5)}

        def step(state, i):
            updates, state = optimizer.update({"w": jnp.array([1e-7, 0.1 * i, 3.0 / i])}, state, params)
            return state, updates["w"]

        program = jax.make_jaxpr(lambda: jax.lax.scan(step, optimizer.init(params), jnp.arange(1.0, 40))[1])()
        return str(program), str(state_shapes(small, settings, optimizer, make_mesh("1x1")).params["embedding"].dtype)

    return observe


def loss_program(config, tiny_config):
    """The loss as a traced program, which differs if a setting differs."""
    B, T = 4, 31
    f32 = jax.ShapeDtypeStruct((B, T), jnp.float32)
    batch = Batch(
        tokens=jax.ShapeDtypeStruct((B, T + 1), jnp.int32),
        mask=jax.ShapeDtypeStruct((B, T), bool),
        rewards=jax.ShapeDtypeStruct((B,), jnp.float32),
        rule_rewards={},
        advantages=jax.ShapeDtypeStruct((B,), jnp.float32),
        sampler_logprobs=f32,
        sampling_logprobs=f32,
        old_logprobs=f32,
        reference_logprobs=f32,
    )
    params = jax.eval_shape(lambda: init_params(param_specs(tiny_config), jax.random.key(0)))
    static = (config.rl.algorithm, config.rl.context(config.sampling), tiny_config)
    return str(jax.make_jaxpr(lambda p, b: policy_sums(p, b, *static))(params, batch))


def balance_of_experts(config):
    """What updates get to know; tests/training/test_balance.py tests what they do with it."""
    return config.rl.context(config.sampling).balance, config.pretrain.balance


def forward_program(config, tiny_config):
    model = dataclasses.replace(tiny_config, dtype=config.dtype, remat=config.remat, unroll=config.unroll)
    params = jax.eval_shape(lambda: init_params(param_specs(model), jax.random.key(0)))

    def loss(p):
        return forward(p, jnp.ones((1, 4), jnp.int32), model).sum()

    return str(jax.make_jaxpr(jax.grad(loss))(params))


def kernel(config, tiny_config):
    return implementation(dataclasses.replace(tiny_config, attention=config.attention))


def decoding_kernels(config):
    """The choice if all kernels run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "runs_here", lambda kernels: True)
        return platform.choose(config.kernels)


def base_model(config):
    settings = config.pretrain
    texts = documents(settings.corpus, ProblemsConfig(), find_template(config.template), config.seed)
    tokenizer = train_tokenizer(texts[:500], settings.vocabulary)
    shape = document_rows(texts[:9], tokenizer, settings.width)[0].shape
    return hashlib.sha256("".join(texts).encode()).hexdigest(), model_config(settings, tokenizer.vocab_size, 99), shape


def rewards(config):
    return [(s.name, s.file, s.weight) for s in reward_specs(config)]


def test_a_run_resumes_with_other_compute_options():
    """All compute options may change except dtype, which changes results."""
    how = {name for name in COMPUTE_OPTIONS if name != "dtype"}
    computing = [stage for stage in stages(Config()) if isinstance(stage.settings, ComputeOptions)]
    assert [stage.name for stage in computing] == ["evaluation_before", "r1-zero", "evaluation_after"]
    for stage in computing:
        free = set(marked(stage.settings, MAY_CHANGE))
        assert how <= free and "dtype" not in free


LOSS = "loss eps_low eps_high beta entropy aggregate ratio importance_cap logprob_chunk minibatches inner_epochs"
ADAM = "learning_rate warmup_steps schedule b1 b2 eps weight_decay max_grad_norm param_dtype"
OBSERVERS = {
    problems: [
        f"problems.{n}"
        for n in ["digits", "operations", "terms", "train_size", "held_out_size", "held_out_share", "seed"]
    ],
    token: [f"sampling.{n}" for n in ["temperature", "top_k", "top_p", "min_p"]],
    queue: ["sampling.max_tokens", "sampling.slots"],
    optimiser_of("rl"): [f"rl.{n}" for n in ADAM.split()],
    optimiser_of("pretrain"): [f"pretrain.{n}" for n in ADAM.split()],
    loss_program: [f"rl.{n}" for n in LOSS.split()],
    balance_of_experts: [f"{n}.{s}" for n in ["rl", "pretrain"] for s in ["router_bias_speed", "balance_loss"]],
    forward_program: ["dtype", "remat", "unroll"],
    kernel: ["attention"],
    decoding_kernels: ["kernels"],
    base_model: [
        *(f"pretrain.corpus.{n}" for n in ["documents", "careful", "slips", "guesses", "untidy", "rambles"]),
        *(f"pretrain.{n}" for n in ["vocabulary", "hidden_size", "num_layers", "width", "architecture"]),
        "template",
        "seed",
    ],
    rewards: ["rewards"],
}
# Settings whose effect only a run shows: tests in these files change them and check the results.
BY_RUNNING = {
    "experiments/test_r1_zero.py": """base out mesh preview
        evaluation.problems evaluation.samples evaluation.temperature
        rl.steps rl.prompts rl.group rl.minibatches rl.beta rl.reference_every rl.drop_equal_groups rl.max_resamples
        save.every pretrain.steps pretrain.batch""",
    "experiments/test_r1_zero_resume.py": "until only force dry_run",
    "checkpoints/test_native.py": "save.keep_last save.keep_best",
    "algorithms/test_advantages.py": "rl.baseline rl.normalise_std rl.overlong_buffer",
    "rl/test_update.py": "rl.microbatch",
    "rl/test_replay.py": "rl.replay_routing",
    "rl/test_packing.py": "rl.pack",
    "rl/test_rollouts.py": "rl.mask_truncated",
    "training/test_tracking.py": "track",
    "training/test_gradients.py": "accumulate",
    "training/test_optimizer.py": "rl.rounding pretrain.rounding",
    "training/test_multi_token.py": "rl.mtp_weight pretrain.mtp_weight pretrain.mtp_layers",
    "sampling/test_speculative.py": "sampling.draft",
    "sampling/test_ngram.py": "sampling.draft_tokens sampling.draft_slots",
    "sampling/test_sampler.py": "decoding_weights",
    "benchmark/test_workload.py": "gather",
    "data/problems/test_dataset.py": """problems.source problems.held_out_source problems.checker
        problems.columns problems.skip_unreadable""",
    "rewards/test_pool.py": "verifier.workers verifier.deadline",
    "rewards/code/test_judge.py": "verifier.code.isolation verifier.code.seconds verifier.code.memory "
    "verifier.code.credit",
}
CHANGES = {
    "problems.operations": "+",
    "problems.train_size": 20,
    "problems.held_out_size": 20,
    "problems.held_out_share": 0.3,
    "problems.seed": 1,
    "problems.terms": 3,
    "sampling.temperature": 0.5,
    "sampling.top_k": 2,
    "sampling.top_p": 0.6,
    "sampling.min_p": 0.4,
    "sampling.slots": 3,
    "warmup_steps": 3,
    "schedule": ("cosine", "constant"),
    "param_dtype": "bfloat16",
    "rl.loss": "cispo",
    "rl.aggregate": "token",
    "rl.ratio": "sequence",
    "rl.logprob_chunk": 8,
    "rl.minibatches": 2,
    "rl.inner_epochs": 2,
    "b1": 0.5,
    "b2": 0.5,
    "eps": 1e-3,
    "dtype": "bfloat16",
    "remat": "block",
    "unroll": True,
    "kernels": "plain",
    "attention": "cudnn",
    "template": "r1-zero",
    "rewards": ("accuracy", "format=2"),
    "pretrain.hidden_size": 64,
    "pretrain.architecture": "qwen3",
    "pretrain.vocabulary": 60,
}


def leaves(config):
    """Dotted paths of all settings; those of the algorithm are named as their flags."""
    paths = {path for path, _ in cli._leaves(json.loads(cli.to_json(config)))}
    return {path.replace("rl.algorithm.", "rl.") for path in paths if path != "rl.algorithm.class"}


def changed(config, path):
    """The config with another value at ``path``. If it is a share of the corpus, another share changes too."""
    *parents, name = path.split(".")
    parts = [config]
    for parent in parents:
        parts.append(getattr(parts[-1], parent))
    if parents == ["rl"] and not hasattr(parts[-1], name):  # flags of the algorithm have no prefix for it
        parents, parts = [*parents, "algorithm"], [*parts, parts[-1].algorithm]
    old = getattr(parts[-1], name)
    new = CHANGES[path] if path in CHANGES else CHANGES.get(name)
    if new is None:
        new = old * 2 + 1 if isinstance(old, int) else old * 1.5 + 0.1
    if name == "schedule":
        new = next(value for value in new if value != old)
    values = {name: new}
    if path.startswith("pretrain.corpus") and name != "documents":
        values[name] = old + 0.02
        other = "guesses" if name == "careful" else "careful"
        values[other] = getattr(parts[-1], other) - 0.02
    part = dataclasses.replace(parts[-1], **values)
    for parent, field in zip(reversed(parts[:-1]), reversed(parents), strict=True):
        part = dataclasses.replace(parent, **{field: part})
    return part


@pytest.fixture(scope="module")
def start():
    config = Config()
    corpus = dataclasses.replace(config.pretrain.corpus, documents=600)
    return dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, corpus=corpus))


@pytest.mark.parametrize("observe", OBSERVERS, ids=[f"{i}" for i in range(len(OBSERVERS))])
def test_every_setting_changes_what_its_observer_sees(observe, start, tiny_config):
    arguments = (tiny_config,) if observe.__code__.co_argcount == 2 else ()
    plain = repr(observe(start, *arguments))
    assert repr(observe(start, *arguments)) == plain
    for path in OBSERVERS[observe]:
        assert repr(observe(changed(start, path), *arguments)) != plain, path


def ppo_program(algorithm):
    """PPO as traced programs, and the settings of its critic, which differ if a setting differs."""
    B, T = 4, 5
    f32, mask = jax.ShapeDtypeStruct((B, T), jnp.float32), jax.ShapeDtypeStruct((B, T), bool)
    row = jax.ShapeDtypeStruct((B,), jnp.float32)
    rollout = RolloutTokens(mask, row, {}, row, f32, f32, {"critic": f32})
    tokens = PolicyTokens(f32, f32, f32, f32, f32, f32, mask)
    targets = jax.eval_shape(algorithm.prepare, rollout)[1]["critic"]
    programs = [
        jax.make_jaxpr(algorithm.prepare)(rollout),
        jax.make_jaxpr(algorithm.token_loss)(tokens),
        jax.make_jaxpr(lambda x, m: algorithm.reduce(x, m, 7))(f32, mask),
        jax.make_jaxpr(lambda *x: algorithm.learned_loss("critic", *x))(f32, mask, targets),
    ]
    rl = RLConfig(algorithm=algorithm, learning_rate=1e-3)
    settings = vars(make_learners(rl, ModelConfig(), 0, "rl")["critic"].settings)
    return repr((programs, settings, algorithm.learned["critic"].start, rl.algorithm.needs_reference))


def test_every_setting_of_ppo_changes_its_programs():
    """Those of the rollout are GRPO's, too."""
    shared = {field.name for field in dataclasses.fields(RolloutTerms)}
    start = PPO(beta=0.1, whiten=False)
    other = {"kl_in": "loss", "aggregate": "sequence", "whiten": True, "critic": "runs/a", "critic_schedule": "cosine"}
    own = [field.name for field in dataclasses.fields(PPO) if field.name not in shared]
    assert len(own) > 14
    for name in own:
        value = other.get(name) or (0.5 if name != "critic_warmup_steps" else 3)
        assert ppo_program(dataclasses.replace(start, **{name: value})) != ppo_program(start), name


# Settings of other algorithms than the default, by the class that has them.
BY_ALGORITHM = {
    PRIME: {
        "algorithms/test_prime.py": "accuracy_low accuracy_high gamma prm_beta prm_learning_rate process_weight "
        "normalise_process"
    }
}


@pytest.mark.parametrize("algorithm", BY_ALGORITHM)
def test_every_setting_of_another_algorithm_is_tested_where_it_says(algorithm):
    own = {field.name for field in dataclasses.fields(algorithm)} - {field.name for field in dataclasses.fields(GRPO)}
    assert own == {name for names in BY_ALGORITHM[algorithm].values() for name in names.split()}


def test_every_setting_has_an_observer(start):
    seen = {path for paths in OBSERVERS.values() for path in paths}
    seen |= {path for paths in BY_RUNNING.values() for path in paths.split()}
    assert leaves(start) == seen
