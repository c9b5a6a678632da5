"""A picture of the stages of a run and of what each of them reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from r1jax.report.style import AXIS, GREY, INK

_HALF_WIDTH, _HALF_HEIGHT = 0.42, 0.3  # of a box, in columns and rows


def depths(reads: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The length of the longest chain of stages that leads to each stage; 0 for a stage that reads none.

    reads: stage -> the stages that it reads, each of which comes before it. Others are ignored.
    """
    found: dict[str, int] = {}
    for name, others in reads.items():
        found[name] = max((found[other] + 1 for other in others if other in found), default=0)
    return found


def draw_stage_graph(
    ax: Axes, reads: Mapping[str, Sequence[str]], notes: Mapping[str, str], colours: Mapping[str, str]
) -> None:
    """Draws a box for each stage, rows from the top by ``depths``, and an arrow from each stage to its readers.

    reads: as in depths. notes: stage -> a second line in its box. colours: stage -> the colour of its frame.
    """
    rows = depths(reads)
    place: dict[str, tuple[float, float]] = {}
    for name, row in rows.items():
        place[name] = (sum(other == row for other in map(rows.get, place)), -row)
    for name, others in reads.items():
        for other in others:
            if other in place:
                _draw_arrow(ax, place[other], place[name])
    for name, (x, y) in place.items():
        note = notes.get(name, "")
        corner, sides = (x - _HALF_WIDTH, y - _HALF_HEIGHT), (2 * _HALF_WIDTH, 2 * _HALF_HEIGHT)
        box = FancyBboxPatch(corner, *sides, boxstyle="round,pad=0,rounding_size=0.06")
        box.set(facecolor="white", edgecolor=colours.get(name, GREY), zorder=4)
        ax.add_patch(box)
        ax.text(x, y, f"{name}\n{note}".strip(), ha="center", va="center", fontsize=8, color=INK, zorder=5)
    ax.set_xlim(-0.8, max(x for x, _ in place.values()) + 0.6)
    ax.set_ylim(-max(rows.values()) - 0.5, 0.5)
    ax.axis("off")


def _draw_arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow from the box of a stage down to that of a reader; around the boxes between them if there may be some."""
    (x, y), (to_x, to_y) = start, end
    bend = 0.0
    if y - to_y <= 1:
        y, to_y = y - _HALF_HEIGHT, to_y + _HALF_HEIGHT
    elif x == to_x:  # on the left
        x, to_x, bend = x - _HALF_WIDTH, to_x - _HALF_WIDTH, 0.3
    else:  # from below, into the side
        y, bend = y - _HALF_HEIGHT, 0.25 if to_x > x else -0.25
        to_x += _HALF_WIDTH if to_x < x else -_HALF_WIDTH
    style = {"arrowstyle": "-|>", "color": AXIS, "connectionstyle": f"arc3,rad={bend}", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (to_x, to_y), (x, y), arrowprops=style)
