"""Bytes of a device by kind: counted by hand, and against peaks that were measured and compiled."""

import dataclasses
import json

import jax
import pytest

from r1jax.benchmark.mesh_memory import STAGES, abstract_mesh, batch_devices, least, needs, on_device, smallest_mesh
from r1jax.benchmark.scaling import scaled_workload
from r1jax.benchmark.workload import CPU_SETTINGS, Workload
from r1jax.errors import UserError
from r1jax.models.transformer import param_specs
from r1jax.sharding import param_count
from tests.helpers.paths import ROOT

V3 = Workload(model="deepseek-v3", remat="block", microbatch=1, slots=8, gather="layer")
ONE, MANY = abstract_mesh("1x1"), abstract_mesh("8x32")

# The 671 billion parameters of DeepSeek-V3 without multi-token prediction, from the sizes in its config.json.
D, V, BIASES = 7168, 129_280, 58 * 256
ATTENTION = D * 1536 + 1536 * 128 * 192 + D * 576 + 512 * 128 * 256 + 128 * 128 * D + 1536 + 512
DENSE, ROUTED = 3 * D * 18_432, D * 256 + 256 + (256 + 1) * 3 * D * 2048
OF_PASS = 2 * (ATTENTION + 2 * D + ROUTED) + 2 * 256 + 2 * (2 * V * D + D)  # bytes of a layer and of no layer
WEIGHTS = 61 * (ATTENTION + 2 * D) + 3 * DENSE + 58 * ROUTED + 2 * V * D + D


@pytest.fixture(scope="module")
def whole():
    return needs(V3, ONE, 1e15)


def test_the_671_billion_weights_and_their_moments_are_counted(whole):
    """Two bytes for a number, and four for the biases of routers, which are stored in float32."""
    assert round(WEIGHTS / 1e9) == 671
    stored = 2 * WEIGHTS + 2 * BIASES
    assert {whole[stage]["weights"] for stage in STAGES} == {stored}
    counters = whole["SFT"]["optimiser"] - 2 * stored
    assert 0 < counters < 64  # numbers of updates
    assert whole["RL, update"]["reference"] == whole["RL, rollout"]["reference"] == stored
    assert whole["SFT"]["reference"] == whole["sampling"]["reference"] == whole["sampling"]["optimiser"] == 0
    # The sum of gradients in float32, those of a pass for one layer and for the weights in no layer, and the head's.
    assert whole["SFT"]["gradients"] == 4 * WEIGHTS + OF_PASS + 4 * D * V
    half = needs(dataclasses.replace(V3, accumulate="bfloat16"), ONE, 1e15)
    assert half["SFT"]["gradients"] == stored + OF_PASS + 4 * D * V
    single = dataclasses.replace(V3, prompts=1, group=8, microbatch=8, beta=0.0)
    figures = needs(single, ONE, 1e15)["RL, update"]
    assert figures["gradients"] == stored + 4 * D * V and figures["reference"] == 0


def test_moments_have_the_type_of_the_weights():
    for dtype, size in (("bfloat16", 2), ("float32", 4)):
        work = Workload(**CPU_SETTINGS | {"dtype": dtype})
        figures, count = needs(work, ONE, 1e12)["SFT"], param_count(param_specs(work.model_config()))
        assert figures["weights"] == size * count
        assert 2 * size * count < figures["optimiser"] < 2 * size * count + 64


def test_the_cache_has_576_numbers_for_a_token_and_layer(whole):
    more = needs(dataclasses.replace(V3, slots=9), ONE, 1e15)
    for stage in ("RL, rollout", "sampling"):
        assert more[stage]["cache"] - whole[stage]["cache"] == 512 * 61 * 576 * 2
    longer = needs(dataclasses.replace(V3, prompt=256), ONE, 1e15)
    prompts = 32 + 32  # as computed in one pass, and per layer
    assert longer["sampling"]["cache"] - whole["sampling"]["cache"] == prompts * 128 * 61 * 576 * 2


