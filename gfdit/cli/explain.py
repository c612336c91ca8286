"""`gfdit explain`: why a request waited, ran where it did and got as much as it did, from the journal of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gfdit.core.proposal import Because
    from gfdit.runtime.explaining import Asked, DegreeAt, Entry, Life, Taken, Ticked

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min|h)?")


def explain(
    journal: Annotated[Path, typer.Argument(help="The journal of a run or a simulation.")],
    request: Annotated[str | None, typer.Argument(help="A request's id; without one, all are listed.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="The latest tick up to this time, such as 12.5s.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Say why: a request's waits, degrees and group changes with the clause that decided, or one tick in full."""
    from gfdit.runtime.explaining import Lives, Replay, asked, known
    from gfdit.runtime.journal import JournalReader

    until = None if at is None else parse_time(at)
    reader = JournalReader(journal)
    try:
        replay = Replay(reader)
        lives = Lives(replay.scheduler)
        last: Ticked | None = None
        for tick in replay.ticks(until):
            lives.take(tick)
            last = tick if until is None or tick.view is not None else last
        if last is None:
            raise UsageError(f"`{journal}` has no tick up to {at or 'its end'}", hint="times count from the first tick")
        life = None if request is None else known(lives.lives, request)
        shown = [] if at is None else asked(last, replay.scheduler)
    finally:
        reader.close()
    began = replay.began or 0
    if json_:
        _print_json(journal, last, shown, life, lives.lives, began, lives.differing)
    elif at is not None:
        _print_tick(last, shown, request, began)
    elif life is not None:
        _print_life(life, last, began)
    else:
        _print_all(lives.lives)
    if lives.differing:
        typer.echo(
            f"note: {lives.differing} decisions differ from the journal's: this version decides otherwise than the one "
            "that ran (`gfdit replay` shows where)",
            err=True,
        )


def parse_time(text: str, option: str = "--at") -> int:
    """`12.5`, `12.5s`, `850ms` or `2min` in nanoseconds; UsageError otherwise."""
    from gfdit.lang.types import UNITS
    from gfdit.units import to_ns

    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"`{option} {text}` is not a time", hint="such as 12.5s, 850ms or 2min")
    return to_ns(float(found[1]) * UNITS[found[2] or "s"][0])


# ---- text -----------------------------------------------------------------------------------------------------------


def _print_all(lives: dict[str, Life]) -> None:
    rows = [("request", "class", "end", "latency", "waited", "sp")]
    for life in sorted(lives.values(), key=lambda life: (life.request.arrival_ns, life.request.id)):
        end = life.entries[-1].text if life.end else life.entries[-1].kind.value
        latency = "" if life.end is None else _s(life.end.at - life.request.arrival_ns)
        degrees = " ".join(map(str, life.degrees))
        rows.append((life.request.id, life.class_name, end, latency, _s(life.waited_ns), degrees))
    _print_table(rows, right=(3, 4))


def _print_life(life: Life, last: Ticked, began: int) -> None:
    program = last.policy.inner.program
    print(f"{life.request.id}  {life.class_name}  {_size(life)}  policy {program.label}")
    if life.end is not None:
        took = f"{life.entries[-1].text} after {_s(life.end.at - life.request.arrival_ns)}"
        spare = "" if life.deadline is None else f", {_s(life.deadline - life.end.at)} before its deadline"
        print(f"  {took}{spare if life.end.on_time else ''}, {_s(life.waited_ns)} of it waiting")
    rows = [("at", "for", "what", "why")]
    for entry in life.entries:
        lasted = "" if entry.until is None else _s(entry.until - entry.at)
        rows.append((_s(entry.at - began), lasted, _what(entry), _why(entry)))
    _print_table(rows, right=(0, 1))
    if life.lines:
        print()
    for (policy, line), text in sorted(life.lines.items()):
        print(f"  {policy}:{line:<4} {text}")


def _print_tick(last: Ticked, shown: Sequence[Asked], request: str | None, began: int) -> None:
    program = last.policy.inner.program
    print(f"tick at {_s(last.now - began)}  policy {program.label}  {len(last.decision.commands)} commands")
    if request is None:
        rows = [("order", "request", "class", "stage", "had", "gets", "keys", "why")]
        for one in shown:
            place = str(one.place) if one.place else "-"
            keys = ", ".join(f"{name} {value}" for name, value in one.keys)
            rows.append(
                (place, one.request, one.class_name, one.stage, str(one.had), str(one.gets), keys, _decided(one))
            )
        _print_table(rows, right=(0, 4, 5))
        return
    mine = next((one for one in shown if one.request == request), None)
    if mine is None:
        print(f"  {request} was not live at that time")
        return
    ordered = sum(one.place > 0 for one in shown)
    place = f"{mine.place} of {ordered} in order" if mine.place else "in the middle of a task: not up for decision"
    aside = ", set aside by triage" if mine.aside else ""
    print(f"  order  {place}{aside}" + "".join(f"  {name} {value}" for name, value in mine.keys))
    print(f"  state  {mine.state}, {mine.stage} next, had {mine.had} gpu, gets {mine.gets} gpu")
    print(f"  why    {_decided(mine)}")
    _print_table(
        [("sp", "step", "remaining", "slack", ""), *(_degree_row(item, mine.gets) for item in mine.degrees)],
        right=(0, 1, 2, 3),
    )


