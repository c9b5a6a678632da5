from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from r1jax import cli
from r1jax.errors import UserError
from tests.helpers.paths import ROOT


@dataclasses.dataclass(frozen=True)
class Adam:
    """How the weights move."""

    learning_rate: float = 1e-6  # the step at its largest
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8


@dataclasses.dataclass(frozen=True)
class RL:
    """Group relative policy optimisation."""

    group: int = 16  # samples per prompt
    clip: float | None = 0.2
    level: Literal["token", "sequence"] = "token"
    ks: tuple[int, ...] = (1, 8)
    normalise: bool = True  # divide advantages by their spread
    adam: Adam = Adam()

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ValueError("a group of 1 has no spread:\nask for two samples or more")


@dataclasses.dataclass(frozen=True)
class Clip:
    """An interval."""

    low: float = 0.2
    high: float = 0.2
    """The upper end."""


CLIPS = (("plain", Clip()), ("wide", Clip(high=0.5)))


@dataclasses.dataclass(frozen=True)
class Step:
    """A step, whose algorithm has no prefix of its own."""

    group: int = 16
    algorithm: Annotated[Clip, tyro.conf.arg(name=""), cli.Named(CLIPS)] = Clip()


@dataclasses.dataclass(frozen=True)
class Steps:
    """Two of them."""

    rl: Step = Step()
    last_rl: Step = Step(4, Clip(low=0.1))


@dataclasses.dataclass(frozen=True)
class Config:
    """A run."""

    seed: int = 0  # of every draw
    name: str = "run"
    out: Path | None = None
    preview: bool = False
    warmup: Adam | None = None
    rl: RL = RL()

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise UserError("--name=bad:\nchoose a better one")


PRESETS = {
    "tiny": ("a laptop in minutes", Config()),
    "large": ("one accelerator", Config(seed=7, warmup=Adam(), rl=RL(group=64, normalise=False))),
}


def parse(*args: str) -> Config:
    return cli.parse(PRESETS, "tiny", args, prog="train", description="Trains something.")


# Each leaf as (flag, words, path and value that must come out), written by hand so that nothing of cli is used.
FLAGS = [
    ("--seed", ["3"], "seed", 3),
    ("--name", ["a b"], "name", "a b"),
    ("--out", ["x/y"], "out", "x/y"),
    ("--preview", ["true"], "preview", True),
    ("--rl.group", ["4"], "rl.group", 4),
    ("--rl.clip", ["None"], "rl.clip", None),
    ("--rl.level", ["sequence"], "rl.level", "sequence"),
    ("--rl.ks", ["1", "2", "4"], "rl.ks", [1, 2, 4]),
    ("--rl.normalise", ["False"], "rl.normalise", False),
    ("--rl.adam.learning-rate", ["-2e-5"], "rl.adam.learning_rate", -2e-5),
    ("--rl.adam.betas", ["0.5", "0.6"], "rl.adam.betas", [0.5, 0.6]),
    ("--rl.adam.eps", ["1e-3"], "rl.adam.eps", 1e-3),
]


@pytest.mark.parametrize(("flag", "words", "path", "value"), FLAGS)
def test_each_field_can_be_set_in_both_forms_and_nothing_else_moves(
    flag: str, words: list[str], path: str, value: Any
) -> None:
    for args in (
        [flag, *words],
        [f"{flag}={words[0]}", *words[1:]],
        [flag.replace("-", "_").replace("__", "--"), *words],
    ):
        changed = cli.diff(Config(), parse(*args))
        assert changed.keys() == {path}
        assert changed[path][1] == value


def test_presets_are_the_defaults_that_flags_change() -> None:
    assert parse() == Config()
    assert parse("--preset", "large") == PRESETS["large"][1]
    changed = parse("--rl.group=8", "--preset=large", "--warmup.eps=1")
    assert changed == Config(seed=7, warmup=Adam(eps=1.0), rl=RL(group=8, normalise=False))


@pytest.mark.parametrize(
    ("args", "expected"),
    [([], False), (["--preview"], True), (["--preview", "--seed=1"], True), (["--preview=FALSE"], False)],
)
def test_a_switch_needs_no_value(args: list[str], expected: bool) -> None:
    assert parse(*args).preview is expected


