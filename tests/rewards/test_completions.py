"""Samples as completions."""

from __future__ import annotations

import numpy as np

from r1jax.data.text.template import ANY, completion_text, find_template
from r1jax.rewards.completions import completion_texts, completions_from_samples
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import END, LENGTH, Samples
from r1jax.tokenizer import ByteTokenizer, JsonTokenizer


def test_an_end_token_that_is_text_is_left_out() -> None:
    fields = {"backend": ByteTokenizer().backend, "bos_id": None, "pad_id": 258, "eos_ids": (257, ord("."))}
    rows = [np.array([*b"4."]), np.array([*b"4.5"]), np.array([], np.int64)]
    assert completion_texts(rows, list(b"ab"), JsonTokenizer(**fields)) == ["4", "4.5", ""]


def test_each_sample_has_its_own_text_and_equal_ones_share_it() -> None:
    tokenizer, template = ByteTokenizer(), find_template("think")
    eos = tokenizer.eos_ids[0]
    texts = ["2+2</think>", "é", "2+2</think>", "2+2</think>", "", "2+2"]
    M, ends = 12, [True, True, False, True, True, True]
    tokens, lengths = np.zeros((len(texts), M), np.int32), np.zeros(len(texts), np.int32)
    for row, (text, end) in enumerate(zip(texts, ends, strict=True)):
        ids = [*tokenizer.encode(text), *([eos] if end else [])]
        tokens[row, : len(ids)], lengths[row] = ids, len(ids)
    tokens[1, lengths[1] - 2 :] = eos  # cuts the two bytes of a character: the text ends within it
    lengths[1] -= 1
    logprobs = np.zeros((len(texts), M), np.float32)
    samples = Samples(tokens, lengths, np.where(ends, END, LENGTH), logprobs, logprobs, np.int32(M))
    found = completions_from_samples(samples, tokenizer, template, Sampling(max_tokens=M))
    prompt = template.prompt_ids(ANY, tokenizer)
    for one, row, n, end in zip(found, tokens, lengths, ends, strict=True):
        assert one.text == "<think>" + completion_text(row[:n].tolist(), prompt, tokenizer)
        assert (one.tokens, one.limit, one.finished) == (n, M, end)
    assert found[1].text == "<think>\ufffd"
    assert found[0] is found[3] and len({id(one) for one in found}) == 5
