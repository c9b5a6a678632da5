"""The reward pool with rewards that hang, raise, return wrong values or crash, and with parents that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES
from r1jax.rewards.base import Completion, RewardError
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool

# A reward that does what the text of the completion says.
ACTOR = """
import ctypes, os, re, signal, subprocess, sys, time
import numpy as np
from r1jax.rewards import Completion, Problem, reward

@reward
def actor(problem: Problem, completion: Completion) -> float:
    match completion.text.split():
        case ["value", number]:
            return float(number)
        case ["answer", seconds]:
            time.sleep(float(seconds))
            return float(problem.answer)
        case ["loop"]:
            while True:
                pass
        case ["sleep", *seconds]:
            time.sleep(float(*seconds or ("1000",)))
        case ["stubborn"]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1)
        case ["regex"]:  # holds the interpreter's lock forever
            re.match(r"(a+)+$", "a" * 60 + "b")
        case ["child", file]:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
            with open(file, "w") as out:
                out.write(str(child.pid))
            child.wait()
        case ["die"]:
            os._exit(3)
        case ["segfault"]:
            ctypes.string_at(0)
        case ["raise"]:
            raise KeyError("two\\nlines")
        case ["exit"]:
            sys.exit(1)
        case ["return", expression]:
            return eval(expression)
        case ["meet", mine, other]:  # ends only if both texts of a pair run at the same time
            open(mine, "w").close()
            while not os.path.exists(other):
                time.sleep(0.01)
            return os.getpid()
        case ["modules", name]:
            return float(name in sys.modules)
    return 1.0
"""


def completion(text: str) -> Completion:
    return Completion(text, tokens=5, limit=20, finished=True, template=TEMPLATES["think"])


def problem(answer: str = "85", checker: str = "number") -> Problem:
    return Problem("37 + 48", answer, "arithmetic", checker)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def actor_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rewards") / "my_rewards.py"
    path.write_text(ACTOR)
    return str(path)


def make_pool(actor_file: str, deadline: float, workers: int = 2) -> RewardPool:
    specs = parse_rewards([f"{actor_file}:actor=2", "length=0.5"])
    return RewardPool(specs, workers, deadline)


@pytest.fixture(scope="module")
def pool(actor_file: str) -> Iterator[RewardPool]:
    """A pool for tests in which nothing hangs."""
    with make_pool(actor_file, deadline=60) as pool:
        yield pool


@pytest.fixture(scope="module")
def hasty(actor_file: str) -> Iterator[RewardPool]:
    """A pool with a short deadline, for tests in which something hangs."""
    with make_pool(actor_file, deadline=1.0) as pool:
        yield pool


def act(pool: RewardPool, *texts: str):
    return pool.score([problem()] * len(texts), [completion(text) for text in texts])


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; a zombie has ended once it has no threads left."""
    for _ in range(200):
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_values_come_in_order_with_names_and_weights(pool: RewardPool) -> None:
    numbers = np.random.default_rng(0).permutation(500)
    problems = [problem(str(n)) for n in numbers]
    # Some take longer, so that the results arrive out of order.
    scores = pool.score(problems, [completion(f"answer {0.02 * (i % 25 == 0)}") for i in range(500)])
    np.testing.assert_array_equal(scores.values, np.stack([numbers, np.full(500, -0.25)], axis=1))
    assert scores.values.dtype == scores.total.dtype == np.float32
    np.testing.assert_allclose(scores.total, 2 * numbers - 0.125)
    assert scores.names == ("actor", "length")
    assert (scores.timeouts, scores.crashes) == (0, 0)


def test_no_items_are_no_work(pool: RewardPool) -> None:
    scores = pool.score([], [])
    assert scores.values.shape == (0, 2) and scores.total.shape == (0,)


def meeting(folder: Path) -> tuple[str, str]:
    """Two texts that end only if two workers score them at the same time; the score is the process id."""
    a, b = folder / "a", folder / "b"
    return f"meet {a} {b}", f"meet {b} {a}"


def test_both_workers_work(pool: RewardPool, tmp_path: Path) -> None:
    a, b = act(pool, *meeting(tmp_path)).values[:, 0]
    assert a > 0 and b > 0 and a != b