def test_help_shows_each_flag_its_comment_the_presets_and_their_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        parse("--preset=large", "--help")
    assert not stop.value.code
    out = capsys.readouterr().out
    flags = ["--preset", *(flag for flag, *_ in FLAGS)]
    words = ["Trains something.", "samples per prompt (default: 64)", "a laptop in minutes", "one accelerator"]
    groups = ["Group relative policy optimisation.", "How the weights move."]
    assert [text for text in flags + words + groups if text not in out] == []


# A wrong command line, and the expected line.
MISTAKES = [
    (["--rl.group=x"], ["--rl.group=x", "a whole number"]),
    (["--rl.group", "1.5"], ["--rl.group=1.5", "a whole number"]),
    (["--rl.group"], ["--rl.group", "no value"]),
    (["--rl.group", "--seed=1"], ["--rl.group", "no value"]),
    (["--seed="], ["--seed=", "a whole number"]),
    (["--rl.level=word"], ["--rl.level=word", "token, sequence"]),
    (["--rl.clip", "wide"], ["--rl.clip=wide", "a number or None"]),
    (["--rl.ks", "1", "x"], ["--rl.ks=1 x", "separated by spaces", "a whole number"]),
    (["--rl.adam.betas=1"], ["--rl.adam.betas=1", "a number, then a number"]),
    (["--rl.adam.learning_rate=x"], ["--rl.adam.learning-rate=x", "a number"]),
    (["--rl.normalise=maybe"], ["--rl.normalise=maybe", "true or false"]),
    (["--preset=huge"], ["--preset=huge", "tiny, large"]),
    (["--preset"], ["--preset", "tiny, large"]),
    (["--rl.grop=3"], ["--rl.grop", "--rl.group?"]),
    (["--learning-rate", "3"], ["--learning-rate", "--rl.adam.learning-rate?"]),
    (["--eps", "3"], ["--eps", "--rl.adam.eps?"]),
    (["--xyzzy"], ["--xyzzy", "no such flag (see"]),
    (["stray"], ["stray", "not a flag"]),
    (["--seed", "1", "2"], ["2", "not a flag"]),
    (["-q"], ["-q", "not a flag"]),
    (["--warmup=1"], ["--warmup", "no such flag (see"]),  # this part is absent from the preset
    (["--rl.group=1"], ["a group of 1 has no spread: ask for two samples or more"]),
]


