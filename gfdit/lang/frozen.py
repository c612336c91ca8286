"""Immutable value classes that cost nothing to declare.

Like frozen, slotted dataclasses, but without generated code: declaring a hundred of those takes longer than checking a
policy does. Fields are compared and shown except for `span`, and those named in `ignore`: two nodes are equal if they
mean the same, wherever they stand.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar, cast, dataclass_transform

T = TypeVar("T")


class _FrozenType(type):
    """Turns the annotations of a class body into slots and constructor parameters."""

    _fields: tuple[str, ...]
    _compared: tuple[str, ...]
    _defaults: dict[str, object]

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, object], ignore: tuple[str, ...] = ()
    ) -> _FrozenType:
        annotations = cast("dict[str, str]", namespace.get("__annotations__", {}))
        names = tuple(field for field in annotations if not str(annotations[field]).startswith("ClassVar"))
        defaults = {field: namespace.pop(field) for field in names if field in namespace}
        namespace["__slots__"] = names
        namespace["__match_args__"] = names
        cls = super().__new__(mcs, name, bases, namespace)
        cls._fields = names
        cls._compared = tuple(field for field in names if field != "span" and field not in ignore)
        cls._defaults = defaults
        return cls


@dataclass_transform(frozen_default=True)
class Frozen(metaclass=_FrozenType):
    """Base of the value classes; subclasses only list their fields."""

    _fields: ClassVar[tuple[str, ...]]
    _compared: ClassVar[tuple[str, ...]]
    _defaults: ClassVar[dict[str, object]]

    def __init__(self, *args: object, **kwargs: object) -> None:
        put = object.__setattr__
        fields = self._fields
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, found {len(args)}")
        for name, value in zip(fields, args, strict=False):
            put(self, name, value)
        for name in fields[len(args) :]:
            if name in kwargs:
                put(self, name, kwargs.pop(name))
            elif name in self._defaults:
                put(self, name, self._defaults[name])
            else:
                raise TypeError(f"{type(self).__name__} needs a value for `{name}`")
        if kwargs:
            raise TypeError(f"{type(self).__name__} has no field `{next(iter(kwargs))}`")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._compared)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self._compared)))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._compared)
        return f"{type(self).__name__}({inside})"


def changed(value: T, **fields: object) -> T:
    """A copy of a frozen value with some fields replaced."""
    assert isinstance(value, Frozen)
    values = {name: getattr(value, name) for name in value._fields} | fields
    return cast(T, type(value)(**values))
