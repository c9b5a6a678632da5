"""Times of programs: jax's events of a small program, and hand-worked sequences of events."""

import threading

import jax
import jax.numpy as jnp
import pytest

from r1jax.benchmark.programs import KINDS, ProgramTimes, program_name, program_times

TRACE, LOWER, COMPILE = (
    f"/jax/core/compile/{name}_duration" for name in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)
LOAD = "/jax/compilation_cache/cache_retrieval_time_sec"


def test_events_of_a_small_program_are_attributed_to_it():
    @jax.jit
    def inner(x):
        return jnp.sin(x)

    @jax.jit
    def a_small_program(x):
        return inner(x) + inner(x + 1)

    x = jnp.ones(3)
    with program_times() as times:
        a_small_program(x)
        a_small_program(x)
    a_small_program(jnp.ones(5))  # after the context: not recorded
    found = times.figures()
    assert [(row["name"], row["number"]) for row in found["programs"]] == [("a_small_program", 1)]
    row = found["programs"][0]
    assert row["trace"] > 0 and row["lower"] > 0 and row["compile"] + row["load"] > 0
    assert {kind: row[kind] for kind in KINDS} == {kind: found[kind] for kind in KINDS}
    assert found["in_main_thread"] == pytest.approx(sum(found[kind] for kind in KINDS))


def test_seconds_of_inner_events_count_once():
    """A program that is compiled and loaded while another one is traced."""
    times = ProgramTimes()
    times.began(TRACE, 0.0, fun_name="outer")
    times.began(COMPILE, 1.0, fun_name="jit(constant)")
    times.ended(LOAD, 0.5)
    times.ended(COMPILE, 2.0, fun_name="jit(constant)")
    times.ended(TRACE, 8.0, fun_name="outer")
    times.began(LOWER, 8.0, fun_name="jit(outer)")
    times.ended(LOWER, 1.0, fun_name="jit(outer)")
    found = times.figures()
    assert found["programs"] == [
        {"name": "outer", "number": 0, "trace": 6.0, "lower": 1.0, "compile": 0.0, "load": 0.0},
        {"name": "constant", "number": 1, "trace": 0.0, "lower": 0.0, "compile": 1.5, "load": 0.5},
    ]
    assert found["in_main_thread"] == 9.0 and found["number"] == 1


def test_each_thread_has_its_own_events():
    times = ProgramTimes()
    times.began(TRACE, 0.0, fun_name="first")

    def other():
        times.began(COMPILE, 0.0, fun_name="jit(second)")
        times.ended(COMPILE, 4.0, fun_name="jit(second)")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    times.ended(TRACE, 5.0, fun_name="first")
    found = times.figures()
    assert (found["trace"], found["compile"], found["in_main_thread"]) == (5.0, 4.0, 5.0)


@pytest.mark.parametrize("name", ["update", "jit(update)", "jit_update"])
def test_a_program_has_the_name_of_its_function(name):
    assert program_name(name) == "update"
