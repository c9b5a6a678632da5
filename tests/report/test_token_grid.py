"""The picture of texts token by token."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from r1jax.report.token_grid import draw_tokens, token_texts
from r1jax.tokenizer.load import load_tokenizer
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_the_texts_of_tokens_are_the_decoded_text_in_pieces(name):
    tokenizer = load_tokenizer(ROOT / "tests" / "fixtures" / "tokenizers" / name)
    ids = tokenizer.encode("7 + 8 = 15,\nso 15")
    texts = token_texts(ids, tokenizer)
    assert len(texts) == len(ids) > 3
    assert "".join(texts).replace("·", " ").replace("↵", "\n") == tokenizer.decode(ids)


def test_each_token_is_a_cell_with_its_value_and_the_rest_of_a_row_is_empty():
    ax = Figure().subplots()
    values = np.array([[0.0, -1.0, -9.0], [-2.0, -3.0, -4.0]])
    image = draw_tokens(ax, [["a", "b"], ["c", "d", "</answer>"]], values, ["one", "two"])
    shown = image.get_array()
    np.testing.assert_array_equal(np.ma.filled(shown, np.nan), [[0.0, -1.0, np.nan], [-2.0, -3.0, -4.0]])
    assert image.get_clim() == (-4.0, 0.0)  # without the value beyond the end of the first text
    assert [(text.get_text(), text.get_position()) for text in ax.texts][2:4] == [("c", (0, 1)), ("d", (1, 1))]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
