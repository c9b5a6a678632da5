"""Eight CPU devices for every test, and the tiny decoder that many of them share."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator

# Read once, when jax starts its backend; child processes of a test inherit them.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Compiling these small programs takes longer than running them: half of the suite's time without optimisations.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.sharding import Params, init_params


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """Two blocks with grouped heads: small enough to compile in a second, with every part of the decoder in it."""
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


@pytest.fixture(scope="session")
def disk_of() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """disk_of(size): lets no file grow beyond size bytes, with the same OSError from write as a full disk's."""

    @contextlib.contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
