"""Scaling over meshes: equal steps, the work of each mesh, collectives in traces and programs, the result file."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

from experiments.scaling import Config, check, meshes_here, results_of
from r1jax.algorithms.logprobs import token_logprobs
from r1jax.benchmark.collectives import device_times, kind_of, program_traffic, read_trace
from r1jax.benchmark.mesh_estimate import abstract_batch, abstract_state, estimate, update_program
from r1jax.benchmark.scaling import Results, scaled_workload, time_in_collectives, with_efficiency
from r1jax.benchmark.workload import CPU_SETTINGS, Bench, Workload
from r1jax.checkpoints.native import Checkpoints
from r1jax.errors import UserError
from r1jax.models.transformer import param_specs, prepare
from r1jax.rewards.scores import Scores
from r1jax.rl.state import RLState
from r1jax.sharding import make_mesh, param_shapes
from r1jax.training.loop import restore
from tests.commands import ROOT, call

# Heads and vocabulary do not split evenly over every model axis here, and a rollout makes two backward passes.
WORK = Workload(**CPU_SETTINGS | {"prompts": 2, "group": 8, "prompt": 8, "tokens": 6}, unroll=False)


class Parity:
    """Rewards that differ within a group: whether a completion's first word is even."""

    names = ("parity",)

    def score(self, problems, completions):
        values = np.array([float(int(one.text.split()[0]) % 2 == 0) for one in completions], np.float32)
        return Scores(values=values[:, None], total=values, names=self.names, timeouts=0, crashes=0)


def one_step(mesh, gather="auto"):
    """Metrics and state of a whole step on a mesh."""
    with jax.set_mesh(make_mesh(mesh)):
        bench = Bench(dataclasses.replace(WORK, gather=gather), Parity())
        return bench.step(0), bench.state


@pytest.fixture(scope="module")
def alone():
    return one_step("1x1")


@pytest.mark.parametrize(("mesh", "gather"), [("2x1", "auto"), ("1x2", "auto"), ("2x4", "auto"), ("2x4", "layer")])
def test_a_whole_step_of_two_passes_is_the_same_on_every_mesh(alone, mesh, gather):
    """Compares samples, losses and gradient; other tests cover the remaining meshes and a single pass."""
    (want, before), (got, after) = alone, one_step(mesh, gather)
    for name in ("loss", "kl", "entropy", "ratio_mean", "gradient_norm"):
        assert got[name] == pytest.approx(want[name], abs=1e-6), name
    assert want["gradient_norm"] > 1e-3
    for moment in ("mu", "nu"):  # after one update, the gradient and its square by constants
        a, b = (optax.tree_utils.tree_get(state.policy.opt_state, moment) for state in (before, after))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5 * float(np.abs(x).max()) + 1e-12)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=3e-6), before.policy.params, after.policy.params)


def test_a_checkpoint_of_eight_devices_opens_on_other_meshes(alone, tmp_path):
    """Weights, moments and reference are restored bit by bit, with the shardings of the new mesh."""
    _, state = alone

    def shapes(mesh):
        policy = abstract_state(WORK, make_mesh(mesh))
        return RLState(policy, policy.params)

    wide = shapes("8x1")
    spread = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), state, wide)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, *spread.saved(), {"reward": 0.0})
        checkpoints.wait()
        for mesh in ("8x1", "4x2", "1x1"):
            target = shapes(mesh)
            found = restore(checkpoints, target)
            assert found is not None and found.reference is not None
            for name in ("policy", "reference"):
                leaves = [jax.tree.leaves(getattr(c, name)) for c in (state, found, target)]
                for x, y, shape in zip(*leaves, strict=True):
                    np.testing.assert_array_equal(x, y)
                    assert y.sharding.is_equivalent_to(shape.sharding, y.ndim)


def test_work_grows_with_the_data_axis_or_stays():
    work = Workload(prompts=32, group=16, microbatch=64, slots=100)
    sizes = {
        (scaling, data): (w.prompts, w.rl.microbatch_size, w.slots)
        for scaling in ("weak", "strong")
        for data in (1, 4, 8)
        for w in [scaled_workload(work, data, scaling)]
    }
    assert sizes == {
        ("weak", 1): (32, 64, 100),
        ("weak", 4): (128, 256, 400),
        ("weak", 8): (256, 512, 800),
        ("strong", 1): (32, 64, 100),
        ("strong", 4): (32, 256, 400),
        ("strong", 8): (32, 512, 800),
    }
    # A backward pass has at most all sequences.
    assert scaled_workload(dataclasses.replace(work, prompts=4), 8, "strong").microbatch == 64


@pytest.mark.parametrize(
    ("name", "operation", "kind"),
    [
        ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all-gather-start.3", "all-gather"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "", "all-reduce"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "", "reduce-scatter"),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", "all-to-all.1", "all-to-all"),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", "", "collective-permute"),
        ("ncclDevKernel_Generic", "", "other"),
        ("void AllReduceKernelImpl<float>(...)", "all-reduce.7", "all-reduce"),
        ("all-reduce.12", "all-reduce.12", "all-reduce"),
        ("MemcpyP2P", "collective-permute-start.2", "collective-permute"),
        ("loop_add_fusion_3", "loop_add_fusion.3", None),
        ("MemcpyD2D", "copy.4", None),
    ],
)
def test_kernels_of_collectives_are_known_by_name_or_operation(name, operation, kind):
    assert kind_of(name, operation) == kind


def named(kind, pid, name, tid=None):
    return {"ph": "M", "name": kind, "pid": pid, "args": {"name": name}} | ({} if tid is None else {"tid": tid})


def ran(pid, tid, ts, dur, name, **args):
    return {"ph": "X", "pid": pid, "tid": tid, "ts": ts, "dur": dur, "name": name, "args": args}


GPU_TRACE = [
    named("process_name", 1, "/device:GPU:0"),
    named("process_name", 2, "/device:GPU:1"),
    named("process_name", 9, "/host:CPU"),
    named("thread_name", 9, "python", 1),
    named("thread_name", 1, "Stream #16(Compute)", 16),
    named("thread_name", 1, "Stream #20(Compute)", 20),
    named("thread_name", 1, "XLA Ops", 1),
    named("thread_name", 2, "Stream #16(Compute)", 16),
    ran(1, 16, 100.0, 50.0, "gemm_fusion", hlo_op="gemm_fusion.1"),
    ran(1, 20, 130.0, 40.0, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", hlo_op="all-reduce-start.1"),  # 20 beside gemm
    ran(1, 20, 180.0, 10.0, "ncclDevKernel_AllGather_RING_LL", hlo_op="all-gather.2"),
    ran(1, 1, 130.0, 40.0, "all-reduce-start.1", hlo_op="all-reduce-start.1"),  # a row drawn from the streams
    ran(2, 16, 100.0, 5.0, "gemm_fusion"),
    ran(9, 1, 90.0, 900.0, "all-reduce of the host", device_ordinal="0", hlo_op="all-reduce.1"),
]


def test_time_in_collectives_of_a_gpu_trace(tmp_path):
    folder = tmp_path / "plugins" / "profile" / "now"
    folder.mkdir(parents=True)
    with gzip.open(folder / "host.trace.json.gz", "wt") as stream:
        json.dump({"traceEvents": GPU_TRACE}, stream)
    times = read_trace(tmp_path)
    assert set(times) == {"/device:GPU:0", "/device:GPU:1"}
    first = times["/device:GPU:0"]
    assert first.by_kind == pytest.approx({"all-reduce": 40e-6, "all-gather": 10e-6})
    assert (first.collectives, first.exposed, first.busy) == pytest.approx((50e-6, 30e-6, 80e-6))
    assert times["/device:GPU:1"].collectives == 0 and times["/device:GPU:1"].busy == pytest.approx(5e-6)


def test_a_trace_without_streams_is_read_from_its_operations():
    trace = [
        named("process_name", 1, "/device:TPU:0"),
        named("thread_name", 1, "XLA Ops", 3),
        named("thread_name", 1, "XLA Modules", 2),
        ran(1, 2, 0.0, 100.0, "jit_update"),
        ran(1, 3, 0.0, 90.0, "while.3"),
        ran(1, 3, 0.0, 30.0, "fusion.1"),
        ran(1, 3, 30.0, 20.0, "all-gather.1"),
        ran(1, 3, 32.0, 3.0, "all-gather.3"),
        ran(1, 3, 40.0, 20.0, "all-gather.2"),
    ]
    (time,) = device_times(trace).values()
    assert time.by_kind == pytest.approx({"all-gather": 43e-6})  # each event, and below the time that they cover
    assert (time.collectives, time.exposed, time.busy) == pytest.approx((30e-6, 30e-6, 60e-6))


HLO = """
HloModule jit_update, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  ROOT %rs = f32[2,4]{1,0} reduce-scatter(%x), channel_id=4, to_apply=%add
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %ag = bf16[16,4]{1,0:T(8,128)} all-gather(%y), channel_id=2, dimensions={0}
  ROOT %w = (s32[], f32[8,4]) while(%p), condition=%c, body=%inner_body, backend_config={"known_trip_count":{"n":"3"}}
}

%unknown_body (p: (s32[])) -> (s32[]) {
  %ar = f32[10]{0} all-reduce(%z), to_apply=%add
  ROOT %w2 = (s32[]) while(%p), condition=%c, body=%inner_body, backend_config={"known_trip_count":{"n":"5"}}
}

%branch (p: f32[]) -> f32[] {
  ROOT %cp = f32[3]{0} collective-permute(%p), source_target_pairs={{0,1}}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %s = (f32[64]{0}, f32[6]{0}) all-reduce-start(%p, %q), to_apply=%add
  %d = (f32[64]{0}, f32[6]{0}) all-reduce-done(%s)
  %gs = (f32[2]{0}, f32[16]{0}) all-gather-start(%p), dimensions={0}
  %gd = f32[16]{0} all-gather-done(%gs)
  %w3 = (s32[], f32[8,4]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %w4 = (s32[]) while(%t), condition=%c, body=%unknown_body
  %k = f32[3]{0} conditional(%i, %a, %b), branch_computations={%branch, %branch}
  %all-reduce.9 = f32[] get-tuple-element(%d), index=0
  ROOT %r = (f32[4]{0}, pred[4]{0}) all-to-all(%u, %v), dimensions={0}
}
"""


def test_collectives_of_a_program_count_as_often_as_their_loops_turn():
    whole, turn = program_traffic(HLO)
    assert whole.count == {
        "all-reduce": 1,
        "all-gather": 1 + 7,
        "reduce-scatter": 7 * 3,
        "collective-permute": 2,
        "all-to-all": 1,
    }
    assert whole.bytes == {
        "all-reduce": 70 * 4,
        "all-gather": 16 * 4 + 7 * 128,
        "reduce-scatter": 21 * 32,
        "collective-permute": 2 * 12,
        "all-to-all": 20,
    }
    assert turn.count == {"all-reduce": 1, "reduce-scatter": 5}
    assert turn.bytes == {"all-reduce": 40, "reduce-scatter": 160}


def test_a_program_and_its_trace_have_the_same_collectives():
    """A loop of five sharded products, on four devices and on one."""
    for mesh, devices in (("2x2", 4), ("1x1", 1)):
        mesh = make_mesh(mesh)
        split = NamedSharding(mesh, PartitionSpec("data", "model")), NamedSharding(mesh, PartitionSpec("model", None))
        a, b = (jax.device_put(np.ones((64, 64), np.float32), s) for s in split)
        loop = jax.jit(lambda a, b: jax.lax.scan(lambda x, _: (jax.numpy.tanh(x @ b), None), a, None, length=5)[0])
        whole, turn = program_traffic(loop.lower(a, b).compile().as_text())
        assert not turn.count
        loop(a, b)
        figures = time_in_collectives(lambda loop=loop, a=a, b=b: loop(a, b))
        assert figures["devices"] == devices
        assert set(figures["seconds_by_kind"]) == set(whole.count)
        if devices == 1:
            assert not whole.count and figures["seconds"] == 0
        else:
            assert whole.count["all-reduce"] == 5 and whole.bytes["all-reduce"] == 5 * 32 * 64 * 4
            assert 0 < figures["exposed_seconds"] <= figures["seconds"] < figures["traced_seconds"]


def test_the_head_is_gathered_once_and_its_gradient_added_once_a_turn():
    """Eight devices iterate over as many chunks as one device with an eighth of the batch, and gather beforehand."""
    B, T, D, V = 8, 32, 16, 64
    mesh = make_mesh("8x1")

    def total(hidden, head, targets):
        return token_logprobs(hidden, head, targets, chunk=8)[0].sum()

    with jax.set_mesh(mesh):
        hidden, head, targets = (
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec("data")))
            for shape, dtype in (((B, T, D), np.float32), ((D, V), np.float32), ((B, T), np.int32))
        )
        wanted = (hidden.sharding, head.sharding)
        program = jax.jit(jax.grad(total, argnums=(0, 1)), out_shardings=wanted).lower(hidden, head, targets)
        whole, _ = program_traffic(program.compile().as_text())
    assert whole.bytes["all-gather"] == D * V * 4
    turns = T // 8  # of a device that has one row
    assert whole.count["all-reduce"] + whole.count.get("reduce-scatter", 0) <= turns


