"""Estimates of the memory and collectives of a mesh."""

import dataclasses

import jax
import pytest

from r1jax.benchmark.collectives import program_traffic
from r1jax.benchmark.mesh_estimate import abstract_batch, abstract_state, estimate, update_program
from r1jax.benchmark.mesh_memory import abstract_mesh, needs
from r1jax.benchmark.workload import Bench, Workload
from r1jax.models.transformer import param_specs, prepare
from r1jax.sharding import make_mesh, param_shapes
from tests.benchmark.helpers import WORK, Parity


def test_an_update_gathers_weights_once_or_for_each_pass():
    """Each weight that the data axis splits is gathered once per update, or at least once per backward pass."""
    mesh = make_mesh("2x1")
    state = abstract_state(WORK, mesh)
    split = [w for w in jax.tree.leaves(state.params) if w.sharding.shard_shape(w.shape) != w.shape]
    weights, passes = 4 * sum(w.size for w in split), WORK.prompts * WORK.group // WORK.microbatch
    gathered = {}
    for gather in ("update", "layer"):
        with jax.set_mesh(mesh):
            program = update_program(dataclasses.replace(WORK, gather=gather), state)
        gathered[gather] = program_traffic(program.as_text())[0].bytes["all-gather"]
    assert passes == 2
    assert weights <= gathered["update"] < 1.01 * weights  # and a few rows of the batch
    assert gathered["layer"] >= passes * weights


def test_devices_that_compute_their_rows_by_themselves_add_gradients_once_per_update():
    mesh, reduced = make_mesh("2x1"), []
    for microbatch in (WORK.microbatch, WORK.microbatch // 2):
        work = dataclasses.replace(WORK, gather="device", microbatch=microbatch)
        state = abstract_state(work, mesh)
        with jax.set_mesh(mesh):
            traffic = program_traffic(update_program(work, state).as_text())[0].bytes
        reduced.append({kind: traffic[kind] for kind in traffic if kind != "all-gather"})
    split = [w for w in jax.tree.leaves(state.params) if w.sharding.shard_shape(w.shape) != w.shape]
    assert reduced[0] == reduced[1]
    assert reduced[0]["reduce-scatter"] == 4 * sum(w.size for w in split) // 2  # a device's half of each sum
    assert reduced[0]["all-reduce"] < 0.1 * reduced[0]["reduce-scatter"]  # norms and metrics


@pytest.mark.parametrize(
    ("dtype", "mesh", "gather", "whole"),
    [
        ("bfloat16", "8x1", "auto", True),  # 15.2 GB
        ("bfloat16", "8x1", "layer", False),
        ("float32", "8x1", "auto", False),  # 30.5 GB
        ("float32", "8x1", "update", True),
        ("float32", "2x4", "auto", True),  # a quarter of them on a device
    ],
)
def test_weights_are_gathered_once_if_they_fit(dtype, mesh, gather, whole):
    config = Workload(model="qwen2.5-7b", dtype=dtype, gather=gather).model_config()
    with jax.set_mesh(make_mesh(mesh)):
        params = param_shapes(param_specs(config), dtype, make_mesh(mesh))
        prepared = jax.jit(lambda p: prepare(p, config)).lower(params).compile().output_shardings
    for path, sharding in jax.tree_util.tree_leaves_with_path(prepared):
        if "norm" in jax.tree_util.keystr(path):  # whole everywhere
            assert not any(sharding.spec), path
            continue
        assert ("data" not in str(sharding.spec)) == whole, path
        assert ("model" in str(sharding.spec)) == (mesh == "2x4"), path


def test_weights_are_gathered_in_the_compute_dtype():
    """Master weights in float32 are gathered as bfloat16, in half as many bytes."""
    config = dataclasses.replace(WORK, dtype="bfloat16").model_config()
    mesh = make_mesh("2x1")
    with jax.set_mesh(mesh):
        params = param_shapes(param_specs(config), "float32", mesh)
        program = jax.make_jaxpr(lambda p: prepare(p, config))(params)
    gathered = [eqn.invars[0].aval for eqn in program.eqns if eqn.primitive.name == "sharding_constraint"]
    assert [x.dtype for x in gathered] == ["bfloat16"] * len(jax.tree.leaves(params))


def test_an_estimate_describes_the_arrays_of_a_step():
    mesh = make_mesh("2x4")
    with jax.set_mesh(mesh):
        bench = Bench(WORK, Parity())
        for real, planned in ((bench.batch(0), abstract_batch(WORK)), (bench.state.policy, abstract_state(WORK, mesh))):
            assert jax.tree.structure(real) == jax.tree.structure(planned)  # also the static first position
            for x, y in zip(jax.tree.leaves(real), jax.tree.leaves(planned), strict=True):
                assert (x.shape, x.dtype) == (y.shape, y.dtype) and x.sharding.is_equivalent_to(y.sharding, x.ndim)
        arrays = jax.tree.leaves((bench.state.policy, bench.state.reference))
    held = sum(x.addressable_shards[0].data.nbytes for x in arrays)
    wide, narrow = estimate(WORK, mesh), estimate(WORK, make_mesh("1x1"))
    assert wide["resident_bytes"] == held
    assert narrow["resident_bytes"] == sum(x.nbytes for x in arrays)
    state = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(bench.state.policy))
    assert state < wide["update"]["argument_bytes"] < state + 2**14  # the rollout's rows beside it
    for name in ("update", "rollout"):
        assert narrow[name]["collectives"]["count"] == {}
        assert wide[name]["collectives"]["count"]["all-reduce"] > 0
        assert wide["peak_bytes"] >= held + wide[name]["temporary_bytes"]
        counted = sum(needs(WORK, abstract_mesh("1x1"), 1e12)[f"RL, {name}"].values())
        assert counted == pytest.approx(narrow["resident_bytes"] + narrow[name]["temporary_bytes"], rel=0.05)
