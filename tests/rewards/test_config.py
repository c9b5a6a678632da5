"""Rewards read from their names and files."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from r1jax.errors import UserError
from r1jax.rewards.config import RewardSpec, VerifierConfig, load_rewards, parse_rewards
from tests.rewards.helpers import SUM, completion

OWN = """
from __future__ import annotations

import dataclasses
from r1jax.rewards import Completion, Problem, reward

@dataclasses.dataclass
class Bounds:
    longest: int = 10

def helper(problem, completion):
    return 1.0

@reward
def brevity(problem: Problem, completion: Completion) -> float:
    return float(completion.tokens < Bounds().longest)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "math.py"  # must not replace the module math
    path.write_text(OWN)
    return str(path)


def test_specs_are_names_files_and_weights(own: str) -> None:
    specs = parse_rewards(["accuracy", "length=-1e-2", f"{own}:brevity=0.5"])
    assert specs == (
        RewardSpec("accuracy", None, 1.0),
        RewardSpec("length", None, -0.01),
        RewardSpec("brevity", own, 0.5),
    )
    rewards = load_rewards(specs)
    assert [r(SUM, completion("", tokens=10)) for r in rewards] == [0.0, -0.5, 0.0]
    assert [r(SUM, completion("", tokens=9)) for r in rewards] == [0.0, -0.45, 1.0]
    import math as module

    assert module is math and "brevity" not in vars(module)


def test_files_are_found_from_the_current_folder(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(own).parent)
    assert parse_rewards(["math.py:brevity"]) == (RewardSpec("brevity", own, 1.0),)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["acuracy"], "unknown reward 'acuracy': did you mean accuracy?"),
        (["zebra"], "unknown reward 'zebra': known are accuracy, code, format, language, length"),
        (["accuracy", "accuracy=2"], "two rewards are named 'accuracy'"),
        ([], "no rewards"),
        (["accuracy="], "reward 'accuracy=': write NAME"),
        ([""], "reward '': write NAME"),
        (["accuracy=many"], "weight many is not a finite number"),
        (["accuracy=nan"], "weight nan is not a finite number"),
        (["accuracy=inf"], "weight inf is not a finite number"),
        (["/missing/mine.py:brevity"], "rewards file /missing/mine.py does not exist"),
    ],
)
def test_a_wrong_reward_is_one_clear_line(texts: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_rewards(texts)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": -1}, "workers -1"),
        ({"deadline": 0.0}, "deadline 0.0"),
        ({"deadline": -1.0}, "deadline -1.0"),
        ({"deadline": math.nan}, "deadline nan"),
        ({"deadline": math.inf}, "deadline inf"),
    ],
)
def test_wrong_workers_are_one_clear_line(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VerifierConfig(**settings)


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (OWN, "brevty", "'brevty': did you mean brevity?"),
        (OWN, "helper", "write @reward (from r1jax.rewards) above helper"),
        ("x = 1\n", "brevity", "'brevity': known are none"),
        ("x = 1\nimport no_such_module\n", "brevity", "line 2: ModuleNotFoundError"),
        ("raise ValueError('two\\nlines')\n", "brevity", "line 1: ValueError: two lines"),
        ("import sys\nsys.exit(3)\n", "brevity", "line 2: SystemExit: 3"),
        ("x = 1\n\nx = (\n", "brevity", "line 3: SyntaxError"),
        (
            "from r1jax.rewards import reward\n@reward\ndef brevity(text):\n    return 1\n",
            "brevity",
            "reward 'brevity' must take (problem, completion)",
        ),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, source: str, name: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(UserError) as error:
        parse_rewards([f"{path}:{name}"])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("cores", "processes"), [(1, 2), (16, 8), (128, 32)])
def test_the_number_of_workers_follows_the_cores_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int
) -> None:
    if sys.platform == "linux":
        monkeypatch.setattr("os.cpu_count", lambda: 512)  # of the machine
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    else:
        monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert VerifierConfig().processes == processes and VerifierConfig(workers=3).processes == 3
