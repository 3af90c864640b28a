"""Properties that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Value = TypeVar("Value")


class cached_property(Generic[Value]):  # noqa: N801 (it stands for functools')
    """That of functools without its lock, as Python has it from 3.12 on.

    Before, one lock a property made all objects of a class wait for each other, and a process that was forked while
    another thread held it would wait for ever. Two threads that come at once both compute, which does no harm.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[Value]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance: object | None, owner: type) -> cached_property[Value] | Value:
        """The value, which from then on stands in the instance's dictionary."""
        if instance is None:
            return self
        return instance.__dict__.setdefault(self._name, self._compute(instance))
