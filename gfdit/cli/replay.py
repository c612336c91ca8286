"""`gfdit replay`: a journal's events through a fresh scheduler; its decisions must be the journal's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHOWN = 10


def replay(
    journal: Annotated[Path, typer.Argument(help="The journal of a run or a simulation.")],
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Replay a journal and compare every decision; exit 1 when one differs."""
    import json

    from gfdit.runtime.journal import JournalReader
    from gfdit.runtime.journal import replay as replay_journal
    from gfdit.runtime.recipe import recipe_from_json

    reader = JournalReader(journal)
    try:
        recipe = recipe_from_json(reader.meta)
        ticks, differences = replay_journal(reader, recipe.scheduler())
    finally:
        reader.close()
    if json_:
        print(
            json.dumps({"journal": str(journal), "ticks": ticks, "equal": not differences, "differences": differences})
        )
    else:
        for difference in differences[:SHOWN]:
            print(difference)
        if len(differences) > SHOWN:
            print(f"... and {len(differences) - SHOWN} more")
        verdict = (
            f"{len(differences)} of {ticks} decisions differ" if differences else f"all {ticks} decisions are equal"
        )
        print(f"{journal}: {verdict}")
    if differences:
        raise typer.Exit(1)
