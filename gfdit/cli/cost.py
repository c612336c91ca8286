"""`gfdit cost`: the worst-case tick of a policy, line by line, before it ever runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.check import parse_settings
from gfdit.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from gfdit.policy.costing import Bound, Constants, Part

UNITS = ("call_s", "element_s", "object_s", "step_s")
DEFAULT_GPUS = 64
DEAREST = 3
TEXT_MOST = 56


def cost(
    policy: Annotated[str | None, typer.Argument(help="A .pol or .py file, or a shipped policy's name.")] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, help="Live requests on the worst tick (1000).")
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, max=65536, help="Ranks of the cluster (64).")] = None,
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take requests, ranks and constants from a cluster file.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Exit 1 above this; by default the policy's own tick limit.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PARAM=VALUE", help="Override a param.")] = None,
    constants: Annotated[
        str | None, typer.Option(metavar="FILE", help="Constants of the machine it will run on (see --calibrate).")
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure this machine's constants instead.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Bound the worst tick of a policy from what its clauses compute, dearest clause first."""
    import json
    from dataclasses import asdict

    from gfdit.cli.explain import parse_time
    from gfdit.policy.calibrating import calibrate as measure
    from gfdit.policy.cluster import Cluster, load_cluster
    from gfdit.policy.costing import bound
    from gfdit.policy.store import load_policy

    if calibrate:
        print(json.dumps(asdict(measure())))
        return
    if policy is None:
        raise UsageError("`gfdit cost` needs a policy", hint="or --calibrate, to measure this machine")
    loaded = load_policy(policy, parse_settings(set_ or []))
    if loaded.native:
        raise PolicyError(
            f"policy `{loaded.name}` plans in Python: nothing bounds its cost",
            hint="the `tick >` limit of its `fallback` clause holds while it runs",
        )
    program = loaded.program
    size = Cluster((DEFAULT_GPUS,)) if cluster is None else load_cluster(cluster)
    known = size.constants if constants is None else _read(constants)
    found = bound(program, requests or size.requests, gpus or size.gpus, known)
    limit = found.budget_s if budget is None else parse_time(budget) / 1e9
    if json_:
        print(json.dumps(_as_json(program.name, found, limit)))
    else:
        _print(found, limit)
    if limit is not None and found.seconds > limit:
        raise typer.Exit(1)


def _read(path: str) -> Constants:
    """What `--calibrate` printed."""
    import json

    from gfdit.errors import InputError
    from gfdit.policy.costing import Constants

    try:
        values = json.loads(Path(path).read_text("utf-8"))
        return Constants(*(float(values[name]) for name in UNITS))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read constants `{path}`: {error}", hint=f"`gfdit cost --calibrate > {path}` writes them"
        ) from None


def _print(found: Bound, limit: float | None) -> None:
    from gfdit.units import human_s

    print(f" {'line':>4}  {'clause':<{TEXT_MOST}}  {'grows with':<10}  {'worst':>9}  share")
    for part in found.parts:
        seconds = part.work.seconds(found.constants)
        line = str(part.line) if part.line else "-"
        text = part.text if len(part.text) <= TEXT_MOST else part.text[: TEXT_MOST - 3] + "..."
        print(
            f" {line:>4}  {text:<{TEXT_MOST}}  {part.scale:<10}  {human_s(seconds):>9}  {seconds / found.seconds:5.0%}"
        )
    size = found.size
    of = "" if limit is None else f" of {human_s(limit)} ({found.seconds / limit:.0%})"
    print(
        f" worst case {human_s(found.seconds)}{of}: N = {size.requests} requests, G = {size.gpus} ranks, "
        f"S = {size.degrees} degrees, P = {size.placed} placed"
    )
    if limit is not None and found.seconds > limit:
        dear = ", ".join(_named(part) for part in found.parts[:DEAREST])
        print(f" over its limit; the dearest: {dear}")


def _named(part: Part) -> str:
    return f"`{part.id}` in line {part.line}" if part.line else "what every policy does"


def _as_json(name: str, found: Bound, limit: float | None) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "policy": name,
        **asdict(found.size),
        "seconds": found.seconds,
        "budget_s": limit,
        "within_budget": limit is None or found.seconds <= limit,
        "parts": [
            {
                "clause": part.id,
                "line": part.line,
                "text": part.text,
                "scale": part.scale,
                **asdict(part.work),
                "seconds": part.work.seconds(found.constants),
            }
            for part in found.parts
        ],
        "constants": asdict(found.constants),
    }