@pytest.mark.parametrize("text", ["loop", "sleep", "stubborn", "regex"])
def test_a_reward_that_hangs_scores_zero_and_is_counted(hasty: RewardPool, text: str) -> None:
    start = time.monotonic()
    scores = act(hasty, "value 1", text, "value 3", text, "value 5")
    assert time.monotonic() - start < 60
    np.testing.assert_array_equal(scores.values[:, 0], [1, 0, 3, 0, 5])
    np.testing.assert_allclose(scores.total, [1.875, 0, 5.875, 0, 9.875])
    assert (scores.timeouts, scores.crashes) == (2, 0)


@pytest.mark.parametrize("text", ["die", "segfault"])
def test_a_reward_that_kills_its_worker_scores_zero_and_is_counted(pool: RewardPool, text: str) -> None:
    scores = act(pool, "value 1", text, "value 3", text, "value 5")
    np.testing.assert_array_equal(scores.values[:, 0], [1, 0, 3, 0, 5])
    assert (scores.timeouts, scores.crashes) == (0, 2)


def test_the_deadline_applies_to_each_item(hasty: RewardPool) -> None:
    scores = act(hasty, *["sleep 0.25"] * 10)  # 1.25 s for each worker
    assert scores.timeouts == 0 and scores.values[:, 0].all()