def test_an_update_gathers_weights_once_or_for_each_pass():
    """Each weight split over the data axis is gathered once for all passes, or at least once in each pass."""
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
def test_weights_are_gathered_once_where_they_fit(dtype, mesh, gather, whole):
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


def test_what_is_gathered_is_in_the_type_of_products():
    """float32 weights are gathered as bfloat16, in half as many bytes."""
    config = dataclasses.replace(WORK, dtype="bfloat16").model_config()
    mesh = make_mesh("2x1")
    with jax.set_mesh(mesh):
        params = param_shapes(param_specs(config), "float32", mesh)
        program = jax.make_jaxpr(lambda p: prepare(p, config))(params)
    gathered = [eqn.invars[0].aval for eqn in program.eqns if eqn.primitive.name == "sharding_constraint"]
    assert [x.dtype for x in gathered] == ["bfloat16"] * len(jax.tree.leaves(params))


def test_an_estimate_counts_the_arrays_of_a_step():
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


def run_of(scaling, mesh, rate, **more):
    devices = int(mesh[0]) * int(mesh[2])
    parts = {
        part: {"tokens_per_second": rate * f, "seconds": 1.0}
        for part, f in (("rollout", 1), ("update", 2), ("step", 0.5))
    }
    return {"scaling": scaling, "mesh": mesh, "devices": devices, **parts, **more}