def _degree_row(item: DegreeAt, gets: int) -> tuple[str, ...]:
    from gfdit.units import human_s

    slack = "-" if item.slack_s is None else human_s(item.slack_s)
    return (
        str(item.degree),
        human_s(item.step_s),
        human_s(item.remaining_s),
        slack,
        "<- chosen" if item.degree == gets else "",
    )


def _size(life: Life) -> str:
    request = life.request
    return f"{request.width}x{request.height}, {request.tokens} tok, {request.steps} steps"


def _what(entry: Entry) -> str:
    from gfdit.runtime.explaining import EntryKind
    from gfdit.runtime.timeline import counted, named_ranks

    match entry.kind:
        case EntryKind.RUNS:
            steps = f", {counted(entry.steps, 'step')}" if entry.text == "denoise" else ""
            return f"{entry.text} on {entry.degree} gpu, {named_ranks(entry.ranks)}{steps}"
        case EntryKind.WAITS:
            return f"waits: {entry.reason or 'not yet judged'}"
        case EntryKind.CAPPED:
            return "gives up " + ("all its ranks" if entry.degree == 0 else f"all but {entry.degree} gpu")
        case EntryKind.TOOK:
            return "takes from " + ", ".join(f"{one.request} ({one.before} -> {one.after} gpu)" for one in entry.others)
        case EntryKind.ARRIVED | EntryKind.ADMITTED | EntryKind.SET_BACK:
            return f"{entry.kind}, {entry.text}" if entry.text else str(entry.kind)
        case _:
            return entry.text


def _why(entry: Entry) -> str:
    from gfdit.runtime.explaining import EntryKind

    parts = [_because(entry.because)] if entry.because is not None else []
    if entry.kind is EntryKind.CAPPED:
        parts.append(f"for {entry.others[0].request}")
    elif entry.others and entry.kind is not EntryKind.TOOK:
        parts.append(f"ranks went to {_gone(entry.others)}")
    return "; ".join(parts)


def _gone(others: Sequence[Taken]) -> str:
    return ", ".join(f"{one.request} ({one.before} -> {one.after} gpu)" for one in others)


def _because(because: Because) -> str:
    values = ", ".join(f"{name} = {value}" for name, value in because.values)
    return f"{because.clause}, line {because.line}" + (f": {values}" if values else "")


def _decided(one: Asked) -> str:
    if one.because is not None:
        return _because(one.because)
    return f"waits: {one.reason}" if one.reason is not None else "goes on as it was"


def _print_table(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    """Columns two spaces apart, under a line of heads."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            f"{cell:>{width}}" if column in right else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, wide, strict=True))
        )
        print(("  " + "  ".join(cells)).rstrip())


def _s(ns: int) -> str:
    from gfdit.units import human_s, to_s

    return human_s(to_s(ns)) if ns else "0 s"


# ---- for machines ---------------------------------------------------------------------------------------------------


def _print_json(
    journal: Path,
    last: Ticked,
    shown: Sequence[Asked],
    life: Life | None,
    lives: dict[str, Life],
    began: int,
    differing: int,
) -> None:
    import json
    from dataclasses import asdict

    told = [life] if life is not None else list(lives.values())
    result: dict[str, object] = {
        "journal": str(journal),
        "policy": last.policy.name,
        "policy_sha": last.policy.sha,
        "differing_decisions": differing,
        "requests": [_life_as_json(one, began) for one in told],
    }
    if shown:
        keep = [one for one in shown if life is None or one.request == life.request.id]
        result["tick"] = {"at_s": (last.now - began) / 1e9, "requests": [asdict(one) for one in keep]}
    print(json.dumps(result))


def _life_as_json(life: Life, began: int) -> dict[str, object]:
    return {
        "request": life.request.id,
        "class": life.class_name,
        "outcome": None if life.end is None else life.end.outcome,
        "on_time": None if life.end is None else life.end.on_time,
        "latency_s": None if life.end is None else (life.end.at - life.request.arrival_ns) / 1e9,
        "waited_s": life.waited_ns / 1e9,
        "degrees": life.degrees,
        "entries": [_entry_as_json(entry, began) for entry in life.entries],
    }


def _entry_as_json(entry: Entry, began: int) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "at_s": (entry.at - began) / 1e9,
        "until_s": None if entry.until is None else (entry.until - began) / 1e9,
        "kind": entry.kind,
        "text": entry.text,
        "sp": entry.degree,
        "ranks": entry.ranks,
        "steps": entry.steps,
        "reason": entry.reason,
        "because": None if entry.because is None else asdict(entry.because),
        "others": [asdict(one) for one in entry.others],
    }
