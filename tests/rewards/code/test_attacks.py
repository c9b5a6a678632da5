"""Hostile programs in each level of isolation: none earns a reward, outlives its deadline, or sees a secret."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from r1jax.rewards.code.config import CodeConfig, Level
from r1jax.rewards.code.folders import remove_stale
from r1jax.rewards.code.guest import file_access
from r1jax.rewards.code.guest.system_call_filter import MACHINES
from r1jax.rewards.code.judge import judge
from r1jax.rewards.code.sandbox import Sandbox, SandboxError, Sandboxes
from r1jax.rewards.code.tests import Case, CodeTests, Printed
from tests.rewards.code import attacks, forgeries

SECONDS = 0.7
CONFIG = CodeConfig(seconds=SECONDS, memory=256)
ROOT = os.geteuid() == 0
LANDLOCK = bool(file_access.version())
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the levels differ on other systems")


@pytest.fixture(scope="module")
def secret() -> Iterator[str]:
    """A text in the environment and memory of this process that no program may see."""
    value = os.environ["R1JAX_TEST_SECRET"] = f"SECRET-{secrets.token_hex(8)}"
    yield value
    del os.environ["R1JAX_TEST_SECRET"]


FILL = f"fill-{secrets.token_hex(8)}"


@pytest.fixture(scope="module")
def exhausting() -> Iterator[dict[str, str]]:
    """The programs that exhaust a resource; what they leave in the system's folders is removed at the end."""
    yield {name: source.replace("FILL", FILL) for name, source in attacks.EXHAUST.items()}
    remove_filled()


def remove_filled() -> int:
    """Removes the files outside its own folder that a program filled the disk with; their number."""
    folders = (Path(name) for name in ("/tmp", "/dev/shm", "/var/tmp"))
    paths = [path for folder in folders if folder.is_dir() for path in folder.glob(f"{FILL}-*")]
    for path in paths:
        path.unlink()
    return len(paths)


def guests() -> list[int]:
    """The processes of sandboxes that this process started."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or ())
        if "from guest.main import main" in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def run_all(programs: Mapping[str, str], one: Callable[[str], object]) -> dict[str, tuple[object, float]]:
    """The result of each program and the seconds that it took, several at a time."""

    def timed(source: str) -> tuple[object, float]:
        began = time.monotonic()
        return one(source), time.monotonic() - began

    with ThreadPoolExecutor(12) as threads:
        return dict(zip(programs, threads.map(timed, programs.values()), strict=True))


def judged(level: Level, tests: CodeTests) -> Callable[[str], float]:
    def one(source: str) -> float:
        sandboxes = Sandboxes(level, CONFIG, ahead=0)
        return judge(source, tests, sandboxes, SECONDS, "share")

    return one


def check_test(secret: str) -> CodeTests:
    """Test code that expects the secret."""
    setup = f"def check(f):\n    assert f(1) == {secret!r}\n    assert f(2) != 1 and f(2) == {secret!r}"
    return CodeTests(asserts=("check(solve)",), setup=setup, entry_point="solve")


def printed(level: Level, source: str, seconds: float = 20.0) -> str:
    """The output of a program; "" if it did not end in time."""
    with Sandbox(level, CONFIG, SECONDS) as started:
        try:
            reply = started.ask(("run", source, ""), seconds)
        except SandboxError:
            return ""
        return bytes.fromhex(reply[1]).decode(errors="replace")


def check_none_earned(results: dict[str, tuple[object, float]]) -> None:
    assert {name for name, (value, _) in results.items() if value != 0} == set()
    # The start of twelve sandboxes at once on a busy machine is most of it.
    assert {name for name, (_, seconds) in results.items() if seconds > SECONDS + 9} == set()


def test_no_program_that_exhausts_a_resource_earns_or_remains(
    level: Level, secret: str, exhausting: dict[str, str]
) -> None:
    began = time.monotonic()
    results = run_all(exhausting, judged(level, CodeTests((Printed("", secret),))))
    check_none_earned(results)
    while left := guests():
        assert time.monotonic() - began < 60, left
        time.sleep(0.05)


def test_what_programs_try_is_refused(level: Level) -> None:
    if level == "rlimits" and os.uname().machine not in MACHINES:
        pytest.skip("without a filter of system calls, these would reach other processes")
    programs = {name: code.replace("PARENT", str(os.getpid())) for name, code in attacks.REFUSED.items()}
    results = run_all(programs, lambda source: printed(level, source).strip())
    worked = {name for name, (text, _) in results.items() if text != "refused"}
    # With namespaces, "all" are the processes of the sandbox.
    assert worked - ({"kills all"} if level != "rlimits" else set()) == set()
    assert results["kills all"][0] != "worked"


_JUDGE = """
import json, sys
from tests.rewards.code import attacks
from tests.rewards.code.test_attacks import printed, run_all
results = run_all(attacks.SEARCH, lambda source: printed(sys.argv[1], source, 3.0))
print(json.dumps({name: text for name, (text, _) in results.items()}))
"""


def test_no_program_sees_a_secret(level: Level, secret: str) -> None:
    """The judge is a process of its own here, which has the secret in its environment from its start."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _JUDGE, level]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True, timeout=60).stdout
    texts = json.loads(found)
    assert set(texts) == set(attacks.SEARCH) and "LC_CTYPE" in texts["environment"]
    assert {name for name, text in texts.items() if secret in text} == set()
    assert {name for name, text in texts.items() if level != "rlimits" and "root:" in text} == set()


