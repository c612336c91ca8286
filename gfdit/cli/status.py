"""`gfdit status`: how a running server is, once, for people or for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from gfdit.runtime.status import Attainment, RequestStatus, Status


def status(
    url: Annotated[str | None, typer.Option(help="The server; default: GFDIT_URL, or http://127.0.0.1:8000.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the server's answer as one JSON object.")] = False,
) -> None:
    """Show the workers, policy, queue and requests of a running `gfdit run`."""
    from gfdit.cli.server_client import get_status, status_json
    from gfdit.config import Environment

    answer = get_status(url or Environment.read().url)
    if json_:
        print(status_json(answer))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for line in summary_lines(answer):
        console.print(line, markup=False)
    if answer.requests:
        console.print(requests_table(answer.requests))


def summary_lines(answer: Status) -> list[str]:
    """What fits on a line each."""
    from gfdit.runtime.timeline import rank_ranges
    from gfdit.units import human_s

    policy, workers, queue = answer.policy, answer.workers, answer.queue
    fallback = ", a fallback" if policy.fallback else ""
    alive = f" (ranks {rank_ranges(workers.alive)})" if workers.alive else ""
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(answer.totals.outcomes.items())) or "none ended"
    return [
        f"model     {answer.model} on {answer.device}, up {human_s(answer.up_s)}"
        + ("" if answer.accepting else ", draining"),
        f"policy    {policy.name}@{policy.version} ({policy.sha[:8]}{fallback})",
        f"workers   {len(workers.alive)}/{workers.expected} alive{alive}, {len(workers.busy)} busy",
        f"requests  {queue.running} running, {queue.paused} paused, {queue.waiting} waiting; "
        f"{answer.totals.arrived} arrived: {ended}",
        "on time   " + ", ".join(map(_share, answer.attainment)),
    ]


def _share(one: Attainment) -> str:
    span = "since the start" if one.seconds is None else f"last {one.seconds // 60} min"
    return f"{span} {'-' if one.share is None else f'{one.share:.0%}'} ({one.on_time}/{one.ended})"


def requests_table(requests: tuple[RequestStatus, ...]) -> Table:
    """One row a live request."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, right in (
        ("request", False), ("class", False), ("size", False), ("step", True), ("sp", True), ("waited", True),
        ("slack", True), ("state", False),
    ):  # fmt: skip
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for one in requests:
        frames = "" if one.frames == 1 else f"x{one.frames}"
        why = "" if one.wait_reason is None else f": {str(one.wait_reason).replace('_', ' ')}"
        table.add_row(
            one.id, one.class_name, f"{one.width}x{one.height}{frames}", f"{one.steps_done}/{one.steps_total}",
            str(one.degree or "-"), f"{one.waited_s:.1f} s", "-" if one.slack_s is None else f"{one.slack_s:+.1f} s",
            f"{one.state}{why}",
        )  # fmt: skip
    return table