def test_efficiency_is_the_rate_of_a_device_over_that_of_the_fewest():
    failed = {"scaling": "strong", "mesh": "1x1", "devices": 1, "error": "out of memory"}
    runs = [
        run_of("weak", "8x1", 720.0),
        run_of("weak", "1x1", 100.0),
        run_of("strong", "4x2", 300.0),
        run_of("strong", "2x1", 150.0),
        failed,
    ]
    done = with_efficiency(runs)
    assert [run.get("baseline") for run in done] == ["1x1", "1x1", "2x1", "2x1", None]
    got = [run["efficiency"]["update"] for run in done[:4]]
    assert got == pytest.approx([0.9, 1.0, 0.5, 1.0])
    assert with_efficiency(done) == done


def test_a_result_file_keeps_every_run_and_refuses_other_settings(tmp_path):
    path, header = tmp_path / "out" / "tiny.json", {"model": "tiny", "settings": {"repeats": 1}}
    results = Results(path, header)
    other = Results(path, header)  # as another process has it
    results.add(run_of("weak", "2x1", 150.0))
    other.add(run_of("weak", "1x1", 100.0))
    assert [run["efficiency"]["step"] for run in results.runs()] == pytest.approx([0.75, 1.0])
    assert results.find("strong", "1x1") is None and other.find("weak", "2x1")["devices"] == 2
    with pytest.raises(UserError, match=r"settings.repeats was 1, now 2\).*another --out"):
        Results(path, {"model": "tiny", "settings": {"repeats": 2}})
    path.write_text("[")
    with pytest.raises(UserError, match="not a result file"):
        Results(path, header)


def test_default_meshes_beyond_the_machine_are_skipped(monkeypatch):
    devices = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: devices[:2])
    console = Console(record=True, width=200)
    assert meshes_here(Config(), console) == ["1x1", "2x1"]
    assert "2 devices found: 4x1, 8x1, 4x2, 2x4, 1x8 skipped" in console.export_text()
    with pytest.raises(UserError, match="--mesh=4x1 needs 4 devices and this machine has 2"):
        meshes_here(Config(meshes=("1x1", "4x1")), console)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"meshes": ("8by1",)}, "DATAxMODEL"),
        ({"meshes": ("1x1", "3x1")}, "strong scaling on 3x1: rl.microbatch=192 does not divide"),
        ({"group": 1}, "weak scaling on 1x1: rl.group=1"),
    ],
)
def test_work_that_no_mesh_could_do_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check(Config(**settings))
    check(Config())


def test_the_same_command_measures_the_missing_meshes(tmp_path):
    """With one of two runs in the file, only the other is measured, and the file then has both."""
    made = run_of("weak", "1x1", 1000.0, prompts=4, collectives={"rollout": {}, "update": {}})
    results_of(Config(**CPU_SETTINGS, repeats=1, out=tmp_path)).add(made)
    flags = ("--repeats=1", "--meshes", "1x1", "2x1", "--scalings", "weak", f"--out={tmp_path}")
    status, stdout, stderr = call("scaling.py", *flags)
    assert status == 0, stderr
    runs = json.loads((tmp_path / "tiny.json").read_text())["runs"]
    assert made.items() <= runs[0].items()
    run = runs[1]
    assert (run["scaling"], run["mesh"], run["devices"], run["prompts"], run["microbatch"]) == ("weak", "2x1", 2, 8, 16)
    assert [run[part]["tokens"] for part in ("rollout", "update", "step")] == [32 * n for n in (32, 48, 32)]
    assert run["baseline"] == "1x1"
    assert run["efficiency"]["step"] == pytest.approx(run["step"]["tokens_per_second"] / 2 / 500)
    for part in ("rollout", "update"):
        assert run["collectives"][part]["devices"] == 2 and run["collectives"][part]["seconds"] > 0
    assert "weak 1x1" in stdout and "weak 2x1" in stdout


