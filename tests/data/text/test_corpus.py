"""Settings of the corpus."""

import dataclasses

import pytest

from r1jax.data.text.corpus import CorpusConfig
from r1jax.errors import UserError


def test_wrong_corpus_shares_are_refused():
    with pytest.raises(UserError, match="add up to 1"):
        dataclasses.replace(CorpusConfig(), careful=0.9)
