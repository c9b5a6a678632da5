"""The text of each sampled token."""

import numpy as np
import pytest

from r1jax.data.text.template import completion_text
from r1jax.data.text.token_texts import token_texts
from r1jax.recipe.pretraining import train_tokenizer
from r1jax.tokenizer import ByteTokenizer, load_tokenizer
from tests.helpers.paths import FIXTURES


@pytest.fixture(scope="module", params=["bytes", "llama-bpe", "sentencepiece"])
def tokenizer(request):
    if request.param == "bytes":
        return ByteTokenizer()
    if request.param == "llama-bpe":
        return load_tokenizer(FIXTURES / "tokenizers" / "llama-bpe")
    texts = ["12 + 34 = 46, carry 1.</think><answer>46</answer>"] * 50
    return train_tokenizer(texts, 60)


def test_the_texts_join_to_the_completion(tokenizer):
    prompt = tokenizer.encode("1 + 2 = ?\n<think>")
    texts = (" carry 1. 3+4=7</think><answer>7</answer>", "12 + 34", "\n\n 日本語 é 🎉")
    for text in texts:
        for end in ([], [tokenizer.eos_ids[0]]):
            ids = tokenizer.encode(text) + end
            found = token_texts(ids, prompt, tokenizer)
            assert len(found) == len(ids) and "".join(found) == completion_text(ids, prompt, tokenizer)
            if end:
                assert found[-1] == ""


def test_each_text_is_that_of_its_token(tokenizer):
    ids = tokenizer.encode("12+34=46")
    found = token_texts(ids, tokenizer.encode("1 + 2"), tokenizer)
    assert len(found) > 3 and all(found)
    assert [tokenizer.encode("," + text)[-1] for text in found] == ids


def test_tokens_without_a_whole_character_have_no_text():
    tokenizer = ByteTokenizer()
    assert token_texts([*"é".encode(), ord("a"), 257], tokenizer.encode("q"), tokenizer) == ["", "é", "a", ""]
    # Any bytes, also those that are no text: no character is lost.
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(0, 259, 20).tolist()
        found = token_texts(ids, [97], tokenizer)
        assert len(found) == 20 and "".join(found) == completion_text(ids, [97], tokenizer)
