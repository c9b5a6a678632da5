"""The sandboxes of a process that computes rewards, which its rules use."""

from __future__ import annotations

import atexit

from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.rewards.code.config import CodeConfig
from r1jax.rewards.code.isolation import choose_level
from r1jax.rewards.code.judge import judge
from r1jax.rewards.code.program import program_in
from r1jax.rewards.code.sandbox import SandboxError, Sandboxes
from r1jax.rewards.code.tests import read_tests


class CodeService:
    """Scores programs. Sandboxes start with the first problem and end with the process.

    A process has one (SERVICE), because rules are functions of a problem and an answer alone.
    """

    def __init__(self) -> None:
        self._config = CodeConfig()
        self._sandboxes: Sandboxes | None = None
        self._last: tuple[tuple[str, str], float] | None = None  # several rewards may judge the same program

    def configure(self, config: CodeConfig) -> None:
        """Uses other settings from now on."""
        self.close()
        self._config = config

    def start(self) -> Sandboxes:
        """The sandboxes, started if they were not.

        Raises:
          UserError: if the demanded level of isolation does not work here.
        """
        if self._sandboxes is None:
            self._sandboxes = Sandboxes(choose_level(self._config), self._config)
            self._sandboxes.fill()
        return self._sandboxes

    def score(self, problem: Problem, text: str) -> float:
        """The reward of the program in a text: the share of the problem's tests that it passes, or 0 or 1.

        Raises:
          UserError: if the problem has no tests, or no sandbox can be started.
        """
        try:
            tests = read_tests(problem.metadata)
        except ValueError as error:
            raise UserError(f"the problem {problem.question[:60]!r} cannot be judged by tests: {error}") from error
        key = (problem.metadata, text)
        if self._last is None or self._last[0] != key:
            try:
                value = judge(program_in(text) or "", tests, self.start(), self._config.seconds, self._config.credit)
            except SandboxError as error:
                raise UserError(f"no sandbox starts ({error}): choose another level with code.isolation") from error
            self._last = (key, value)
        return self._last[1]

    def close(self) -> None:
        """Ends the sandboxes that wait."""
        if self._sandboxes is not None:
            self._sandboxes.close()
        self._sandboxes = self._last = None


SERVICE = CodeService()
atexit.register(SERVICE.close)
