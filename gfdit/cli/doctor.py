"""`gfdit doctor`: whether this machine can serve, and whether a model can be taken apart into steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gfdit.worker.doctor import Check


def doctor(
    model: Annotated[
        Path | None,
        typer.Option(help="A saved diffusers pipeline: a folder, or a hub id in the local cache; default: embedded."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id; default: main.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON object.")] = False,
) -> None:
    """Try what serving needs: the machine first, then the model, whose steps must give its uninterrupted picture."""
    import dataclasses
    import json
    import sys
    from contextlib import nullcontext

    from rich.console import Console

    from gfdit.models.folders import model_folder

    folder = model_folder(model, revision)
    errors = Console(stderr=True)
    with errors.status("trying the machine and the model") if errors.is_terminal else nullcontext():
        machine = _machine()
        name, tried = _model(folder)
    found = {"machine": machine, name: tried}
    failed = [check for checks in found.values() for check in checks if not check.passed]
    if json_:
        told = {part: [dataclasses.asdict(check) for check in checks] for part, checks in found.items()}
        print(json.dumps({"passed": not failed, "checks": told}, indent=1))
    else:
        out = Console(file=sys.stdout, highlight=False)
        for part, checks in found.items():
            out.print(f"[bold]{part}[/]")
            for check in checks:
                out.print(f"  {'[green]ok[/]  ' if check.passed else '[red]FAIL[/]'} {check.name}", end="")
                out.print(f": {check.detail}", markup=False)
    if failed:
        raise typer.Exit(1)


def _machine() -> list[Check]:
    from gfdit.worker.machine import machine_checks

    return machine_checks()


def _model(folder: Path) -> tuple[str, list[Check]]:
    from gfdit.errors import ModelError
    from gfdit.models.folders import model_name
    from gfdit.worker.doctor import Check, examine
    from gfdit.worker.loading import load

    name = f"model {model_name(folder)}"
    try:
        return name, examine(load(folder))
    except ModelError as error:  # cannot be loaded, or cannot be stepped
        return name, [Check("loads", False, str(error))]
