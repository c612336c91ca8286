"""Finds data files that come with gfdit by bare name: in the package, or beside it in a checkout. A path wins."""

from __future__ import annotations

import difflib
from pathlib import Path

from gfdit.errors import UsageError

PACKAGE = Path(__file__).resolve().parent.parent
COST_SUFFIX = ".cost.json"


def find_cost(name: str) -> Path:
    """A cost model: a path, or a shipped name with or without suffix. Raises UsageError."""
    return _find(name, "cost", COST_SUFFIX, "cost model")


def find_workload(name: str) -> Path:
    """A workload: a path, or the name of a shipped example. Raises UsageError."""
    return _find(name, "examples", ".jsonl", "workload")


def shipped(kind: str, suffix: str) -> list[Path]:
    """The shipped files of a kind, sorted."""
    folder = PACKAGE / "_data" / kind
    return sorted((folder if folder.is_dir() else PACKAGE.parent / kind).glob(f"*{suffix}"))


def _find(name: str, kind: str, suffix: str, what: str) -> Path:
    given = Path(name)
    if given.is_file():
        return given
    known = {path.name: path for path in shipped(kind, suffix)}
    if given.name == name:
        for candidate in (name, name + suffix):
            if candidate in known:
                return known[candidate]
    near = difflib.get_close_matches(name.removesuffix(suffix), [file.removesuffix(suffix) for file in known], n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"shipped: {', '.join(known) or 'none'}"
    raise UsageError(f"no {what} `{name}`: neither a file nor a shipped one", hint=hint)
