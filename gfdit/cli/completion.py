"""`gfdit completion`: what a shell needs to complete commands, options, policies and workloads."""

from __future__ import annotations

from typing import Annotated

import typer

from gfdit.errors import UsageError

SHELLS = ("bash", "zsh", "fish")


def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
) -> None:
    """Print the completion script of a shell, such as: eval "$(gfdit completion bash)"."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    from gfdit.cli.app import ASKED

    if shell not in SHELLS:
        raise UsageError(f"no completion for `{shell}`", hint=f"shells are {', '.join(SHELLS)}")
    print(get_completion_script(prog_name="gfdit", complete_var=ASKED, shell=shell))
