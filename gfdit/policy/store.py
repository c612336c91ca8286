"""From a name, a `.pol` file or a Python file to a policy that the scheduler can run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gfdit.core.proposal import Policy
from gfdit.errors import GfditError, PolicyError, UsageError
from gfdit.lang.check import Checked, check
from gfdit.lang.program import Program
from gfdit.lang.render import render
from gfdit.lang.source import Source
from gfdit.policy import library
from gfdit.policy.builtin import BUILTIN_FCFS, BUILTIN_NAME
from gfdit.policy.bundle import BUNDLE_SUFFIX, Bundle
from gfdit.policy.decorators import TracedPolicy
from gfdit.policy.extending import expanded, expanded_with
from gfdit.policy.native import NativePlan, compiled
from gfdit.policy.planner import CompiledPolicy
from gfdit.policy.vocabulary import schema


def load_policy(name_or_path: str, params: Mapping[str, str] | None = None) -> CompiledPolicy:
    """Read, check and compile a policy and the chain of its fallbacks.

    `name_or_path`: a file (`.pol` or `.py`), a shipped policy's name with or without `.pol`, or `builtin.fcfs`.
    `params`: values for its params as text with units (`{"age_step": "30s"}`); fallbacks keep their defaults. Raises
    PolicyError with the rendered diagnostics, UsageError when there is no such policy.
    """
    return _load(name_or_path, params or {}, (), None)


def compile_text(text: str, name: str = "<policy>", params: Mapping[str, str] | None = None) -> CompiledPolicy:
    """A policy from its text. Fallbacks are looked up among the shipped policies. Raises PolicyError."""
    return _compiled(checked_program(expanded(text, None), name, params), (), None)


def compile_bundle(bundle: Bundle, params: Mapping[str, str]) -> CompiledPolicy:
    """The policy of a bundle; bases and fallbacks are looked for in it first, then among the shipped ones. `params` in
    the place of the bundle's own. Raises PolicyError."""
    return _in_bundle(bundle, bundle.main, bundle.sources[bundle.main], params, ())


def _in_bundle(
    bundle: Bundle, name: str, text: str, params: Mapping[str, str], above: tuple[str, ...]
) -> CompiledPolicy:
    program = checked_program(expanded_with(text, bundle.find), name, params)
    chain, wanted = (*above, program.name), program.fallback.policy
    found = None if wanted in chain else bundle.find(wanted)
    if found is None:
        return CompiledPolicy(program, _fallback(program, chain, None))
    return CompiledPolicy(program, _in_bundle(bundle, f"{wanted}{library.SUFFIX}", found, {}, chain))


def checked_program(text: str, name: str = "<policy>", params: Mapping[str, str] | None = None) -> Program:
    """The checked program of a text. Raises PolicyError with the rendered diagnostics; those of a Python file are about
    the lines of the text that its trace left."""
    checked: Checked = check(Source(text, traced_name(name)), schema(), params)
    if checked.program is None:
        raise PolicyError(render(checked.diagnostics), hint=f"`gfdit check {name}` shows the same")
    return checked.program


def traced_name(name: str) -> str:
    """The name of a policy's text: a place in the trace of a Python file is no line of that file."""
    return f"{name} (traced)" if name.endswith(".py") else name


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy as it was found. `own`: its text; `text`: with what it extends; `shown`: its name for messages;
    `folder`: where it came from; `native`: its plan when that is Python, which then is in no text."""

    own: str
    text: str
    shown: str
    folder: Path | None
    native: NativePlan | None = None


def read_policy(name_or_path: str, beside: Path | None = None) -> PolicyFile:
    """The file of a policy; a Python file is run, and gives the text that its trace says.

    Raises UsageError when there is no such policy, PolicyError when it cannot be read or does not load.
    """
    if name_or_path == BUILTIN_NAME:
        return PolicyFile(BUILTIN_FCFS, BUILTIN_FCFS, BUILTIN_NAME, None)
    path = _find(name_or_path, beside)
    shown = path.name if path.parent == library.folder() else str(path)
    if path.suffix == BUNDLE_SUFFIX:
        raise UsageError(f"`{name_or_path}` is a bundle", hint="`gfdit run` and `gfdit policy push` take bundles")
    if path.suffix == ".py":
        traced = _trace(path)
        return PolicyFile(traced.text, expanded(traced.text, path.parent), shown, path.parent, traced.native)
    try:
        own = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"cannot read policy `{path}`: {error}") from error
    return PolicyFile(own, expanded(own, path.parent), shown, path.parent)


def read_text(name_or_path: str, beside: Path | None = None) -> tuple[str, str, Path | None]:
    """The whole text of a policy, its name for messages, and the folder it came from.

    Raises UsageError when there is no such policy, PolicyError when no text says what it does.
    """
    found = read_policy(name_or_path, beside)
    if found.native is not None:
        raise PolicyError(
            f"policy `{found.shown}` plans in Python (`{found.native.name}`): no text says what it does",
            hint="`gfdit run`, `sim`, `compare`, `check` and `test` take it; converting and sending it are refused",
        )
    return found.text, found.shown, found.folder


def _find(name_or_path: str, beside: Path | None) -> Path:
    """The file of a policy: beside the one that names it, as given, or shipped; else UsageError."""
    if beside is not None:
        for suffix in ("", ".pol", ".py"):
            if (place := beside / f"{name_or_path}{suffix}").is_file():
                return place
    return library.find_policy(name_or_path)


def _load(name: str, params: Mapping[str, str], above: tuple[str, ...], beside: Path | None) -> CompiledPolicy:
    found = read_policy(name, beside)
    return _compiled(checked_program(found.text, found.shown, params), above, found.folder, found.native)


def _compiled(
    program: Program, above: tuple[str, ...], folder: Path | None, native: NativePlan | None = None
) -> CompiledPolicy:
    """`above`: names of the policies that fall back to this one, first to last."""
    return compiled(program, native, _fallback(program, (*above, program.name), folder))


def _fallback(program: Program, chain: tuple[str, ...], folder: Path | None) -> Policy | None:
    if program.source.name == BUILTIN_NAME:
        return None
    if program.fallback.policy in chain:
        circle = " -> ".join((*chain, program.fallback.policy))
        raise PolicyError(
            f"fallbacks go round in a circle: {circle}", hint=f"end the chain with `fallback {BUILTIN_NAME}`"
        )
    try:
        return _load(program.fallback.policy, {}, chain, folder)
    except GfditError as error:
        raise PolicyError(f"fallback `{program.fallback.policy}` of policy `{program.name}`: {error}") from error


def _trace(path: Path) -> TracedPolicy:
    """The one decorated policy that a Python file defines. Runs the file: it is the operator's own."""
    name = f"gfdit_policy_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PolicyError(f"cannot read policy `{path}` as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except PolicyError:
        raise
    except Exception as error:  # whatever the file does wrong is a fault of the policy
        raise PolicyError(f"policy `{path}` does not load: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[name]
    found = [value for value in vars(module).values() if isinstance(value, TracedPolicy)]
    if len(found) != 1:
        raise PolicyError(
            f"`{path}` defines {len(found)} policies, expected 1", hint="decorate one class with `@policy(...)`"
        )
    return found[0]
