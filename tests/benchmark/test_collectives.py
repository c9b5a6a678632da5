"""Collectives of traces and of compiled programs."""

import gzip
import json

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.benchmark.collectives import device_times, kind_of, program_traffic, read_trace
from r1jax.benchmark.scaling import time_in_collectives
from r1jax.sharding import make_mesh


@pytest.mark.parametrize(
    ("name", "operation", "kind"),
    [
        ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all-gather-start.3", "all-gather"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "", "all-reduce"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "", "reduce-scatter"),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", "all-to-all.1", "all-to-all"),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", "", "collective-permute"),
        ("ncclDevKernel_Generic", "", "other"),
        ("fused_psum_75_0", "psum.75.0-fusion.1", "all-reduce"),
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


def test_collectives_in_loops_count_once_per_iteration():
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


def test_the_head_is_gathered_once_and_its_gradient_reduced_once_per_chunk():
    """Each of eight devices loops over the chunks of its eighth of the batch, and gathers the head before the loop."""
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
