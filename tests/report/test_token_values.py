"""Values per token in a report: coloured text in HTML, a table in Markdown."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from r1jax.report.rendering import to_html
from r1jax.report.style import INK, NEGATIVE, POSITIVE, diverging
from r1jax.report.token_values import draw_token_values, last_rows, token_value_sections
from tests.report.helpers import cells

TEXTS = ["<b>", "&", "\n\n", "* 2|", "</div>", "é", ""]
VALUES = [0.5, -0.25, 0.0, 1e-9, -0.01, 0.02, -0.004]


class Tokens(HTMLParser):
    """The spans of a page with their texts, and the text of each element of class "tokens"."""

    def __init__(self, page):
        super().__init__()
        self.spans, self.texts, self.inside = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.inside.append((tag, attributes.get("class")))
        if tag == "span":
            self.spans.append([attributes, ""])
        if attributes.get("class") == "tokens":
            self.texts.append("")

    def handle_endtag(self, tag):
        while self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if ("div", "tokens") in self.inside:
            self.texts[-1] += data
            if self.inside[-1][0] == "span":
                self.spans[-1][1] += data


def line(step, **more):
    values = {"token_texts": TEXTS, "token_values": {"process_reward": VALUES}, "tokens": len(TEXTS)} | more
    return {"step": step, "question": "1 < 2?", "completion": "<think>" + "".join(TEXTS), "reward": 1.0, **values}


@pytest.fixture
def folder(tmp_path):
    old, plain = line(1), {"step": 3, "question": "", "completion": "", "reward": 0.0, "tokens": 3}
    more = {"completion": "<think>" + "".join(TEXTS) + "日 and so on", "tokens": 99}
    rows = [old, line(2), line(2, **more), plain]
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_each_token_of_the_last_step_has_a_colour_and_its_value(folder):
    _, coloured = token_value_sections({"": folder})
    assert coloured.startswith("## Process reward per token\n") and "step 2" in coloured
    page = Tokens(to_html(f"# A\n\ntext\n{coloured}", "t", folder))
    shown = "<think><b>&↵\n↵\n* 2|</div>é▪"
    assert page.texts == [shown, shown + " … 92 more tokens"]
    spans = [(attributes, text) for attributes, text in page.spans if text]
    assert len(spans) == 2 * len(TEXTS)
    for (attributes, _), value in zip(spans, VALUES * 2, strict=True):
        assert attributes["title"] == f"process reward {value:+.3g}"
        assert attributes["style"] == f"background:{diverging(value / 0.5)}"
        assert (attributes.get("class") == "minus") == (value == -0.25)
    legend = [attributes["style"].removeprefix("background:") for attributes, text in page.spans if not text]
    assert legend[::2] == [NEGATIVE, "#ffffff", POSITIVE]


def test_the_last_token_may_be_half_a_character(tmp_path):
    row = line(0, completion="<think>a日b", token_texts=["a", "\ufffd"], token_values={"v": [1.0, 2.0]}, tokens=5)
    (tmp_path / "completions.jsonl").write_text(json.dumps(row) + "\n")
    _, coloured = token_value_sections({"": tmp_path})
    assert Tokens(to_html(f"# A\n\n{coloured}", "t", tmp_path)).texts == ["<think>a\ufffd … 3 more tokens"]


def test_markdown_has_the_extremes(folder):
    plain, _ = token_value_sections({"R1-Zero": folder})
    assert plain.startswith("## Process reward per token · R1-Zero\n") and "<div" not in plain
    rows = cells(plain.partition("\n| completion")[2])
    assert rows[-1][1:] == ["1", "`<b>` +0.5, `é` +0.02, `* 2¦` +1e-09", "`&` -0.25, `</div>` -0.01, #7 -0.004"]


def test_a_training_without_values_has_no_section(tmp_path):
    (tmp_path / "completions.jsonl").write_text(json.dumps({"step": 0, "completion": "a"}) + "\n")
    assert token_value_sections({"a": tmp_path, "b": tmp_path / "none"}) == ("", "")


def luminance(colour):
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_can_be_read_on_every_colour():
    for i in range(-10, 11):
        assert (luminance(diverging(i / 10)) + 0.05) / (luminance(INK) + 0.05) > 6
    assert (diverging(-1.0), diverging(0.0), diverging(2.0)) == (NEGATIVE, "#ffffff", POSITIVE)


def test_a_picture_has_the_values_of_the_last_step_on_one_scale_around_0(tmp_path):
    kept = {"question": "1 + 1", "reward": 1.5, "token_texts": ["a b", "\n", ""]}
    lines = [
        {**kept, "step": step, "token_values": {"process_reward": values}}
        for step, values in ((0, [9.0, 9.0, 9.0]), (1, [0.1, 0.0, -0.4]))
    ]
    lines.append({"step": 1, "question": "dropped"})
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = last_rows(tmp_path / "completions.jsonl")
    ax = Figure().subplots()
    image = draw_token_values(ax, rows, "process_reward")
    assert image.get_clim() == (-0.4, 0.4)
    assert np.asarray(image.get_array()).tolist() == [[0.1, 0.0, -0.4]]
    assert [text.get_text() for text in ax.texts] == ["a·b", "↵", "▪"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1 + 1 · 1.5"]
