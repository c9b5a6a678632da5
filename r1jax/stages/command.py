"""An experiment as a command: what a stop on request and a full device look like to whoever typed it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from r1jax import cli
from r1jax.errors import UserError
from r1jax.training.loop import Stopped


def run_command(main: Callable[[], None], advice: str) -> None:
    """Runs ``main`` as cli.run does; stopped by SIGTERM it ends well, and out of device memory with ``advice``."""

    def stop(*_: Any) -> NoReturn:  # within a step, training waits for its end instead
        raise Stopped("stopped")

    def stoppable() -> None:
        signal.signal(signal.SIGTERM, stop)
        try:
            main()
        except Stopped as stopped:
            print(f"{stopped}; the same command goes on from there")
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"the device is out of memory: {advice} ({reason})") from error

    cli.run(stoppable)
