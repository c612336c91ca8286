"""`gfdit bench serve`: how a running server does under load. `gfdit.api.load` drives it; this prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gfdit.api.load.measure import Load
    from gfdit.api.load.plan import Shot

FATES = ("completed", "turned_away", "timed_out", "failed")


def serve(
    url: Annotated[str | None, typer.Option(help="The server; default: GFDIT_URL, or http://127.0.0.1:8000.")] = None,
    workload: Annotated[
        str | None, typer.Option("--workload", "-w", help="A workload: a file or a shipped example's name.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Instead: requests a second, in a Poisson process.")
    ] = None,
    for_: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long, such as 60s or 5min.")] = "60s",
    model: Annotated[str | None, typer.Option(help="With --rate: which of the server's models.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="With --rate: in pixels.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="With --rate: more than one asks for videos.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="With --rate: denoising steps.")] = None,
    class_: Annotated[str, typer.Option("--class", help="With --rate: class of service.")] = "standard",
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="With --rate: budget of a request.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals: equal seed, equal load.")] = 0,
    speed: Annotated[
        float, typer.Option(min=0.001, help="Ask and judge this much faster; as the server's --time-scale.")
    ] = 1.0,
    stream: Annotated[bool, typer.Option("--stream", help="Ask for pictures as streams of events.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.01, help="Patience with one request, counted apart.")
    ] = 600.0,
    retries: Annotated[
        int, typer.Option(min=0, help="Send what is turned away again when the server says, so often.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a report there; `.json`: the figures and every request.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="A bar on stderr, on a terminal.")] = True,
) -> None:
    """Ask a running server for a workload, or at a rate, whatever it answers (an open loop), and tell how it did."""
    import json

    from gfdit.api.load.client import Manner
    from gfdit.api.load.measure import figures
    from gfdit.api.load.plan import Like, shots_at
    from gfdit.config import Environment, parse_size

    if (workload is None) == (rate is None):
        raise UsageError("give `--workload` or `--rate`, one of the two", hint="such as --rate 2 --for 60s")
    if rate is not None:
        wanted = Like(model, None if size is None else parse_size(size), frames, steps, class_, deadline)
        shots = shots_at(rate, parse_duration(for_), wanted, seed, speed, stream)
    else:
        assert workload is not None
        shots = _workload_shots(workload, speed, stream)
    environment = Environment.read()
    server = url or environment.url
    load = _drive(shots, Manner(server, environment.api_key, timeout, retries), progress)
    about = {"url": server, "workload": workload, "rate": rate, "seed": seed, "speed": speed, "stream": stream}
    found = {**figures(load), **about}
    if out is not None:
        _write(load, found, out)
    if json_:
        print(json.dumps(found))
    else:
        _print(found)
        if out is not None:
            print(f"report {out}")


def parse_duration(text: str) -> float:
    """`90`, `90s`, `1.5min` or `2h` as seconds. Raises UsageError."""
    units = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    try:
        seconds = float(number) * units[text[len(number) :]]
    except (KeyError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= 30 * 86400:
        raise UsageError(f"`--for {text}` is no duration", hint="such as 60s, 5min or 1h")
    return seconds


def _workload_shots(name: str, speed: float, stream: bool) -> list[Shot]:
    from gfdit.api.load.plan import shots_of
    from gfdit.cli.shipped import find_workload
    from gfdit.runtime.geometry import tokens_of
    from gfdit.runtime.workload import load_workload

    def tokens(model: str, height: int, width: int, frames: int) -> int:
        return tokens_of(model, height, width, frames) or 1  # the server counts for itself

    return shots_of(load_workload(find_workload(name), tokens), speed, stream)


def _drive(shots: Sequence[Shot], manner: Any, progress: bool) -> Load:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    from gfdit.api.load.client import Answer
    from gfdit.api.load.measure import drive

    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    counts = dict.fromkeys(FATES, 0)
    with Progress(*columns, console=terminal, transient=True, disable=not (progress and terminal.is_terminal)) as bar:
        task = bar.add_task("asking", total=len(shots), told="")

        def tell(answer: Answer) -> None:
            counts[str(answer.fate)] += 1
            others = ", ".join(f"{counts[fate]} {fate.replace('_', ' ')}" for fate in FATES[1:] if counts[fate])
            bar.update(task, advance=1, told=others)

        return drive(shots, manner, tell)


def _write(load: Load, found: Mapping[str, Any], out: Path) -> None:
    import json
    from dataclasses import asdict

    if out.suffix == ".json":
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({**found, "answers": [asdict(answer) for answer in load.answers]}), "utf-8")
        return
    from gfdit.report.load import Point, write_load_report

    points = [Point(a.at_s, a.latency_s, a.class_name, str(a.fate), a.on_time) for a in load.answers]
    write_load_report(points, found, out, f"{len(points)} requests to {found['url']}")


def _print(found: Mapping[str, Any]) -> None:
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"{found['requests']} requests to {found['url']}", title_justify="left", box=SIMPLE_HEAD)
    shown.collapse_padding, shown.pad_edge = True, False
    shown.add_column("class", max_width=16, overflow="ellipsis", no_wrap=True)
    for name in ("asked", "done", "429", "timeout", "failed", "on time", "p50 s", "p95 s", "p99 s"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, group in found["classes"].items():
        shown.add_row(name, *_cells(group))
    if len(found["classes"]) > 1:
        shown.add_section()
        shown.add_row("all", *_cells(found), style="bold")
    out = Console(file=sys.stdout, highlight=False)
    out.print(shown)
    for line in _lines(found):
        out.print(line, soft_wrap=True)


def _cells(group: Mapping[str, Any]) -> list[str]:
    latency = group["latency_s"] or {}
    times = ["-" if not latency else f"{latency[percent]:.3g}" for percent in ("p50", "p95", "p99")]
    return [str(group["requests"]), *(str(group[fate]) for fate in FATES), f"{group['attainment']:.1%}", *times]


def _time(seconds: float | None) -> str:
    from gfdit.units import human_s

    return "-" if seconds is None else human_s(seconds)


def _lines(found: Mapping[str, Any]) -> list[str]:
    """What belongs to no class."""
    rates = tuple(found[name] for name in ("asked_per_s", "completed_per_s", "on_time_per_s"))
    lines = ["a second: {:.3g} asked, {:.3g} completed, {:.3g} on time".format(*rates)]
    if found["codes"]:
        lines.append("not completed: " + ", ".join(f"{count} {code}" for code, count in found["codes"].items()))
    if first := found["first_step_s"]:
        lines.append(f"first step seen after {_time(first['p50'])}, 99th percentile {_time(first['p99'])}")
    lag = found["lag_s"]
    behind = "" if lag["p99"] < 0.05 else "; this client was too slow, its lag is part of the latencies"
    lines.append(f"sent within {_time(lag['p99'])} (99th percentile) of when it was due{behind}")
    if server := found["server"]:
        step = "" if server["cpu_s_a_step"] is None else f", {_time(server['cpu_s_a_step'])} a step"
        grown = (server["rss_after"] - server["rss_before"]) / 2**20
        lines.append(
            f"API and controller: {_time(server['cpu_s_a_request'])} of CPU a request{step}; "
            f"memory {server['rss_peak'] / 2**20:.0f} MiB at most, {grown:+.1f} MiB since the start"
        )
    return lines
