"""Eight CPU devices for every test, and the tiny decoder that many of them share."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Workers and child processes import the package from bytecode, also where the environment tells Python to keep none.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""
# Read once, when jax starts its backend; child processes of a test inherit them.
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling these small programs takes longer than running them. Without optimisations and with the older emitter of
# fused loops it takes a tenth of the time; with two workers on two cores, parallel compilation only costs more.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "host_platform_device_count=8" not in (flags := os.environ.get("XLA_FLAGS", "")):  # else: set by the parent process
    flags = f"{flags} --xla_force_host_platform_device_count=8"
    quick = f"{flags} --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    # XLA aborts the process if it does not know a flag, so a child process tries these two. The XLA of jax 0.12 has the
    # newer emitter alone. To disable its passes "fusion" and "fusion-wrapper" is no remedy: results are then wrong.
    attempt = [sys.executable, "-c", "from jaxlib import _jax; _jax.CompileOptions()"]
    known = subprocess.run(attempt, env=os.environ | {"XLA_FLAGS": quick}, capture_output=True).returncode == 0
    os.environ["XLA_FLAGS"] = quick if known else flags

import jax
import pytest

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.sharding import Params, init_params
from tests.helpers.hub import Hub, forget, hub_server, use

TESTS = Path(__file__).parent
# The slowest files, in descending order. pytest-xdist distributes files in the order of collection; with these first,
# the workers end at about the same time.
LONGEST = (
    "experiments/test_r1_zero_resume.py",
    "experiments/test_r1.py",
    "ablation/test_in_graph.py",
    "sampling/test_shares.py",
    "experiments/test_benchmark.py",
    "experiments/test_r1_zero.py",
    "recipe/test_sft.py",
    "sampling/test_sampler.py",
    "rl/test_learned.py",
    "rl/test_update.py",
    "recipe/test_reward_model.py",
    "benchmark/test_workload.py",
    "models/test_transformer.py",
    "rl/test_packing.py",
    "rl/test_expert_axis.py",
    "sampling/test_ngram.py",
    "kernels/test_mosaic.py",
    "sampling/test_levels.py",
    "benchmark/test_mesh_estimate.py",
    "rewards/test_pool.py",
    "models/test_experts.py",
    "sampling/test_memory.py",
    "rl/test_replay.py",
    "rl/test_skipped_updates.py",
    "rl/test_step.py",
    "ablation/test_ablate.py",
    "sampling/test_speculative.py",
    "experiments/test_speedrun.py",
    "rl/test_prime.py",
    "experiments/test_evaluate.py",
    "models/test_latent.py",
    "training/test_gradients.py",
    "experiments/test_scaling.py",
    "sampling/test_latent.py",
    "training/test_balance.py",
    "kernels/test_head.py",
    "models/test_exchange.py",
    "sampling/test_stream.py",
    "checkpoints/test_experts.py",
    "checkpoints/test_smollm2.py",
    "benchmark/test_mesh_memory.py",
    "training/test_optimizer.py",
    "kernels/test_packed_attention.py",
    "test_seeds.py",
    "checkpoints/test_native.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the tests of the longest files to the front."""
    rank = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
    # The modules of JAX and of the tests are a million objects, which each full collection would visit.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def release_programs() -> Iterator[None]:
    """Frees compiled programs after a module of tests if the process is near the kernel's limit of memory mappings.

    XLA maps the code of each program, and LLVM aborts the process at 65,530 mappings, the default limit of Linux.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > 15_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """Two blocks with grouped heads: every part of the decoder, compiled within a second."""
    return ModelConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        context_length=64,
    )


@pytest.fixture(scope="session")
def tiny_params(tiny_config: ModelConfig) -> Params:
    """Random float32 weights of tiny_config."""
    return init_params(param_specs(tiny_config), jax.random.key(0))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local hub that this process uses, with an empty cache."""
    with hub_server() as server:
        use(monkeypatch, server.url, tmp_path / "hub-cache")
        yield server
    forget()


@pytest.fixture(scope="session")
def disk_of() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """disk_of(size): limits files to ``size`` bytes; longer writes raise OSError as on a full disk."""

    @contextlib.contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
