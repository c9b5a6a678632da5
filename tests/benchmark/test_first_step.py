"""Where the time of a first step is spent, for steps of small programs."""

import time

import jax
import jax.numpy as jnp
import pytest

from r1jax.benchmark.first_step import first_step, first_steps, first_table
from r1jax.benchmark.programs import KINDS
from r1jax.errors import UserError


class SmallBench:
    """A step that compiles two programs and sleeps."""

    def __init__(self):
        time.sleep(0.1)
        self.state = jnp.zeros(3)

    def step(self, step):
        jax.jit(lambda x: jnp.sin(x) + step)(self.state)
        jax.jit(lambda x: jnp.cos(x) + step)(self.state)
        time.sleep(0.3)
        return {"seconds_sampling": 0.2, "seconds_rewards": 0.1}


@pytest.fixture(scope="module")
def part():
    return first_step(SmallBench)


def test_the_parts_of_a_step_add_up(part):
    spent = sum(part[kind] for kind in KINDS)
    assert part["seconds"] == pytest.approx(spent + part["rest"])
    assert part["rest"] >= 0.3 and part["weights"] >= 0.1 and part["start"] > 0
    assert (part["sampling"], part["rewards"]) == (0.2, 0.1)


def test_programs_of_a_few_milliseconds_share_a_row(part):
    assert part["number"] == sum(row["number"] for row in part["programs"]) == 2
    for kind in KINDS:
        assert part[kind] == pytest.approx(sum(row[kind] for row in part["programs"]), abs=1e-3)
    assert len({row["name"] for row in part["programs"]}) == len(part["programs"])


def test_the_table_has_a_row_for_each_program(part):
    table = first_table({"cold": part, "warm": part})
    assert table.row_count == 2 * (len(part["programs"]) + 2)


def test_a_process_that_fails_is_named(monkeypatch):
    monkeypatch.setattr("sys.argv", ["-c", "no program"])
    with pytest.raises(UserError, match="cold cache"):
        first_steps()


def test_settings_that_a_process_refuses_are_one_line(monkeypatch, capfd):
    monkeypatch.setattr("sys.argv", ["-c", "import sys; print('error: no', file=sys.stderr); sys.exit(2)"])
    with pytest.raises(SystemExit, match="2"):
        first_steps()
    assert capfd.readouterr().err == "error: no\n"