def test_a_mesh_splits_the_weights_over_all_devices(whole):
    work = scaled_workload(V3, batch_devices(MANY), "weak")
    figures = needs(work, MANY, 80e9)
    for stage in STAGES:
        for kind in ("weights", "optimiser", "reference"):
            assert figures[stage][kind] == pytest.approx(whole[stage][kind] / 256, rel=2e-3)
    assert figures["SFT"]["gradients"] == pytest.approx((4 * WEIGHTS + OF_PASS) / 256 + 4 * D * V / 32, rel=2e-3)
    # Layer by layer, a device has a 32nd of the weights of a layer, of their gradient, and of a matrix in float32.
    layer, matrix = (ATTENTION + ROUTED) / 32, 256 * D * 2048 / 32
    assert figures["SFT"]["gathered"] == pytest.approx(2 * 2 * layer + 4 * matrix + 2 * 2 * V * D / 32, rel=0.02)
    # Decoding has a 32nd of all weights twice: gathered, and by layer.
    assert figures["sampling"]["gathered"] == pytest.approx(2 * 2 * WEIGHTS / 32, rel=0.06)
    once = needs(dataclasses.replace(work, gather="update"), MANY, 80e9)["SFT"]["gathered"]
    assert once == pytest.approx(2 * WEIGHTS / 32, rel=0.06)
    assert needs(V3, abstract_mesh("1x32"), 80e9)["SFT"]["gathered"] == 0


