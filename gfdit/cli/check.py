"""`gfdit check`: what is wrong with a policy, with carets, before it runs. Imports neither torch, numpy nor rich."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.findings import known_format, show
from gfdit.errors import InputError, UsageError

if TYPE_CHECKING:
    from gfdit.lang.check import Checked
    from gfdit.policy.cluster import Cluster


def check(
    files: Annotated[
        list[str], typer.Argument(metavar="POLICY...", help="Files, folders, shipped names, or - for stdin.")
    ],
    format_: Annotated[str, typer.Option("--format", help="pretty, short, json, github or junit.")] = "pretty",
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="Check against a cluster of this size.")] = None,
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check against this cluster: size, memory, models, worst tick.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PARAM=VALUE", help="Override a param.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 on warnings too.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Check policies: syntax, names, types, units, ranges, and what was probably not meant."""
    from gfdit.lang.render import summary

    style = known_format("json" if json_ else format_)
    params = parse_settings(set_ or [])
    against = read_cluster(cluster, gpus)
    results = [(name, check_text(name, text, params, gpus, against)) for name, text in read_policies(files)]
    found = [item for _, result in results for item in result.diagnostics]
    show([(name, result.diagnostics) for name, result in results], style)
    if style == "pretty":
        count = f"{len(results)} policies" if len(results) > 1 else results[0][0]
        gap = "\n" if found else ""
        typer.echo(f"{gap}{count}: {summary(found) or 'ok'}")
    failed = any(not result.ok for _, result in results)
    warned = any(item.severity.value == "warning" for item in found)
    if failed or (strict and warned):
        raise typer.Exit(1)


def read_cluster(path: Path | None, gpus: int | None) -> Cluster | None:
    """The cluster file of `--cluster`, which has a size of its own."""
    if path is None:
        return None
    if gpus is not None:
        raise UsageError("`--gpus` and `--cluster` exclude each other", hint="the cluster file says how many GPUs")
    from gfdit.policy.cluster import load_cluster

    found = load_cluster(path)
    if found.cost is None:
        return found
    from gfdit.cli.shipped import find_cost
    from gfdit.runtime.costfile import load_cost_model

    beside = path.parent / found.cost
    return found.knowing(load_cost_model(beside if beside.is_file() else find_cost(found.cost)))


def check_text(
    name: str, text: str, params: dict[str, str], gpus: int | None = None, cluster: Cluster | None = None
) -> Checked:
    """Checks one policy against the vocabulary; its neighbours and the shipped policies may be fallbacks."""
    from gfdit.lang.source import Source
    from gfdit.policy.checking import check_policy
    from gfdit.policy.extending import expanded
    from gfdit.policy.library import fallback_names

    policies = fallback_names(Path(name))
    text = expanded(text, Path(name).resolve().parent)
    return check_policy(Source(text, name), params, gpus=gpus, cluster=cluster, policies=policies)


def read_policies(files: list[str]) -> list[tuple[str, str]]:
    """Names as typed and texts; a folder stands for its policies, `-` for standard input."""
    from gfdit.policy.library import policies_in

    found: list[tuple[str, str]] = []
    for name in files:
        if name == "-":
            found.append(("<stdin>", sys.stdin.read()))
        elif Path(name).is_dir():
            inside = policies_in(Path(name))
            if not inside:
                raise UsageError(f"no policies in folder `{name}`", hint="policy files end in .pol")
            found += [(str(path), read_text(path)) for path in inside]
        else:
            found.append(_named(name))
    return found


def _named(name: str) -> tuple[str, str]:
    from gfdit.policy.library import SUFFIX, TESTS_SUFFIX, find_policy

    path = find_policy(name)
    policy = path.with_name(path.name.removesuffix(TESTS_SUFFIX) + SUFFIX)
    if path.name.endswith(TESTS_SUFFIX) and policy.is_file():
        raise UsageError(
            f"`{name}` holds the tests of `{policy.name}`", hint=f"`gfdit test {policy}` checks and runs them"
        )
    if path.suffix == ".py":  # the text that its trace says; the import costs what the language alone does not
        from gfdit.policy.store import read_policy, traced_name

        return traced_name(name), read_policy(name).text
    return (name if path == Path(name) else path.name), read_text(path)


def read_text(path: Path) -> str:
    """The text of a policy file; InputError when it cannot be read."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})", hint="save the policy as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def parse_settings(settings: list[str]) -> dict[str, str]:
    """`["age_step=30s"]` as a mapping."""
    params: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UsageError(f"`--set {setting}` is not PARAM=VALUE", hint="such as --set age_step=30s")
        params[name.strip()] = value.strip()
    return params
