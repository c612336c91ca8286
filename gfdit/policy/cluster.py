"""A cluster as the checks of a policy see it: how many GPUs, how much memory, which models, how many requests.

Read from a file (`gfdit check --cluster FILE`, TOML or JSON; docs/reference/files.md). Imports nothing heavy.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gfdit.errors import InputError
from gfdit.lang.diagnostics import did_you_mean, listing
from gfdit.lang.types import BYTE, UNITS
from gfdit.policy.costing import CALIBRATED, Constants

if TYPE_CHECKING:
    from gfdit.core.cost import CostModel, Curve

DEFAULT_REQUESTS: Final = 1000
MOST_GPUS: Final = 65536


@dataclass(frozen=True, slots=True)
class Cluster:
    """`nodes`: GPUs of each node. `gpu_mem`: bytes of each GPU, None when the file does not say. `models`: for each
    registered model the least bytes that a denoising step needs on each GPU, by degree. `requests`: live ones on the
    worst tick. `cost`: the cost model that knows more of the models, as it is written in the file."""

    nodes: tuple[int, ...]
    gpu_mem: float | None = None
    models: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    requests: int = DEFAULT_REQUESTS
    constants: Constants = CALIBRATED
    cost: str | None = None

    @property
    def gpus(self) -> int:
        return sum(self.nodes)

    def knowing(self, cost: CostModel) -> Cluster:
        """The same with what a cost model says of memory, where the file says nothing: at the smallest size."""
        found: dict[str, Mapping[int, float]] = {}
        for model, stages in cost.models.items():
            least = {degree: _least(curve) for degree, curve in stages["denoise"].memory.items()}
            if least:
                found[model] = least
        memory = cost.gpu_memory_bytes if self.gpu_mem is None else self.gpu_mem
        return replace(self, models=found | dict(self.models), gpu_mem=memory)


def _least(curve: Curve) -> float:
    """At the smallest size that it was measured at."""
    points = getattr(curve, "points", None)
    return curve.at(points[0][0] if points else 0.0)


KEYS: Final = ("gpus", "gpus_per_node", "nodes", "gpu_mem", "requests", "models", "cost", "constants")


def load_cluster(path: Path) -> Cluster:
    """A `.toml` or `.json` file. Raises InputError that names the field, what it holds and what it should hold."""
    try:
        text = path.read_text("utf-8")
        body: object = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read cluster `{path}`: {error}") from None
    if not isinstance(body, dict):
        raise InputError(f"cluster `{path}` is not a table of fields")
    return _Reader(str(path)).cluster(body)


@dataclass(frozen=True, slots=True)
class _Reader:
    name: str

    def cluster(self, body: Mapping[str, object]) -> Cluster:
        for key in body:
            if key not in KEYS:
                hint = " ".join(did_you_mean(key, KEYS)) or f"fields are {listing(KEYS, 'and')}"
                raise InputError(f"cluster `{self.name}`: unknown field `{key}`", hint=hint)
        memory = body.get("gpu_mem")
        return Cluster(
            nodes=self._nodes(body),
            gpu_mem=None if memory is None else self._bytes(memory, "gpu_mem"),
            models=self._models(body.get("models", {})),
            requests=self._count(body.get("requests", DEFAULT_REQUESTS), "requests"),
            constants=self._constants(body.get("constants")),
            cost=self._name(body.get("cost")),
        )

    def _nodes(self, body: Mapping[str, object]) -> tuple[int, ...]:
        given = body.get("nodes")
        if given is not None:
            if "gpus" in body or not isinstance(given, list) or not given:
                raise self._wrong("nodes", given, "a list such as [8, 8], and no `gpus` beside it")
            nodes = tuple(self._count(count, "nodes") for count in given)
        else:
            if "gpus" not in body:
                raise InputError(f"cluster `{self.name}` says neither `gpus` nor `nodes`", hint="such as gpus = 8")
            gpus, each = self._count(body["gpus"], "gpus"), self._count(body.get("gpus_per_node", 8), "gpus_per_node")
            nodes = tuple(min(each, gpus - first) for first in range(0, gpus, each))
        if sum(nodes) > MOST_GPUS:
            raise self._wrong("gpus", sum(nodes), f"at most {MOST_GPUS}")
        return nodes

    def _models(self, given: object) -> dict[str, dict[int, float]]:
        if not isinstance(given, dict):
            raise self._wrong("models", given, "a table: model to memory by degree")
        return {str(model): self._memory(by_degree, f"models.{model}") for model, by_degree in given.items()}

    def _memory(self, given: object, where: str) -> dict[int, float]:
        if not isinstance(given, dict) or not given:
            raise self._wrong(where, given, 'a table: degree to memory, such as {"1": "40 GiB", "2": "24 GiB"}')
        found: dict[int, float] = {}
        for degree, memory in given.items():
            if not str(degree).isdecimal() or int(degree) < 1:
                raise self._wrong(where, degree, "a degree, 1 or more, for each memory")
            found[int(degree)] = self._bytes(memory, f"{where}.{degree}")
        return found

    def _constants(self, given: object) -> Constants:
        if given is None:
            return CALIBRATED
        names = [item.name for item in fields(Constants)]
        numbers = given if isinstance(given, dict) else {}
        if set(numbers) != set(names) or not all(_is_number(value) and value > 0 for value in numbers.values()):
            raise self._wrong("constants", given, "what `gfdit cost --calibrate` prints")
        return Constants(**{name: float(numbers[name]) for name in names})

    def _name(self, value: object) -> str | None:
        if value is not None and not (isinstance(value, str) and value):
            raise self._wrong("cost", value, "the name or file of a cost model")
        return value

    def _count(self, value: object, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(where, value, "a whole number, 1 or more")
        return value

    def _bytes(self, value: object, where: str) -> float:
        """Bytes, as a number or as text with a unit."""
        number, _, unit = value.strip().partition(" ") if isinstance(value, str) else (value, "", "B")
        units = {name: factor for name, (factor, dim) in UNITS.items() if dim == BYTE}
        try:
            found = float(str(number)) * units[unit.strip()]
        except (ValueError, KeyError):
            found = 0.0
        if isinstance(value, bool) or not 0 < found < float("inf"):
            raise self._wrong(where, value, f"memory above zero, such as `80 GiB`; units are {listing(units)}")
        return found

    def _wrong(self, where: str, value: object, wanted: str) -> InputError:
        return InputError(f"cluster `{self.name}`: `{where}` is {value!r}, expected {wanted}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