def test_the_arrays_of_a_device_have_its_heads_and_hidden_units():
    config = on_device(V3.model_config(), MANY)
    sizes = (config.num_heads, config.intermediate_size, config.experts.width, config.experts.shared_width)
    assert sizes == (4, 18_432 // 32, 64, 64) and config.experts.number == 256
    dense = on_device(Workload(model="qwen2.5-1.5b").model_config(), abstract_mesh("2x4"))
    assert (dense.num_heads, dense.num_kv_heads) == (3, 3)  # two heads of keys do not split over four devices


@pytest.mark.parametrize(
    ("name", "extra"),
    [("qwen2.5-0.5b", {}), ("qwen2.5-1.5b", {}), ("qwen2.5-1.5b-microbatch32", {}), ("qwen2.5-7b", {"remat": "block"})],
)
def test_the_estimate_is_at_most_a_tenth_above_the_measured_peak_of_a_gpu(name, extra):
    figures = json.loads((ROOT / "docs" / "results" / f"benchmark-h100-{name}.json").read_text())
    fields = {field.name for field in dataclasses.fields(Workload)}
    settings = {name: value for name, value in figures["settings"].items() if name in fields}
    assert extra.items() <= settings.items() | extra.items()
    work = Workload(**settings, kernels="plain")  # these files are older than the kernels of the head
    highest = max(sum(kinds.values()) for stage, kinds in needs(work, ONE, 80e9).items() if stage != "SFT")
    # When these files were measured, the gradient of a pass was in memory as a whole, beside the sum of several.
    config = work.model_config()
    others = (config.num_layers - 1) / config.num_layers * param_count(param_specs(config)["layers"])
    highest += 2 * others * (work.rl.passes > 1)
    assert 1.0 < highest / (figures["peak_gibibytes"] * 2**30) < 1.1


@pytest.mark.parametrize(("name", "kernels"), [("uneven", "plain"), ("head-few-rows", "auto")])
def test_the_estimate_is_above_the_measured_peak_of_uneven_lengths_with_and_without_kernels_of_the_head(name, kernels):
    """The case uneven has completions of up to 1,024 tokens; the sequences of a microbatch take a row each."""
    figures = json.loads((ROOT / "docs" / "results" / f"benchmark-h200-qwen2.5-0.5b-{name}.json").read_text())
    work = Workload(model="qwen2.5-0.5b", tokens=1024, kernels=kernels)
    assert {name: figures["settings"][name] for name in ("prompts", "prompt", "microbatch")} == {
        name: getattr(work, name) for name in ("prompts", "prompt", "microbatch")
    }
    assert 1.0 < sum(needs(work, ONE, 140e9)["RL, update"].values()) / (figures["peak_gibibytes"] * 2**30) < 1.1


def test_the_kernels_of_the_head_have_an_array_of_16_bits_for_each_logit_of_a_chunk():
    """And others the logits and their gradient in float32."""
    work = Workload(model="qwen2.5-0.5b", microbatch=4, tokens=129)
    words, positions = work.model_config().vocab_size, 4 * 256

    def activations(mesh=ONE, **changes):
        return needs(dataclasses.replace(work, **changes), mesh, 1e12)["RL, update"]["activations"]

    for mesh, kernels, size in ((ONE, "auto", 2), (ONE, "mosaic", 2), (ONE, "plain", 8), (ONE, "triton", 8)):
        half, once = (activations(mesh, kernels=kernels, logprob_chunk=n) for n in (positions // 2, positions))
        assert once - half == size * words * positions // 2, kernels
    two = abstract_mesh("2x1")  # half the sequences, in as many chunks, are on a device
    half, once = (activations(two, logprob_chunk=n) for n in (positions // 4, positions // 2))
    assert once - half == 8 * words * positions // 4
    assert activations(dtype="float32", logprob_chunk=positions) - activations(
        dtype="float32", logprob_chunk=positions // 2
    ) == (8 * words * positions // 2)


SMALL = Workload(**CPU_SETTINGS | {"prompts": 4, "group": 4})


def fits(text, stages, memory):
    mesh = abstract_mesh(text)
    figures = needs(least(SMALL, mesh), mesh, memory)
    return all(sum(figures[stage].values()) <= memory for stage in stages)


def test_a_device_that_computes_its_rows_by_itself_has_whole_gradients_and_the_kernels_of_one_device():
    work = scaled_workload(Workload(model="qwen2.5-1.5b", prompts=8, microbatch=16, gather="update"), 4, "weak")
    mesh = abstract_mesh("4x1")
    count = param_count(param_specs(work.model_config()))
    split, alone = (needs(dataclasses.replace(work, gather=name), mesh, 1e12)["SFT"] for name in ("update", "device"))
    single = needs(Workload(model="qwen2.5-1.5b", prompts=8, microbatch=16), ONE, 1e12)["SFT"]
    assert alone["gradients"] - single["gradients"] == pytest.approx(count, rel=1e-3)  # a quarter of the sum in float32
    assert alone["activations"] == single["activations"] < split["activations"]
    assert {kind for kind in split if split[kind] != alone[kind]} == {"gradients", "activations"}
    with pytest.raises(UserError, match="--gather=device needs a mesh with a data axis alone"):
        needs(dataclasses.replace(work, gather="device"), abstract_mesh("2x2"), 1e12)


@pytest.mark.parametrize(
    ("stages", "memory"), [(("SFT",), 1.5e6), (("RL, update", "RL, rollout"), 1.3e6), (("sampling",), 9e5)]
)
def test_the_smallest_mesh_fits_and_no_smaller_one_does(stages, memory):
    found = smallest_mesh(SMALL, stages, memory)
    assert found is not None and found != "1x1" and fits(found, stages, memory)
    for smaller in ("1x1", "1x2", "2x1", "1x4", "2x2", "4x1"):
        if abstract_mesh(smaller).size < abstract_mesh(found).size:
            assert not fits(smaller, stages, memory), smaller
    assert smallest_mesh(SMALL, stages, 1e12) == "1x1"
    assert smallest_mesh(SMALL, stages, 100.0) is None
    assert jax.sharding.get_abstract_mesh().empty


def test_of_meshes_with_as_many_devices_the_smallest_model_axis_is_taken():
    assert fits("2x1", ("SFT",), 3e6) and fits("1x2", ("SFT",), 3e6)
    assert smallest_mesh(SMALL, ("SFT",), 3e6) == "2x1"


def test_scores_count_if_no_kernel_of_a_gpu_computes_attention():
    """For each pair of positions, head and layer, at least its softmax in float32 and in bfloat16."""
    work = Workload(model="qwen2.5-0.5b", microbatch=4)
    plain, fused = (needs(dataclasses.replace(work, attention=kind), ONE, 1e12) for kind in ("xla", "auto"))
    pairs = 4 * (128 + 512 - 1) ** 2 * 14 * 24
    assert 6 * pairs < plain["SFT"]["activations"] - fused["SFT"]["activations"] < 12 * pairs
    assert plain["SFT"]["gradients"] == fused["SFT"]["gradients"]
