"""Programs that are compiled while the first samples are drawn: those that the step calls, each once."""

import dataclasses
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.table import ALGORITHMS
from r1jax.benchmark.programs import program_times
from r1jax.checkpoints.model import Model
from r1jax.rl import ahead
from r1jax.rl.ahead import compile_while_sampling
from r1jax.rl.config import RLConfig
from r1jax.rl.setup import make_setup
from r1jax.rl.state import init_rl_state
from r1jax.rl.step import rl_step
from r1jax.rl.train import step_keys
from r1jax.sharding import make_mesh
from tests.rl.test_rollouts import Letters, environment_of

LEARNING = ("update", "batch_logprobs")


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(ahead, "_on_accelerator", lambda: True)


def test_a_cpu_compiles_nothing_ahead(tiny_params, tiny_config, monkeypatch):
    monkeypatch.undo()
    _, setup, state = parts(tiny_params, tiny_config)
    assert compile_while_sampling(setup.sample, state, setup, len) is setup.sample


def parts(tiny_params, tiny_config, **settings):
    """Environment, setup and state of a training."""
    environment = environment_of(lambda problem, place: float(place * len(problem.question)))
    config = RLConfig(**{"prompts": 2, "group": 4, "algorithm": GRPO(beta=0.1), **settings})
    model = Model(tiny_config, jax.tree.map(lambda x: x.copy(), tiny_params), Letters())
    setup = make_setup(model, environment, config)
    return environment, setup, init_rl_state(model.params, setup)


def prompt_ids(environment, problem):
    return environment.template.prompt_ids(problem, Letters())


def test_a_step_calls_the_programs_that_were_compiled_ahead(tiny_params, tiny_config):
    calls = []
    with jax.set_mesh(make_mesh("2x1")), program_times() as times:
        # Settings that no other test has, whose programs the process would know.
        environment, setup, state = parts(tiny_params, tiny_config, logprob_chunk=17, learning_rate=3e-3)

        def sample(*given):
            calls.append(given)
            return setup.sample(*given)

        first = compile_while_sampling(sample, state, setup, lambda problem: prompt_ids(environment, problem))
        setup_ahead = dataclasses.replace(setup, sample=first)
        for step in range(2):
            problems = [environment.batch(step, 2, 0, 1)]
            state, _ = rl_step(state, problems, step_keys(environment, step), setup_ahead)
    rows = {row["name"]: row for row in times.figures()["programs"]}
    assert {name: rows[name]["number"] for name in LEARNING} == {"update": 1, "batch_logprobs": 1}
    assert {name: rows[name]["in_main_thread"] for name in LEARNING} == dict.fromkeys(LEARNING, 0.0)
    assert len(calls) == 2


@pytest.mark.parametrize(("epochs", "beta", "programs"), [(1, 0.0, 1), (1, 0.1, 2), (2, 0.0, 2), (2, 0.1, 3)])
def test_the_programs_are_those_that_the_settings_need(epochs, beta, programs, tiny_params, tiny_config):
    """Beside the update, log-probabilities of a reference, and of the policy before the first of several updates."""
    _, setup, state = parts(tiny_params, tiny_config, inner_epochs=epochs, algorithm=GRPO(beta=beta))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    assert len(list(ahead._programs(shapes, 0, setup))) == programs


@pytest.mark.parametrize(
    "settings",
    [{"minibatches": 2}, {"pack": True}, {"algorithm": ALGORITHMS["ppo"]}],
    ids=["minibatches", "pack", "ppo"],
)
def test_nothing_is_compiled_ahead_if_programs_depend_on_the_samples(settings, tiny_params, tiny_config):
    _, setup, state = parts(tiny_params, tiny_config, **settings)
    assert compile_while_sampling(setup.sample, state, setup, len) is setup.sample


@pytest.mark.parametrize(("used", "ahead_of"), [(50, True), (51, False)])
def test_the_compiler_needs_half_of_the_memory(used, ahead_of, tiny_params, tiny_config, monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_in_use": used, "bytes_limit": 100}

    _, setup, state = parts(tiny_params, tiny_config)
    monkeypatch.setattr(ahead.jax, "local_devices", lambda: [Device()])
    assert (compile_while_sampling(setup.sample, state, setup, len) is setup.sample) != ahead_of


def test_a_program_that_cannot_be_compiled_ahead_does_not_end_the_step(tiny_params, tiny_config, monkeypatch):
    environment, setup, state = parts(tiny_params, tiny_config)
    tried = []

    def broken(*given):
        tried.append(given)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ahead, "_compile", broken)
    drawn = drawn_of(setup, setup.longest)
    first = compile_while_sampling(lambda *_: drawn, state, setup, lambda problem: prompt_ids(environment, problem))
    problems = environment.batch(0, 2, 0, 1)
    assert [first(None, problems, None, 0) for _ in range(2)] == [drawn] * 2 and len(tried) == 2


def drawn_of(setup, width):
    """Two prompts of 3 tokens and four samples each, the longest text of ``width`` tokens."""
    lengths = np.ones(8, np.int32)
    lengths[5] = width - 3
    return [[0] * 3] * 2, SimpleNamespace(lengths=lengths)


@pytest.mark.parametrize(("share", "waits"), [(1.0, True), (0.5, False)])
def test_only_a_batch_of_the_greatest_width_waits_for_its_programs(share, waits, tiny_params, tiny_config, monkeypatch):
    environment, setup, state = parts(tiny_params, tiny_config)
    compiled, may_end = [], threading.Event()

    def slow(*_):
        assert may_end.wait(60)
        compiled.append(True)

    monkeypatch.setattr(ahead, "_compile", slow)
    drawn = drawn_of(setup, int(share * setup.longest))
    first = compile_while_sampling(lambda *_: drawn, state, setup, lambda problem: prompt_ids(environment, problem))
    if waits:
        threading.Timer(0.2, may_end.set).start()
    assert first(None, environment.batch(0, 2, 0, 1), None, 0) is not None
    assert bool(compiled) == waits
    may_end.set()