def test_files_outside_are_hidden(level: Level, secret: str, tmp_path: Path) -> None:
    if level == "rlimits" and not ROOT and not LANDLOCK:
        pytest.skip("limits alone leave the files of the user open")
    (tmp_path / "tests.json").write_text(secret)
    assert secret not in printed(level, f"print(open({str(tmp_path / 'tests.json')!r}).read())")


def test_files_that_everybody_may_read_are_hidden(level: Level, secret: str) -> None:
    if level == "rlimits" and not LANDLOCK:
        pytest.skip("limits alone leave open what everybody can read")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "tests.json")
        path.write_text(secret)
        path.chmod(0o644)
        source = f"import heapq\nprint(heapq.nsmallest(1, [2, 1]))\nprint(open({str(path)!r}).read())"
        text = printed(level, source)
        assert text == "[1]\n"
        # Python's modules may be reached through an open folder, but not those beside it.
        above = "import os, sys\nprint([os.listdir(f'{path}/../../..') for path in sys.path if 'self/fd' in path])"
        assert printed(level, above) in ("", "[]\n")


def test_no_function_forges_a_result(level: Level, secret: str) -> None:
    tests = CodeTests((Case("solve", (3,), secret), Case("solve", (4,), secret, strict=False)))
    check_none_earned(run_all(forgeries.FORGED, judged(level, tests)))


def test_no_function_changes_the_test_of_it(level: Level, secret: str) -> None:
    check_none_earned(run_all(forgeries.UNDER_TEST, judged(level, check_test(secret))))


_WORKER = """
import sys, time
from r1jax.rewards.code.config import CodeConfig
from r1jax.rewards.code.sandbox import Sandboxes
sandboxes = Sandboxes(sys.argv[1], CodeConfig(), ahead=2)
sandbox = sandboxes.take()
program = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); time.sleep(1000)"
sandbox.send(("load", program), 1e9)
second = sandboxes.take()
second.send(("run", program, ""), 1e9)
time.sleep(0.3)
print("started", flush=True)
time.sleep(1000)
"""


def test_sandboxes_end_with_their_worker(level: Level) -> None:
    """Also those whose programs ask to outlive it, in the guest and in a process of their own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen([sys.executable, "-c", _WORKER, level], env=environment, stdout=subprocess.PIPE)
    assert worker.stdout is not None and worker.stdout.readline() == b"started\n" and len(guests()) >= 3
    worker.kill()
    worker.wait()
    folders = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(f"r1jax-sandbox-{worker.pid}-")]
    assert bool(folders) == (level == "rlimits")
    worker.stdout.close()
    until = time.monotonic() + 20
    while left := guests():
        assert time.monotonic() < until, left
        time.sleep(0.05)
    remove_stale.cache_clear()
    with Sandbox("rlimits", CONFIG, SECONDS):
        assert not any(os.path.exists(os.path.join(tempfile.gettempdir(), name)) for name in folders)


def test_honest_programs_earn_between_attacks(level: Level) -> None:
    tests = CodeTests((Case("solve", (3,), [4, 9.5]), Case("solve", (-1,), [0, 9.5])))
    assert judged(level, tests)("def solve(x): return [x + 1, 9.5]") == 1.0
    assert judged(level, tests)("def solve(x): return [4, 9.5]") == 0.5
    assert (
        judged(level, CodeTests((Printed("a\nb", "b\na"),)))("print(*[input() for _ in 'ab'][::-1], sep='\\n')") == 1.0
    )


def test_nothing_is_left_on_the_disk(level: Level, exhausting: dict[str, str]) -> None:
    if level == "rlimits" and not LANDLOCK:
        pytest.skip("limits of resources alone leave the system's folders writable")
    remove_filled()
    printed(level, exhausting["fills the disk"])
    assert remove_filled() == 0