def test_the_deadline_does_not_include_start_and_imports(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text(f"import time\ntime.sleep(1.2)\n{ACTOR}")
    specs = parse_rewards([f"{path}:actor", "accuracy"])
    with RewardPool(specs, 1, 1.0) as pool:
        # On a busy machine, importing the checker's library takes longer than the deadline.
        scores = pool.score([problem("85", "math")], [completion("<answer>85.0</answer>")])
    assert scores.timeouts == 0
    np.testing.assert_array_equal(scores.values, [[1, 1]])


def test_processes_that_a_reward_started_end_with_it(hasty: RewardPool, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    assert act(hasty, f"child {file}").timeouts == 1
    assert gone(int(file.read_text()))


def test_a_reward_that_raises_is_named(pool: RewardPool, actor_file: str, tmp_path: Path) -> None:
    with pytest.raises(RewardError) as error:
        act(pool, "value 1", "raise", "loop")
    message = str(error.value)
    assert f"{actor_file}:actor" in message and "37 + 48" in message and "KeyError" in message and "line 3" in message
    assert "\n" not in message
    assert "Traceback" in "".join(error.value.__notes__)
    assert act(pool, *meeting(tmp_path)).values[:, 0].all()  # both workers still work


def test_a_reward_that_exits_is_an_error_and_not_a_crash(pool: RewardPool) -> None:
    with pytest.raises(RewardError, match="SystemExit"):
        act(pool, "exit")


@pytest.mark.parametrize(
    "value",
    ["float('nan')", "float('-inf')", "1e39", "10**400", "None", "'1'", "1j", "[1.0]", "np.ones(1)", "np.ones((2,2))"],
)
def test_anything_but_one_finite_number_is_refused(pool: RewardPool, value: str) -> None:
    with pytest.raises(RewardError, match=r"actor returned .*, not one finite number"):
        act(pool, f"return {value}")


@pytest.mark.parametrize("value", ["True", "1", "np.float16(1)", "np.bool_(True)", "np.array(1.0)"])
def test_every_kind_of_scalar_is_accepted(pool: RewardPool, value: str) -> None:
    assert act(pool, f"return {value}").values[0, 0] == 1


def test_a_worker_that_died_between_two_calls_is_replaced(actor_file: str) -> None:
    with make_pool(actor_file, deadline=60, workers=1) as pool:
        pid = int(act(pool, "return os.getpid()").values[0, 0])
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        scores = act(pool, "value 7")
    assert scores.values[0, 0] == 7 and scores.crashes == 0


def test_any_thread_may_score(pool: RewardPool) -> None:
    results: dict[int, list[float]] = {}

    def work(k: int) -> None:
        results[k] = act(pool, *(f"value {100 * k + i}" for i in range(20))).values[:, 0].tolist()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: [100 * k + i for i in range(20)] for k in range(3)}


def test_workers_end_with_the_context(actor_file: str, tmp_path: Path) -> None:
    files = psutil.Process().num_fds()
    with make_pool(actor_file, deadline=60) as pool:
        act(pool, "die")
        pids = act(pool, *meeting(tmp_path)).values[:, 0].astype(int).tolist()
    assert psutil.Process().num_fds() == files
    assert all(map(gone, pids))
    with pytest.raises(RuntimeError, match="closed"):
        act(pool, "value 1")


def test_a_worker_that_cannot_load_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "moody.py"
    path.write_text(ACTOR)
    specs = parse_rewards([f"{path}:actor"])
    path.write_text("import no_such_module")
    with RewardPool(specs, 1, 5.0) as pool, pytest.raises(RewardError, match=r"moody\.py, line 1: ModuleNotFoundError"):
        act(pool, "value 1")
    path.write_text("import os\nos._exit(1)")
    with RewardPool(specs, 1, 5.0) as pool, pytest.raises(RewardError, match="ended or hung while it loaded"):
        act(pool, "value 1")


# A main script, which no worker may run again.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells ignore it, and children inherit that
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES
from r1jax.rewards.base import Completion
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool

def score(*texts):
    completions = [Completion(text, 5, 20, True, TEMPLATES["think"]) for text in texts]
    return pool.score([Problem("37 + 48", "85", "test")] * len(texts), completions).values[:, 0].tolist()

with RewardPool(parse_rewards([sys.argv[1] + ":actor"]), 2, 600.0) as pool:
    print(*score("modules jax", "modules jax", *sys.argv[2:4]), flush=True)
    score(*sys.argv[4:])
    print("done")
"""


def run_script(folder: Path, actor_file: str, *texts: str, head: str = "") -> tuple[subprocess.Popen[str], list[int]]:
    """Starts the script, and returns it with the process ids of its workers while it scores ``texts``."""
    path = folder / "experiment.py"
    path.write_text(head + SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(path), actor_file, *meeting(folder), *texts],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    with_jax, also_with_jax, *pids = map(float, process.stdout.readline().split())
    assert not with_jax and not also_with_jax
    return process, [int(pid) for pid in pids]


def test_workers_import_no_jax_and_run_no_main_script(tmp_path: Path, actor_file: str) -> None:
    process, pids = run_script(tmp_path, actor_file, "value 1", head="import jax")
    assert process.stdout is not None and process.stderr is not None
    # communicate() would miss what readline() has already buffered.
    out, err = process.stdout.read(), process.stderr.read()
    process.wait(timeout=60)
    assert (out, err, process.returncode) == ("done\n", "", 0)
    assert all(map(gone, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the interpreter's lock can keep a worker alive")
def test_workers_end_when_the_parent_is_killed(tmp_path: Path, actor_file: str) -> None:
    process, pids = run_script(tmp_path, actor_file, "regex", "stubborn")
    time.sleep(0.5)  # until the workers have started
    process.kill()
    out, err = process.communicate(timeout=60)
    assert all(map(gone, pids))
    assert (out, err) == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_end_silently_when_the_parent_gets_a_signal(tmp_path: Path, actor_file: str, number: int) -> None:
    process, pids = run_script(tmp_path, actor_file, "sleep", "loop")
    os.killpg(process.pid, number)  # like the terminal on Ctrl-C
    _, err = process.communicate(timeout=60)
    assert all(map(gone, pids))
    # The script itself reports the interrupt once; workers print nothing.
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == int(number == signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_job_costs_no_score(actor_file: str, number: int) -> None:
    """The parent finishes its step before it ends, so the step must be scored normally."""
    with make_pool(actor_file, deadline=60, workers=1) as pool:
        (pid,) = act(pool, "return os.getpid()").values[:, 0]
        os.kill(int(pid), number)
        again = act(pool, "return os.getpid()", f"return os.kill(os.getpid(),{int(number)})or(7)")
        assert again.crashes == 0 and again.values[:, 0].tolist() == [pid, 7]


def test_nothing_that_a_worker_imports_needs_jax() -> None:
    modules = "r1jax.data.problems.dataset, r1jax.data.text.template, r1jax.rewards.pool"
    code = f"import {modules}, sys; print('jax' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert out.stdout == "False\n"
