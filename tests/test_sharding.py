"""Process settings for several devices, and the collectives of compiled programs."""

import dataclasses
import math
import os

import jax
import pytest
from jax.sharding import PartitionSpec as P

from r1jax import sharding
from r1jax.benchmark.collectives import program_traffic
from r1jax.benchmark.mesh_estimate import abstract_state, update_program
from r1jax.benchmark.workload import CPU_SETTINGS, Workload
from r1jax.errors import UserError
from r1jax.models.transformer import param_specs
from r1jax.sharding import (
    batch_sharding,
    decoding_partition,
    gathered_count,
    is_spec,
    make_mesh,
    parse_mesh,
    partition,
    partition_param,
)
from tests.models.helpers import with_experts


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


@pytest.mark.parametrize(
    ("text", "data", "model", "expert"),
    [
        ("8x1", 8, 1, 1),
        ("2X3x4", 2, 3, 4),
        ("data:2,model:3,expert:4", 2, 3, 4),
        ("expert:4, data:2", 2, 1, 4),
        ("model:8", 1, 8, 1),
    ],
)
def test_meshes_are_written_by_position_or_by_name(text, data, model, expert):
    size = parse_mesh(text)
    assert (size.data, size.model, size.expert, size.rows) == (data, model, expert, data * expert)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        "2x2x2x2",
        "2x0",
        "2x-1",
        "axb",
        "data:2,data:2",
        "data:2,pipeline:2",
        "data:2,4",
        "data",
        "data:2x2",
        ":2",
    ],
)
def test_other_meshes_are_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        parse_mesh(text)
    assert str(caught.value).startswith(f"--mesh={text}: expected DATAxMODEL, ") and "\n" not in str(caught.value)


def test_the_expert_axis_splits_experts_by_number_and_all_else_as_the_data_axis(tiny_config):
    mesh, specs = make_mesh("2x2x2"), param_specs(with_experts(tiny_config))
    gate, query = specs["layers"]["mlp"]["gate"], specs["layers"]["attention"]["query"]
    assert partition_param(gate, mesh) == P(None, "expert", "data", "model")
    assert decoding_partition(gate, mesh) == P(None, "expert", None, "model")
    assert partition_param(query, mesh) == P(None, ("data", "expert"), "model", None)
    assert decoding_partition(query, mesh) == P(None, None, "model", None)
    assert partition((8, 5), ("batch", None), mesh) == P(("data", "expert"), None)
    assert partition((6, 5), ("batch", None), mesh) == P("data", None)  # 6 rows split over 2 devices, and not over 4
    with jax.set_mesh(mesh):
        rows = jax.device_put(jax.numpy.zeros((8, 3)), batch_sharding())
        found = [s for s in jax.tree.leaves(specs, is_leaf=is_spec)]
        whole = sum(math.prod(s.shape) for s in found)
        experts = sum(math.prod(s.shape) for s in found if "experts" in s.axes)
        assert gathered_count(specs) == (whole - experts // 2) // 2
    assert {shard.data.shape for shard in rows.addressable_shards} == {(2, 3)}