def test_the_mesh_that_a_plan_is_for_by_default_is_there_on_any_cpu():
    code = "from experiments.plan import Config, mesh_of_devices; print(dict(mesh_of_devices(Config().mesh).shape))"
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True, check=False
    )
    assert "'data': 8, 'model': 1" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("scaling", ["--meshes", "1x1", "8x2"]),
        ("scaling", ["--meshes", "3x1"]),
        ("plan", ["--mesh=8x1", "--scaling=strong", "--model=tiny", "--prompts=1", "--group=4"]),
        ("plan", ["--target=nowhere.txtpb"]),
    ],
)
def test_wrong_settings_end_in_one_line(name, flags, tmp_path):
    status, stdout, stderr = call(f"{name}.py", *flags, f"--out={tmp_path}/out")
    assert status == 2 and not stdout
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert not (tmp_path / "out").exists()


def write_rows(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_parts_of_a_host_are_compared_by_samples_by_stage_and_after_the_kill(tmp_path):
    """Two devices against one: one step of two devices has as many samples as two steps of one."""
    seconds = (10.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    for name, accuracy, took in (
        ("zero-1x1", (0.0, 0.2, 0.5, 0.7, 0.9, 1.1), seconds),
        ("zero-2x1", (0.1, 0.9, 1.0), (20.0, 2.0, 4.0)),
    ):
        rows = [{"reward_accuracy": a, "seconds": s} for a, s in zip(accuracy, took, strict=True)]
        write_rows(tmp_path / name / "r1-zero", rows)
    made = {"made_by": {"device": "two"}, "figures": {"seconds": 30.0}}
    for run, stage, took in (("r1-1x1", "zero", seconds), ("r1-2x1", "zero", (9.0, 3.0, 5.0)), ("r1-1x1", "sft", ())):
        write_rows(tmp_path / run / stage, [{"seconds": s} for s in took])
        (tmp_path / run / stage / "manifest.json").write_text(json.dumps(made))
    write_rows(tmp_path / "r1-2x1" / "sft", [{"seconds": 1.0}])  # begun and not finished
    for name, loss in (("resume", (5.0, 1.0, 2.0)), ("resume-1x1", (7.0, 1.5, 2.25))):
        write_rows(tmp_path / name / "r1-zero", [{"loss": x, "reward": 1.0, "entropy": -x} for x in loss])
        (tmp_path / name / "summary.json").write_text(json.dumps({"device": "two", "versions": {}}))
    (tmp_path / "killed").write_text("1\n")
    (tmp_path / "r1-1x1" / "summary.json").write_text(json.dumps({"stages": {}}))
    subprocess.run([sys.executable, "launch/summary.py", str(tmp_path), "2", "2x1"], cwd=ROOT, check=True)

    found = json.loads((tmp_path / "summary.json").read_text())
    zero = found["zero"]
    assert zero["accuracy_aimed_at"] == pytest.approx(0.1 + 0.9 * (1.0 - 0.1))
    assert [p["accuracy"] for p in zero["at_equal_samples"]["one"]] == pytest.approx([0.1, 0.6, 1.0])
    assert [p["seconds"] for p in zero["at_equal_samples"]["one"]] == pytest.approx([11.0, 13.0, 15.0])
    assert zero["seconds_to_it"] == {"one": 15.0, "wide": 26.0}
    assert zero["seconds_a_step"] == {"one": 1.0, "wide": 3.0}
    assert found["resume"] == {"resume-1x1": {"loss": 0.5, "reward": 0.0, "entropy": 0.5}, "killed_after_step": 1}
    assert found["runs"].keys() == {"resume", "resume-1x1"}
    assert found["r1"]["2x1"] == {"zero": {"made_by": {"device": "two"}, "seconds": 30.0, "seconds_a_step": 4.0}}
    assert found["r1"]["1x1"].keys() == {"zero"} and found["r1"]["1x1"]["zero"]["seconds_a_step"] == 1.0
