"""Changes of a function that change its hash, and changes that do not."""

import functools
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from r1jax.pipeline.code_hash import code_hash, function_name
from r1jax.recipe.reasoning_rl import reasoning_rl_stage

COUNT = itertools.count()
PLAIN = "def stage(settings, inputs, folder):\n    return {'a': 1}\n"
HELPER = "def helper(x):\n    return x + 1\n\ndef stage(settings, inputs, folder):\n    return {'a': helper(1)}\n"
CLOSURE = (
    "def make(scale):\n    def stage(settings, inputs, folder):\n        return {'a': scale}\n    return stage\n"
    "stage = make(2)\n"
)
CLASS = (
    "class Model:\n    width = 4\n    def run(self, x):\n        return x * 2\n\n"
    "def stage(settings, inputs, folder):\n    return {'a': Model().run(1)}\n"
)
NESTED = (
    "def stage(settings, inputs, folder):\n    def inner(x):\n        return x + 1\n"
    "    return {'a': [inner(y) for y in (1, 2)]}\n"
)
PARTIAL = (
    "import functools\ndef run(settings, inputs, folder, rate=1):\n    return {'a': rate}\n"
    "stage = functools.partial(run, rate=3)\n"
)
CONSTANT = (
    "RATES = {'a': [1, 2]}\nLIMIT = 5\ndef stage(settings, inputs, folder):\n    return {'a': RATES, 'b': LIMIT}\n"
)
JITTED = "import jax\n@jax.jit\ndef f(x):\n    return x + 1\n\ndef stage(settings, inputs, folder):\n    return f(1)\n"
METHOD = (
    "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Maker:\n    rate: int\n"
    "    def __call__(self, settings, inputs, folder):\n        return {'a': self.rate}\n\nstage = Maker(3)\n"
)
RECURSIVE = "def stage(settings, inputs, folder):\n    return f(2)\n\ndef f(n):\n    return stage if n else f(n - 1)\n"
MEMBERS = "def stage(settings, inputs, folder):\n    return {'a': folder in {'x', 'y', 'z'}}\n"

SAME = [
    (PLAIN, "# a comment\n\n\n" + PLAIN.replace("return", "# another\n    return")),
    (PLAIN, PLAIN.replace("    return", '    """What it does."""\n    return')),
    (PLAIN, PLAIN + "\n\ndef unused():\n    return 5\n"),
    (HELPER, "\n" + HELPER.replace("    return x", '    """Adds."""\n    return x')),
    (NESTED, NESTED.replace("        return x", '        """Adds."""\n        return x')),
    (CLASS, CLASS.replace("    width = 4\n", '    """A model."""\n\n    width = 4\n')),
    (CONSTANT, CONSTANT + "OTHER = 3\n"),
]
DIFFERENT = [
    (PLAIN, PLAIN.replace("1", "2")),
    (PLAIN, PLAIN.replace("return {'a': 1}", "return {'b': 1}")),
    (PLAIN, PLAIN.replace("folder)", "folder, rate=1)")),
    (PLAIN.replace("folder)", "folder, rate=1)"), PLAIN.replace("folder)", "folder, rate=2)")),
    (HELPER, HELPER.replace("x + 1", "x - 1")),
    (CLOSURE, CLOSURE.replace("make(2)", "make(3)")),
    (CLASS, CLASS.replace("x * 2", "x * 3")),
    (CLASS, CLASS.replace("width = 4", "width = 5")),
    (NESTED, NESTED.replace("x + 1", "x + 2")),
    (NESTED, NESTED.replace("inner(y)", "inner(-y)")),
    (PARTIAL, PARTIAL.replace("rate=3", "rate=4")),
    (PARTIAL, PARTIAL.replace("'a': rate", "'a': -rate")),
    (CONSTANT, CONSTANT.replace("[1, 2]", "[1, 3]")),
    (CONSTANT, CONSTANT.replace("LIMIT = 5", "LIMIT = 6")),
    (JITTED, JITTED.replace("x + 1", "x + 2")),
    (METHOD, METHOD.replace("Maker(3)", "Maker(4)")),
    (METHOD, METHOD.replace("self.rate}", "-self.rate}")),
    (RECURSIVE, RECURSIVE.replace("n - 1", "n - 2")),
    (MEMBERS, MEMBERS.replace("'z'", "'w'")),
]


def stage_of(source, folder):
    """The function ``stage`` of a new module with this source."""
    path = folder / f"users_module_{next(COUNT)}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.stage


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_does_not_change_what_a_function_does_does_not_count(one, other, tmp_path):
    assert code_hash(stage_of(one, tmp_path)) == code_hash(stage_of(other, tmp_path)) is not None


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_a_change_of_the_function_or_of_what_it_uses_counts(one, other, tmp_path):
    hashes = [code_hash(stage_of(source, tmp_path)) for source in (one, other, one)]
    assert hashes[0] == hashes[2] != hashes[1]


def test_a_module_of_the_user_s_own_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users_helpers.py").write_text("def double(x):\n    return 2 * x\n")
    source = "import users_helpers\ndef stage(settings, inputs, folder):\n    return {'a': users_helpers.double(3)}\n"
    before = code_hash(stage_of(source, tmp_path))
    monkeypatch.delitem(sys.modules, "users_helpers")
    (tmp_path / "users_helpers.py").write_text("def double(x):\n    return 2 * x + 0 * len('longer')\n")
    importlib.invalidate_caches()
    assert code_hash(stage_of(source, tmp_path)) != before


def test_what_a_function_writes_to_does_not_count():
    calls = []

    def stage(settings, inputs, folder):
        calls.append(folder)
        return {}

    before = code_hash(stage)
    stage(None, None, "a")
    assert code_hash(stage) == before


def test_functions_of_the_package_and_of_libraries_go_by_their_names():
    assert code_hash(reasoning_rl_stage) is None and code_hash(jax.numpy.sort) is None
    assert function_name(reasoning_rl_stage) == "r1jax.recipe.reasoning_rl:reasoning_rl_stage"
    assert function_name(functools.partial(reasoning_rl_stage)) == "r1jax.recipe.reasoning_rl:reasoning_rl_stage"


def test_another_process_finds_the_same_hash(tmp_path):
    """Sets of text have another order in each process."""
    for source in (MEMBERS, METHOD, CLASS):
        (tmp_path / "users_stage.py").write_text(source)
        script = (
            "from r1jax.pipeline.code_hash import code_hash; from users_stage import stage; print(code_hash(stage))"
        )
        environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": ""}
        outputs = {
            subprocess.run(
                [sys.executable, "-c", script],
                env=environment | {"PYTHONHASHSEED": seed},
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
            for seed in ("1", "2", "3")
        }
        assert len(outputs) == 1 and b":" in outputs.pop()
