"""`gfdit policies`: the shipped policies, each with the one line it says of itself."""

from __future__ import annotations

from typing import Annotated

import typer


def policies(
    show: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this policy's text instead.")] = None,
) -> None:
    """List the policies that come with gfdit; all are usable by bare name."""
    from gfdit.policy.library import names, shipped_policy

    if show is not None:
        print(shipped_policy(show).read_text("utf-8"), end="")
        return
    wide = max(map(len, names()), default=0)
    for name in names():
        print(f"{name:<{wide}}  {headline(shipped_policy(name).read_text('utf-8'))}")


def headline(text: str) -> str:
    """The description in the policy's first statement: `policy NAME version N "DESCRIPTION"`."""
    head = next((line for line in text.splitlines() if line.startswith("policy ")), "")
    return head.partition('"')[2].rpartition('"')[0]
