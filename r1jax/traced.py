"""Functions whose settings may be arrays of a larger program, as in ablations that train many arms in one program.

A setting is a Python number in a config. Inside a traced function it may also be a scalar array, whose value is known
only when the program runs: 0 then turns a term off by arithmetic and not by a branch of Python.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Program(Generic[P, R]):
    """jit of a function; inside another traced function it is a part of that program, without a jit of its own.

    There, arguments that are static under jit may hold arrays.
    """

    def __init__(self, function: Callable[P, R], **options: Any) -> None:
        self._function, self._jitted = function, jax.jit(function, **options)
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result."""
        inside = any(isinstance(x, Tracer) or holds_arrays(x) for x in jax.tree.leaves((args, kwargs)))
        return (self._function if inside else self._jitted)(*args, **kwargs)

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Lowered:
        """The lowered program for arguments, as that of a function of jax.jit."""
        return self._jitted.lower(*args, **kwargs)


def program(**options: Any) -> Callable[[Callable[P, R]], Program[P, R]]:
    """Decorator that makes a function a Program; options: those of jax.jit."""

    def decorate(function: Callable[P, R]) -> Program[P, R]:
        return Program(function, **options)

    return decorate


def is_array(value: Any) -> bool:
    """True for an array of JAX, False for a Python value."""
    return isinstance(value, jax.Array)


def holds_arrays(config: Any) -> bool:
    """True for a dataclass with a field that is an array, so that it cannot be hashed."""
    return dataclasses.is_dataclass(config) and any(
        is_array(getattr(config, field.name)) for field in dataclasses.fields(config)
    )


def enabled(weight: Any) -> bool:
    """True unless a weight is the Python number 0: an array may have any value, so its term is computed."""
    return is_array(weight) or bool(weight)


def where_enabled(weight: Any, values: Any, otherwise: Any) -> Any:
    """``values`` of a term that is computed because its weight is enabled; ``otherwise`` for an array that is 0."""
    return jnp.where(weight != 0, values, otherwise) if is_array(weight) else values


def replace(config: T, **values: Any) -> T:
    """dataclasses.replace, without the checks of __post_init__ if a value is an array, whose value is not known."""
    if not any(map(is_array, values.values())) and not holds_arrays(config):
        return dataclasses.replace(config, **values)  # pyright: ignore[reportArgumentType, reportCallIssue]
    changed = copy.copy(config)
    for name, value in values.items():
        object.__setattr__(changed, name, value)
    return changed
