"""`gfdit lsp`: the language server that editors start; see `grammar/vscode` and docs/how-to/edit-policies.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def lsp(
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="Check against a cluster of this size.")] = None,
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check against this cluster: size, memory, models, worst tick.")
    ] = None,
) -> None:
    """Serve editors: the Language Server Protocol on standard input and output."""
    from gfdit.cli.check import read_cluster
    from gfdit.editor.server import make_server

    make_server(gpus, read_cluster(cluster, gpus)).start_io()
