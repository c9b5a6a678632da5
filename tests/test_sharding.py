"""Process settings for several devices, and the collectives of compiled programs."""

import dataclasses
import math
import os

import jax
import pytest

from r1jax import sharding
from r1jax.benchmark.collectives import program_traffic
from r1jax.benchmark.mesh_estimate import abstract_state, update_program
from r1jax.benchmark.workload import CPU_SETTINGS, Workload
from r1jax.models.transformer import param_specs
from r1jax.sharding import is_spec, make_mesh, partition, partition_param


@pytest.mark.parametrize(
    ("flags", "given", "least"),
    [
        ("--xla_force_host_platform_device_count=4", None, 16),
        ("--xla_force_host_platform_device_count=2 --a=b --xla_force_host_platform_device_count=64", None, 256),
        ("--xla_force_host_platform_device_count=4", "5", 5),  # what the user set stays
        ("--xla_force_host_platform_device_count=1", None, 0),
        ("", None, 0),
    ],
)
def test_cpu_devices_get_threads_for_several_collectives_each(monkeypatch, flags, given, least):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    if given:
        monkeypatch.setenv("PJRT_NPROC", given)
    sharding._enough_threads()
    threads = int(os.environ.get("PJRT_NPROC", 0))
    assert threads == least if given or not least else threads >= least


def test_threads_are_set_on_import():
    """This process has eight devices and does not set the number of threads itself."""
    assert int(os.environ["PJRT_NPROC"]) >= 32


def test_on_both_axes_an_update_gathers_weights_and_no_activations(capfd):
    """On 2x2, no gathered array grows with the number of tokens, and XLA warns of no rematerialisation."""
    work = Workload(**CPU_SETTINGS | {"prompts": 8, "microbatch": 32}, unroll=False)
    mesh = make_mesh("2x2")
    state = abstract_state(work, mesh)
    with jax.set_mesh(mesh):
        program = update_program(work, state)
    gathered = program_traffic(program.as_text())[0].bytes["all-gather"]
    whole = 0  # bytes on a device of the weights that the data axis splits, once it has them whole
    for spec in jax.tree.leaves(param_specs(work.model_config()), is_leaf=is_spec):
        if "data" in str(partition_param(spec, mesh)):
            shards = mesh.shape["model"] if "model" in str(partition_param(spec, mesh)) else 1
            whole += 4 * math.prod(spec.shape) // shards
    stream = 4 * 32 // 2 * (work.width - 1) * work.model_config().hidden_size  # of one residual stream on a device
    assert gathered < whole + stream / 2
    assert "ematerialization" not in capfd.readouterr().err


def test_weights_that_no_axis_names_stay_whole():
    """Norms scale the residual stream, which the model axis does not split."""
    mesh, config = make_mesh("2x4"), dataclasses.replace(Workload(model="qwen2.5-1.5b").model_config(), qk_norm=True)
    specs = param_specs(config)
    for norm in (specs["final_norm"], specs["layers"]["mlp_norm"], specs["layers"]["attention"]["query_norm"]):
        assert not any(partition_param(norm, mesh))
    ruled = specs["layers"]["mlp"]["gate"]
    assert partition_param(ruled, mesh) == partition(ruled.shape, ruled.axes, mesh)
