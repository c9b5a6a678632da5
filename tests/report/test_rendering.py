from __future__ import annotations

import base64
from html.parser import HTMLParser

import jinja2
import pytest

from r1jax.report.rendering import fenced, render, to_html


class Page(HTMLParser):
    """The tags of a page with their attributes and parents, and the text of code."""

    def __init__(self, text):
        super().__init__()
        self.found, self.inside, self.code = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), list(self.inside)))
        if tag not in ("img", "meta", "br", "hr"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert tag == "img" or self.inside.pop() == tag

    def handle_data(self, data):
        self.code += data if "code" in self.inside else ""


def test_a_page_needs_no_other_file_and_fits_every_window(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    completion = "<b>x</b>\n```\n| <table> ````"
    text = f"# A\n\n| a | b |\n| --- | --- |\n| 1 | `<table>` |\n\n![pass@k](a.png)\n\n{fenced(completion)}"
    page = to_html(text, "1 < 2", tmp_path)
    assert "<title>1 &lt; 2</title>" in page and "prefers-color-scheme:dark" in page
    found = Page(page)
    assert found.inside == []
    sources = [attributes["src"] for tag, attributes, _ in found.found if tag == "img"]
    assert sources == ["data:image/png;base64," + base64.b64encode(b"picture").decode()]
    assert not [tag for tag, attributes, _ in found.found if tag in ("link", "script") or "href" in attributes]
    assert [inside[-1] for tag, _, inside in found.found if tag == "table"] == ["div"]
    assert completion in found.code and "<table>" in found.code  # nothing of a completion is read as markup
    assert not [tag for tag, *_ in found.found if tag == "b"]


def test_the_report_of_r1_zero_shows_its_figures_pictures_and_samples():
    text = render(
        "r1_zero.md.j2",
        title="R1-Zero · toy",
        headline="pass@1 1% -> 2%",
        comparison="| a |\n| --- |\n\ntwo problems\n",
        pictures=[("pass@1", "one.png"), ("curves", "two.png")],
        examples="<think>`a|b` & ```c```</think>",
    )
    assert text == (
        "# R1-Zero · toy\n\npass@1 1% -> 2%\n\n| a |\n| --- |\n\ntwo problems\n\n\n![pass@1](one.png)\n\n"
        "![curves](two.png)\n\n## Samples\n\n````\n<think>`a|b` & ```c```</think>\n````\n"
    )


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        render("r1_zero.md.j2", title="R1-Zero")
