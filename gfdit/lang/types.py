"""Static types and units of the policy language.

A number carries a dimension: integer exponents over (s, gpu, B, px, tok, step). A duration is a number with dimension
`s`; an instant is a type of its own, so that the two cannot be mixed by accident. Nothing here knows scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

Dim = tuple[int, int, int, int, int, int]

BASE_UNITS: Final = ("s", "gpu", "B", "px", "tok", "step")
PLAIN: Final[Dim] = (0, 0, 0, 0, 0, 0)


def _dim(unit: str) -> Dim:
    exponents = [int(unit == base) for base in BASE_UNITS]
    return exponents[0], exponents[1], exponents[2], exponents[3], exponents[4], exponents[5]


SECOND, GPU, BYTE, PIXEL, TOKEN, STEP = (_dim(unit) for unit in BASE_UNITS)

UNITS: Final = MappingProxyType(
    {
        "us": (1e-6, SECOND),
        "ms": (1e-3, SECOND),
        "s": (1.0, SECOND),
        "min": (60.0, SECOND),
        "h": (3600.0, SECOND),
        "gpu": (1.0, GPU),
        "B": (1.0, BYTE),
        "KiB": (2.0**10, BYTE),
        "MiB": (2.0**20, BYTE),
        "GiB": (2.0**30, BYTE),
        "px": (1.0, PIXEL),
        "Mpx": (1e6, PIXEL),
        "tok": (1.0, TOKEN),
        "step": (1.0, STEP),
        "%": (0.01, PLAIN),
    }
)
"""Unit to (factor to the base unit, dimension)."""


def times(a: Dim, b: Dim) -> Dim:
    """Dimension of a product."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5]


def over(a: Dim, b: Dim) -> Dim:
    """Dimension of a quotient."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3], a[4] - b[4], a[5] - b[5]


class Kind(Enum):
    """The five families of types, and the poison that silences follow-up errors."""

    BOOL = "bool"
    NUM = "num"
    INSTANT = "instant"
    ENUM = "enum"
    STR = "str"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Type:
    """One type. `dim` matters for NUM only, `enum` (its name: class, stage, model) for ENUM only."""

    kind: Kind
    dim: Dim = PLAIN
    enum: str = ""

    @property
    def is_num(self) -> bool:
        return self.kind is Kind.NUM

    @property
    def is_error(self) -> bool:
        return self.kind is Kind.ERROR

    def describe(self) -> str:
        """Name for messages: `duration`, `gpu count`, `step/s`, `class`."""
        if self.kind is Kind.ENUM:
            return self.enum
        if self.kind is Kind.NUM:
            return _DIM_NAMES.get(self.dim) or dim_text(self.dim)
        return _KIND_NAMES.get(self.kind, self.kind.name.lower())


def dim_text(dim: Dim) -> str:
    """A dimension as a product of units, such as `step/(s*gpu)`."""
    up = [unit if n == 1 else f"{unit}^{n}" for unit, n in zip(BASE_UNITS, dim, strict=True) if n > 0]
    down = [unit if n == -1 else f"{unit}^{-n}" for unit, n in zip(BASE_UNITS, dim, strict=True) if n < 0]
    if not down:
        return "*".join(up) or "number"
    bottom = down[0] if len(down) == 1 else "(" + "*".join(down) + ")"
    return f"{'*'.join(up) or '1'}/{bottom}"


_KIND_NAMES: Final = {Kind.BOOL: "condition", Kind.STR: "string", Kind.INSTANT: "instant"}

_DIM_NAMES: Final = {
    PLAIN: "number",
    SECOND: "duration",
    GPU: "gpu count",
    BYTE: "byte count",
    PIXEL: "pixel count",
    TOKEN: "token count",
    STEP: "step count",
}

BOOL: Final = Type(Kind.BOOL)
NUM: Final = Type(Kind.NUM)
DUR: Final = Type(Kind.NUM, SECOND)
GPUS: Final = Type(Kind.NUM, GPU)
BYTES: Final = Type(Kind.NUM, BYTE)
PIXELS: Final = Type(Kind.NUM, PIXEL)
TOKENS: Final = Type(Kind.NUM, TOKEN)
STEPS: Final = Type(Kind.NUM, STEP)
INSTANT: Final = Type(Kind.INSTANT)
STR: Final = Type(Kind.STR)
ERROR: Final = Type(Kind.ERROR)

TYPE_NAMES: Final = MappingProxyType(
    {
        "bool": BOOL,
        "num": NUM,
        "ratio": NUM,
        "dur": DUR,
        "gpu": GPUS,
        "bytes": BYTES,
        "px": PIXELS,
        "tok": TOKENS,
        "step": STEPS,
        "str": STR,
    }
)
"""Types that may be written after `:` in `param` and `state`."""


def enum_type(name: str) -> Type:
    """The enumeration called `name`."""
    return Type(Kind.ENUM, PLAIN, name)