@pytest.mark.parametrize(("args", "words"), MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    args: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.call_and_exit(lambda: parse(*args))
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("error: ") and err.endswith("(see --help)\n") and err.count("\n") == 1
    assert [word for word in words if word not in err] == []


def test_an_error_of_a_config_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.call_and_exit(lambda: parse("--name=bad"))
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --name=bad: choose a better one\n"


def test_call_and_exit_ends_with_the_status_of_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    for main, status in [(lambda: None, 0), (interrupted, 130)]:
        with pytest.raises(SystemExit) as stop:
            cli.call_and_exit(main)
        assert stop.value.code == status
    assert capsys.readouterr().err == ""
    with pytest.raises(ZeroDivisionError):  # a fault of ours keeps its traceback
        cli.call_and_exit(lambda: 1 // 0)


def test_a_warning_is_one_line_without_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # call_and_exit replaces it

    def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            monkeypatch.setattr(warnings, "showwarning", show)
            warnings.warn("two\nlines", stacklevel=1)
            warnings.warn("for programmers", DeprecationWarning, stacklevel=1)

    def show(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))

    with pytest.raises(SystemExit):
        cli.call_and_exit(main)
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "warning: two lines"
    assert "test_cli.py" in others[0] and "DeprecationWarning: for programmers" in others[0]


def test_a_full_disk_is_one_line_and_another_failure_of_the_system_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    def main(number: int) -> None:
        raise OSError(number, os.strerror(number), "runs/x")

    with pytest.raises(SystemExit, match="2"):
        cli.call_and_exit(lambda: main(errno.ENOSPC))
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'runs/x'\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.call_and_exit(lambda: main(errno.EBADF))


@pytest.mark.parametrize(
    ("number", "path", "message"),
    [
        (errno.EACCES, "a/b", "Permission denied: a/b: change its permissions, or give another path"),
        (errno.EPERM, None, "Operation not permitted: change its permissions, or give another path"),
        (errno.ENAMETOOLONG, "x" * 5000, f"File name too long: {'x' * 200}...: give a shorter path"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line_with_advice(
    capsys: pytest.CaptureFixture[str], number: int, path: str | None, message: str
) -> None:
    def main() -> None:
        raise OSError(number, os.strerror(number), path)

    with pytest.raises(SystemExit, match="2"):
        cli.call_and_exit(main)
    assert capsys.readouterr().err == f"error: {message}\n"


def test_json_holds_every_value_and_comes_back_without_difference() -> None:
    config = Config(out=Path("a/b"), warmup=Adam(learning_rate=float("inf")), rl=RL(ks=(2,)))
    saved = json.loads(cli.to_json(config), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert saved["out"] == "a/b" and saved["rl"]["ks"] == [2] and saved["warmup"]["learning_rate"] == "inf"
    assert cli.diff(saved, config) == {}


def test_diff_names_fields_by_dotted_path_even_where_one_side_lacks_them() -> None:
    saved = json.loads(cli.to_json(Config()))
    del saved["rl"]["level"]
    saved["gone"] = 1
    other = Config(seed=5, rl=RL(adam=Adam(betas=(0.9, 0.99))))
    assert cli.diff(saved, other) == {
        "seed": (0, 5),
        "rl.level": (None, "token"),
        "rl.adam.betas": ([0.9, 0.95], [0.9, 0.99]),
        "gone": (1, None),
    }


def test_the_command_line_answers_before_any_array_library_is_loaded() -> None:
    code = "import sys, r1jax.cli; print(sorted({'jax', 'numpy', 'flax', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def parse_steps(*args: str) -> Steps:
    return cli.parse({"two": ("two steps", Steps())}, "two", args, prog="steps.py")


def test_a_part_without_a_prefix_has_the_flags_of_its_parent() -> None:
    config = parse_steps("--rl.low=0.3", "--last-rl.group", "8")
    assert config == Steps(Step(algorithm=Clip(low=0.3)), Step(8, Clip(low=0.1)))
    part = {"class": "Clip", "low": 0.3, "high": 0.2}
    assert json.loads(cli.to_json(config))["rl"] == {"group": 16, "algorithm": part}
    assert cli.diff(Steps(), config) == {"rl.algorithm.low": (0.2, 0.3), "last_rl.group": (4, 8)}
    names = {"algorithm.class": "Clip", "algorithm.low": 0.2, "algorithm.high": 0.2}
    assert cli.defaults(Step()) == {"group": 16, **names}
    assert cli.defaults(Steps())["last_rl.algorithm.low"] == 0.1


@pytest.mark.parametrize("flags", [["--last-rl.algorithm=wide", "--last-rl.low=0"], ["--last_rl.low", "0"]])
def test_a_name_replaces_the_settings_of_a_part_and_flags_change_them(flags: list[str]) -> None:
    named = parse_steps(*flags, "--last-rl.algorithm", "wide")
    assert named == Steps(last_rl=Step(4, Clip(0.0, 0.5)))  # the other settings of the preset stay
    assert parse_steps("--rl.algorithm=wide", "--rl.algorithm=plain") == Steps()


@dataclasses.dataclass(frozen=True)
class Checked(Step):
    """A step whose group must fit its algorithm."""

    def __post_init__(self) -> None:
        if self.group < 10 * self.algorithm.high:
            raise UserError("the group is too small")


def test_only_the_final_config_is_checked() -> None:
    presets = {"small": ("a small group", Checked(group=2))}
    assert cli.parse(presets, "small", ["--algorithm=wide", "--group=5"]).group == 5
    with pytest.raises(UserError, match="the group is too small"):
        cli.parse(presets, "small", ["--algorithm=wide"])


def test_a_wrong_name_is_one_line_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^--rl.algorithm=wid: expected one of plain, wide \(see --help\)$"):
        parse_steps("--rl.algorithm=wid")
    with pytest.raises(UserError, match=r"^--rl.algorithm=None: expected one of plain, wide"):
        parse_steps("--rl.algorithm=None")
    with pytest.raises(UserError, match=r"^--rl.algorithm has no value: expected one of plain, wide"):
        parse_steps("--rl.algorithm")
    with pytest.raises(UserError, match=r"^--rl.algorithm.low: no such flag; did you mean --rl"):
        parse_steps("--rl.algorithm.low=1")
    with pytest.raises(SystemExit):
        parse_steps("--rl.algorithm=wide", "--help")
    shown = capsys.readouterr().out
    assert "--rl.algorithm {plain,wide}" in shown and "The upper end. (default: 0.5)" in shown
