from __future__ import annotations

import pytest

from r1jax.report.reward_hacking import hacking_signs
from tests.report.helpers import row


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        ({"score": 0.9, "own": 0.5, "elsewhere": 1.0}, "looks like reward hacking"),
        ({"score": 0.9, "own": 1.0, "elsewhere": 0.5}, "looks like reward hacking"),
        ({"score": 0.9, "own": 1.0, "elsewhere": 1.0, "length": 90.0}, "looks like reward hacking"),
        ({"score": 0.9, "own": 1.0, "elsewhere": 1.0, "length": 40.0}, "no sign"),
        ({"score": 0.4, "own": 0.5, "elsewhere": 1.0}, "no sign"),
    ],
)
def test_a_reward_that_rises_while_rules_or_length_get_worse_is_reported(last, verdict):
    rows = [{"step": 0, "length_mean": 30.0}, *(row(i, 0.5, 1.0, 1.0) for i in range(1, 5))]
    rows += [row(i, **last) for i in range(5, 9)]
    (text,) = hacking_signs(rows, {"helpfulness": ["facts", "self"]})
    assert verdict in text and f"its reward 0.500 -> {last['score']:.3f}" in text
    assert f"where it judges 100.0 -> {100 * last['own']:.1f}" in text
    assert hacking_signs(rows[:4], {"helpfulness": ["facts"]}) == []
    (text,) = hacking_signs(rows, {"helpfulness": ["none"]})
    assert "where it judges no figures, elsewhere" in text
