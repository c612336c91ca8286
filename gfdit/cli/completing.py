"""What a shell may complete beyond names of commands and options: policies, workloads, cost models, params, choices.

`attach` is called for a command only while a shell asks for completions; commands know nothing of it. Reads folders
and the text of one policy; imports nothing heavy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.completion import get_completion_inspect_parameters
from typer.core import TyperArgument, TyperOption

from gfdit.cli.app import ASKED
from gfdit.errors import GfditError

_CHOICES = re.compile(r"[\w-]+(?:, [\w-]+)* or [\w-]+(?=[.,;:]|$)")


@dataclass(frozen=True, slots=True)
class Item:
    """One completion, as the shells' scripts take it."""

    value: str
    help: str | None = None
    type: str = "plain"


Source = Callable[[typer.Context, str], Iterable[Item]]


def prepare() -> None:
    """Make the shells known to typer, which an app without `--install-completion` does not do by itself."""
    get_completion_inspect_parameters()


def attach(params: Iterable[object]) -> None:
    """Give the params of a command what they can be completed with."""
    for param in params:
        source = _source(param) if isinstance(param, TyperArgument | TyperOption) else None
        if source is not None:
            param.shell_complete = _answering(source)  # type: ignore[attr-defined]


def _answering(source: Source) -> Callable[[typer.Context, str], list[Item]]:
    def answer(ctx: typer.Context, incomplete: str) -> list[Item]:
        """Those of the source that go on from what was typed; behind a comma, the next one."""
        before, comma, last = incomplete.rpartition(",")
        found = [item for item in source(ctx, last) if item.value.startswith(last)]
        return [Item(f"{before}{comma}{item.value}", item.help) for item in found]

    return answer


def _source(param: TyperArgument | TyperOption) -> Source | None:
    text, shown = getattr(param, "help", None) or "", param.metavar or ""
    match param.name:
        case "policy" | "policies" | "a" | "b" | "show":
            return _policies
        case "files" if shown.startswith("POLICY"):
            return _policies
        case "workload" | "on":
            return lambda ctx, start: _shipped("examples", ".jsonl", start)
        case "cost":
            return lambda ctx, start: _shipped("cost", ".cost.json", start)
        case "set_":
            return _params
        case _:
            choices = _CHOICES.match(text)
            words = re.split(r", | or ", choices[0]) if choices is not None else []
            return (lambda ctx, start: [Item(word) for word in words]) if words else None


def _policies(ctx: typer.Context, start: str) -> Iterable[Item]:
    from gfdit.cli.policies import headline
    from gfdit.policy.library import names, shipped_policy

    if "/" not in start:
        for name in names():
            yield Item(name, headline(shipped_policy(name).read_text("utf-8")))
    yield from _files(start, (".pol", ".py"))


def _shipped(kind: str, suffix: str, start: str) -> Iterable[Item]:
    from gfdit.cli.shipped import shipped

    if "/" not in start:
        yield from (Item(path.name.removesuffix(suffix)) for path in shipped(kind, suffix))
    yield from _files(start, (suffix,))


def _files(start: str, suffixes: tuple[str, ...]) -> Iterable[Item]:
    """Files that go on from `start`. With a folder in it bash is left to itself, which knows where to put no blank."""
    if "/" in start and os.environ.get(ASKED) == "complete_bash":
        return
    folder = start.rpartition("/")[0] or ("/" if start.startswith("/") else ".")
    lead = start[: len(start) - len(start.rpartition("/")[2])]
    try:
        inside = sorted(Path(folder).iterdir())
    except OSError:
        return
    for path in inside:
        if path.is_dir() and not path.name.startswith(".") and lead:
            yield Item(f"{lead}{path.name}/")
        elif path.name.endswith(suffixes):
            yield Item(f"{lead}{path.name}")


def _params(ctx: typer.Context, start: str) -> Iterable[Item]:
    """`NAME=` for every param of the policy on the command line."""
    from gfdit.lang import nodes
    from gfdit.lang.parser import parse
    from gfdit.lang.pieces import expression
    from gfdit.lang.source import Source as Text
    from gfdit.policy.library import find_policy

    named = ctx.params.get("policy") or ctx.params.get("policies") or ctx.params.get("files") or ()
    for name in (named,) if isinstance(named, str) else named:
        try:
            path = find_policy(name)
            text = path.read_text("utf-8") if path.suffix == ".pol" else ""
        except (GfditError, OSError, UnicodeDecodeError):
            continue
        for item in parse(Text(text)).tree.items:
            if isinstance(item, nodes.Param):
                yield Item(f"{item.name.text}=", f"{item.type.text}, {expression(item.default)}")
