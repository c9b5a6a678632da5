from __future__ import annotations

import pytest

from r1jax.report.findings import findings
from tests.report.helpers import model


def test_claims_hold_fail_or_make_no_difference():
    lines = findings(
        {
            "base": model("base", 0.2),
            "zero": model("Zero", 0.8, language=0.6, length=20),
            "cold_start": model("cold", 0.8, language=1.0, length=10),
            "reasoning_rl": model("RL", 0.6),
            "distilled": model("SFT", 0.4, readable=False),
            "student_rl": model("RL alone", 0.5),
        }
    )
    told = dict(str(line).split(": **", 1) for line in lines)
    assert told["R1-Zero is right more often than the base"].startswith("yes** (accuracy: base 20.0, Zero 80.0, change")
    assert told["R1-Zero mixes languages more than the cold start"] == (
        "yes** (language: Zero 60.0, cold 100.0, change +40.0 [+40.0, +40.0])"
    )
    assert told["R1-Zero writes more than the cold start"] == (
        "yes** (length: Zero 20.0 tokens, cold 10.0 tokens, change -10.0 [-10.0, -10.0])"
    )
    assert told["The cold start costs accuracy against R1-Zero"].startswith("no difference here")
    assert not any("R1 is above" in claim or "language reward" in claim for claim in told)
    # One problem of five changed, which may be chance: a third of all resamples leave it out.
    assert told["Reasoning RL wins accuracy back"].startswith("inconclusive** (accuracy: cold 80.0, RL 60.0, change")
    assert told["Distillation beats RL on the student"].startswith("inconclusive")


def test_a_claim_that_does_not_hold_has_an_interval_without_zero():
    (line,) = findings({"student_rl": model("RL alone", 0.8), "distilled": model("SFT", 0.2)})
    assert line.verdict == "not here" and line.change.value == pytest.approx(-0.6)
    assert line.change.interval[1] < 0


def test_what_chance_may_have_made_is_not_called_equal():
    """Equally many right samples, but on other problems: the models may differ by chance."""
    first, second = model("RL alone", 0.4), model("SFT", 0.4)
    orders = [first.reasoning.by_problem["pass_at_1"], second.reasoning.by_problem["pass_at_1"][::-1]]
    second.reasoning.by_problem["pass_at_1"] = orders[1]
    (line,) = findings({"student_rl": first, "distilled": second})
    assert orders[0] != orders[1] and line.change.value == 0 and line.verdict == "inconclusive"


def test_models_that_answered_other_problems_are_not_compared():
    (line,) = findings({"student_rl": model("RL alone", 0.2), "distilled": model("SFT", 0.8, names="fghij")})
    assert str(line).endswith("**not comparable** (accuracy: RL alone 20.0, SFT 80.0, on other problems)")


def test_a_claim_without_its_figure_is_left_out():
    without = model("Zero", 0.2)
    without.reasoning.rewards.pop("language")
    claims = [line.claim for line in findings({"zero": without, "cold_start": model("cold", 0.2)})]
    assert claims and "R1-Zero mixes languages more than the cold start" not in claims
