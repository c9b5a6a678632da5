"""Ctrl-C and SIGTERM: saved state, messages and status, also while the compiler runs."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from r1jax import stopping
from r1jax.stopping import Stopped, StopRequest
from tests.helpers.paths import ROOT

TRAINING = """
import sys, time
from r1jax import cli
from r1jax import stopping
from r1jax.stopping import Stopped, StopRequest

def main():
    with StopRequest() as stop:
        print("ready", flush=True)
        for step in range(1000):
            time.sleep(0.01 if sys.argv[1] == "steps" else 600)
            if stop.requested:
                raise Stopped("stopped after a step", stop.number)

cli.call_and_exit(main)
"""
ELSEWHERE = """
import subprocess, time
from r1jax import cli

def main():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("buffered until the end")
    print(child.pid, file=__import__("sys").stderr, flush=True)
    time.sleep(600)

cli.call_and_exit(main, "farewell")
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line(stream: object) -> str:
    text = stream.readline()  # type: ignore[attr-defined]
    assert text
    return text


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_within_training_the_first_signal_waits_for_the_step_and_says_so(number: signal.Signals, status: int) -> None:
    process = start(TRAINING, "steps")
    line(process.stdout)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert out == "stopped after a step; the same command resumes from there\n"
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    assert err == f"{name}: the run stops after it has saved its state; a second signal ends it at once\n"


def test_the_second_signal_ends_at_once() -> None:
    process = start(TRAINING, "a step of ten minutes")
    line(process.stdout)
    process.send_signal(signal.SIGINT)
    assert "a second signal ends it at once" in line(process.stderr)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "stopped\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_elsewhere_the_first_signal_ends_the_process_and_its_children(number: signal.Signals, status: int) -> None:
    process = start(ELSEWHERE)
    child = psutil.Process(int(line(process.stderr)))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, "buffered until the end\nfarewell\n", "")
    assert child.wait(timeout=60) is None or not child.is_running()


OTHER_THREAD = """
import signal, threading, time
from r1jax import cli

def main():
    time.sleep(1)  # until the main thread waits
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(600)

cli.call_and_exit(main)
"""


def test_a_signal_that_the_system_gives_to_another_thread_ends_the_process() -> None:
    process = start(OTHER_THREAD)
    try:
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143 and out == "stopped\n"


REPEATED = """
import os, signal, sys, time
from r1jax import cli

class Slow:
    def write(self, text):
        sys.__stdout__.write(text)
    def flush(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        sys.__stdout__.flush()

def main():
    sys.stdout = Slow()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(600)

cli.call_and_exit(main)
"""


def test_a_repeated_signal_prints_the_farewell_once() -> None:
    out, _ = start(REPEATED).communicate(timeout=60)
    assert out == "stopped\n"


COMPILING = """
import os, signal, sys, threading
import jax, jax.numpy as jnp
from r1jax import cli
from r1jax import stopping
from r1jax.stopping import Stopped, StopRequest

def large(x):
    for i in range(int(sys.argv[2])):
        x = jnp.sin(x @ x) + jax.lax.scan(lambda c, _: (jnp.cos(c @ x + i), None), x, None, length=3)[0]
    return x.sum()

def compile():
    lowered = jax.jit(jax.grad(large)).lower(jnp.ones((64, 64)))
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    lowered.compile()
    print("compiled")

def training():
    with StopRequest() as stop:
        compile()
        if stop.requested:
            raise Stopped("stopped after a step", stop.number)

cli.call_and_exit({"training": training, "elsewhere": compile}[sys.argv[1]])
"""


@pytest.mark.parametrize(("where", "size"), [("training", "12"), ("elsewhere", "60")])
def test_a_signal_while_a_program_compiles_crashes_nothing(where: str, size: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"  # it must still compile when the signal comes
    done = subprocess.run(
        [sys.executable, "-c", COMPILING, where, size], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 130, done.stderr
    after = "compiled\nstopped after a step; the same command resumes from there\n"
    assert done.stdout == {"training": after, "elsewhere": "stopped\n"}[where]


def test_a_signal_that_comes_too_late_for_the_last_step_is_not_lost() -> None:
    with pytest.raises(Stopped) as stopped, StopRequest():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.status == 143


def test_in_a_notebook_the_second_signal_has_its_former_effect() -> None:
    former = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as interrupted, StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            signal.raise_signal(signal.SIGINT)
        assert not isinstance(interrupted.value, Stopped)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, former[0])
    assert signal.getsignal(signal.SIGTERM) is former[1]


def test_signals_in_quick_succession_are_one_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ``timeout`` sends two signals, to the process and then to its group."""
    monkeypatch.setattr(stopping, "_REPEAT_SECONDS", 1.0, raising=False)
    seen: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    repeat = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(Stopped), StopRequest():
            repeat.start()
            signal.raise_signal(signal.SIGTERM)
            repeat.join()
    finally:
        signal.signal(signal.SIGTERM, former)
    assert seen == []
    assert capsys.readouterr().err.count("a second signal ends it at once") == 1


def test_an_error_of_the_work_is_not_hidden_by_a_request() -> None:
    with pytest.raises(ZeroDivisionError), StopRequest():
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError
