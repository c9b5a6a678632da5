"""The picture of a graph of stages."""

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from r1jax.report.stage_graph import depths, draw_stage_graph

READS = {"base": (), "judge": ("base",), "zero": ("base",), "data": ("zero",), "sft": ("base", "data", "elsewhere")}


def test_the_depth_is_that_of_the_longest_chain():
    assert depths(READS) == {"base": 0, "judge": 1, "zero": 1, "data": 2, "sft": 3}


def test_each_stage_has_a_box_below_all_that_it_reads_and_an_arrow_from_each():
    ax = Figure().subplots()
    draw_stage_graph(ax, READS, {"sft": "3 epochs"}, {"zero": "#d55e00"})
    place = {text.get_text().split("\n")[0]: text.get_position() for text in ax.texts if text.get_text()}
    assert set(place) == set(READS) and len(set(place.values())) == len(READS)
    assert all(place[other][1] > place[name][1] for name in READS for other in READS[name] if other in READS)
    assert sum(not text.get_text() for text in ax.texts) == 5  # arrows
    assert sum(isinstance(patch, FancyBboxPatch) for patch in ax.patches) == len(READS)
    assert "sft\n3 epochs" in [text.get_text() for text in ax.texts]
