"""Every exception gfdit raises on purpose.

GfditError
├── UsageError            the command line or a setting is wrong           exit 2
├── InputError            a file or request is wrong: names field, value, fix   exit 1
│   ├── WorkloadError
│   ├── CostModelError
│   ├── PolicyError       carries the diagnostics of `gfdit check`
│   └── JournalError
├── TransitionError       a trajectory was asked for an illegal transition (a bug)
├── InvariantError        the scheduler's books do not add up (a bug)
├── WireError             a message that does not decode
├── ModelError            a model cannot be loaded, stepped or parallelised
├── StateError            a trajectory's state is not held here, or its bytes do not decode
├── TaskAborted           a task was stopped on request; the step before it is intact
├── FleetError            the workers cannot start, or none is left
├── QueueFull             too many requests wait; says when to try again
├── StorageFull           a request cannot be written down, so it is not accepted
└── ShuttingDown          a request came after the system stopped taking any
"""

from __future__ import annotations


class GfditError(Exception):
    """Base of all; `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  = help: {self.hint}"


class UsageError(GfditError):
    """The command line or a setting is wrong."""


class InputError(GfditError):
    """A file or a request is wrong."""


class WorkloadError(InputError):
    """A workload file does not follow the format."""


class CostModelError(InputError):
    """A cost model file does not follow the format, or misses a cost that is needed."""


class PolicyError(InputError):
    """A policy does not check; the message holds the rendered diagnostics."""


class JournalError(InputError):
    """A journal cannot be read or does not replay."""


class TransitionError(GfditError):
    """A trajectory was asked for a transition its state does not have."""


class InvariantError(GfditError):
    """The scheduler's books do not add up."""


class WireError(GfditError):
    """A message does not decode, or comes from the wrong peer."""


class ModelError(GfditError):
    """A model cannot be loaded, stepped or parallelised."""


class StateError(GfditError):
    """A trajectory's state is not held here, or its bytes do not decode."""


class TaskAborted(GfditError):
    """A task was stopped on request; the state of the last completed step is intact."""


class FleetError(GfditError):
    """The workers cannot start, or none is left."""


class QueueFull(GfditError):
    """Too many requests wait. `retry_after_s`: wall seconds until there should be room."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageFull(GfditError):
    """What must outlive the controller cannot be written to disk: it is full, or fails."""


class ShuttingDown(GfditError):
    """A request came after the system stopped taking any."""
