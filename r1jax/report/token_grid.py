"""A picture of sampled texts, token by token, each coloured by a number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.image import AxesImage

from r1jax.report.style import GREY, INK, NEGATIVE, POSITIVE
from r1jax.tokenizer import Tokenizer

DIVERGING = LinearSegmentedColormap.from_list("diverging", [NEGATIVE, "#ffffff", POSITIVE])  # as style.diverging


def token_texts(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The text of each id, with visible spaces and line ends; together they are the decoded text.

    An id that decodes to nothing, such as the end token, is written as <ID>.
    """
    before = ""
    texts = []
    for i, token in enumerate(ids):
        whole = tokenizer.decode(list(ids[: i + 1]))
        texts.append(whole[len(before) :].replace("\n", "↵").replace(" ", "·") or f"<{token}>")
        before = whole
    return texts


def draw_tokens(
    ax: Axes,
    texts: Sequence[Sequence[str]],
    values: np.ndarray,
    labels: Sequence[str],
    colours: str | Colormap = "YlOrRd_r",
    limits: tuple[float, float] | None = None,
) -> AxesImage:
    """Draws one row of cells for each text, and returns the image for a colour bar.

    texts: N lists of tokens. values: [N, T], the number of each token; those beyond a list's end are not drawn.
    labels: of the N rows. colours: a matplotlib colour map. limits: the numbers at its ends; the extremes if None.
    """
    shown = np.full((len(texts), max(map(len, texts))), np.nan)
    for row, tokens in enumerate(texts):
        shown[row, : len(tokens)] = values[row, : len(tokens)]
    low, high = limits or (np.nanmin(shown), np.nanmax(shown))
    image = ax.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for row, tokens in enumerate(texts):
        for column, token in enumerate(tokens):
            size = min(6.0, 36 / len(token))  # so that a long token does not leave its cell
            ax.text(column, row, token, ha="center", va="center", fontsize=size, color=INK)
    ax.set_yticks(range(len(labels)), labels, fontsize=7, color=GREY)
    ax.set_xticks([])
    for side in ax.spines.values():
        side.set_visible(False)
    return image
