"""Finds policies: the shipped ones by bare name, any other by path. Reads folders, never the text of a policy."""

from __future__ import annotations

from pathlib import Path

from gfdit.errors import UsageError
from gfdit.lang.diagnostics import did_you_mean, listing

SUFFIX = ".pol"
TESTS_SUFFIX = "_test.pol"


def folder() -> Path:
    """Where the shipped policies lie: inside the package, or in the repository that the package lies in."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "_data" / "policies"
    return shipped if shipped.is_dir() else package.parent / "policies"


def names() -> tuple[str, ...]:
    """Names of the shipped policies, sorted, without suffix."""
    return tuple(sorted(path.stem for path in policies_in(folder())))


def policies_in(place: Path) -> list[Path]:
    """The policy files of a folder, sorted; files of tests (`NAME_test.pol`) are none."""
    return sorted(path for path in place.glob(f"*{SUFFIX}") if not path.name.endswith(TESTS_SUFFIX))


def shipped_policy(name: str) -> Path:
    """The file of a shipped policy, by name with or without suffix; UsageError with suggestions when there is none."""
    stem = name.removesuffix(SUFFIX)
    if stem in names():
        return folder() / f"{stem}{SUFFIX}"
    near = did_you_mean(stem, names())
    hint = " ".join([*near, f"shipped policies are {listing(names(), 'and', limit=40)}"])
    raise UsageError(f"no policy `{name}`: neither a file nor a shipped policy", hint=hint)


def find_policy(name: str) -> Path:
    """An existing file wins, then a bare name among the shipped policies; UsageError otherwise."""
    path = Path(name)
    if path.is_file():
        return path
    if path.name != name or path.is_dir():
        raise UsageError(f"no policy file `{name}`", hint=f"shipped policies are {listing(names(), 'and', limit=40)}")
    return shipped_policy(name)


def fallback_names(path: Path) -> frozenset[str]:
    """Names that a policy in `path` may fall back to: its neighbours and the shipped ones."""
    beside = {other.stem for other in policies_in(path.resolve().parent)}
    return frozenset(beside | set(names()))
