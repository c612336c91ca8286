"""What changed in a trajectory's state since some moment, and how to get back there.

A state is flat: names to values. Steps replace tensors rather than write into them, so a snapshot keeps references,
copies only containers and random generators, and notices an in-place write by torch's version counter. Knows nothing
of what the values mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gfdit.errors import StateError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The values of one moment; `marks` tell whether a later value is still the same."""

    values: dict[str, object]
    marks: dict[str, object]
    generators: dict[str, torch.Tensor]

    @classmethod
    def take(cls, state: Mapping[str, object]) -> Snapshot:
        generators = {name: value.get_state() for name, value in state.items() if isinstance(value, torch.Generator)}
        return cls(
            {name: _copied(value) for name, value in state.items()},
            {name: _mark(value) for name, value in state.items()},
            generators,
        )

    def changes(self, state: Mapping[str, object]) -> dict[str, object]:
        """The part of `state` that is not as it was here."""
        return {name: value for name, value in state.items() if self.marks.get(name, self) != _mark(value)}

    def restored(self) -> dict[str, object]:
        """The state of that moment. Raises StateError if one of its tensors was written in place since."""
        for name, generator_state in self.generators.items():
            generator = self.values[name]
            assert isinstance(generator, torch.Generator)
            generator.set_state(generator_state)
        for name, value in self.values.items():
            if _mark(value) != self.marks[name]:
                raise StateError(f"{name} was changed in place, so the step before is lost on this rank")
        return {name: _copied(value) for name, value in self.values.items()}


def _copied(value: object) -> object:
    """The value with containers of its own, so that appending to them later leaves it alone."""
    match value:
        case list():
            return [_copied(item) for item in value]
        case dict():
            return {key: _copied(item) for key, item in value.items()}
        case _:
            return value


def _mark(value: object) -> object:
    """Equal marks mean an unchanged value. Identities stay taken, because whoever keeps a mark keeps the value."""
    match value:
        case torch.Tensor():
            return id(value), value._version
        case torch.Generator():
            return id(value), value.get_state().numpy().tobytes()
        case list() | tuple():
            return type(value), tuple(_mark(item) for item in value)
        case dict():
            return dict, tuple((key, _mark(item)) for key, item in value.items())
        case None | bool() | int() | float() | str():
            return type(value), value
        case _:
            return id(value)
