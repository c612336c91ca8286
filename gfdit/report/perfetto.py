"""A run as a Chrome trace (JSON object format), which the Perfetto UI and chrome://tracing open.

One thread a rank with a slice a task, named after its request, so that viewers colour by request; the hand-over at its
beginning is a slice inside it. An arrow leads from the task that made a state to each rank that got it. Counters show
the queue and the busy ranks; a second process has a row a request, from arrival to end. It reads a timeline, no clock.

Format: "Trace Event Format" (the Chromium project); times are microseconds, here with nanoseconds as decimals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gfdit.core.work import Stage
from gfdit.runtime.journal import JournalReader
from gfdit.runtime.recipe import recipe_from_json
from gfdit.runtime.timeline import Life, NoteKind, Span, Task, Timeline

Event = Mapping[str, object]

RANKS, REQUESTS = 1, 2  # process ids; thread ids are rank + 1, since 0 has a meaning of its own in some viewers
MARKS = frozenset({
    NoteKind.MISSED, NoteKind.REJECTED, NoteKind.FAILED, NoteKind.CANCELLED, NoteKind.SET_BACK, NoteKind.JOINED,
    NoteKind.LOST, NoteKind.POLICY,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class TraceCounts:
    """What a trace holds: slices of tasks, and arrows."""

    slices: int
    arrows: int


def write_trace(timeline: Timeline, path: Path, about: Mapping[str, object] | None = None) -> TraceCounts:
    """Write the trace of an unbounded timeline to `path`. `about`: what viewers show as the trace's own data."""
    slices = arrows = 0
    with path.open("w", encoding="utf-8") as file:
        other = json.dumps({name: str(value) for name, value in (about or {}).items() if value is not None})
        file.write(f'{{"displayTimeUnit": "ms", "otherData": {other}, "traceEvents": [')
        for n, event in enumerate(trace_events(timeline)):
            file.write((",\n" if n else "\n") + json.dumps(event, separators=(",", ":")))
            slices += event["ph"] == "X" and event.get("cat") != "handover"
            arrows += event["ph"] == "s"
        file.write("\n]}\n")
    return TraceCounts(slices, arrows)


def trace_of_journal(journal: Path, path: Path) -> tuple[Timeline, TraceCounts]:
    """Write the trace of the run that `journal` recorded. Raises JournalError for a bad journal."""
    reader = JournalReader(journal)
    try:
        recipe = recipe_from_json(reader.meta)
        timeline = Timeline.from_journal(reader, recipe.gpus)
    finally:
        reader.close()
    about = {"policy": timeline.policy, "gpus": recipe.gpus, **recipe.about}
    return timeline, write_trace(timeline, path, about)


def trace_events(timeline: Timeline) -> Iterator[Event]:
    """All events: names first, then tracks one after the other; each track's are in the order of time."""
    yield from _names(timeline)
    spans = timeline.spans()
    for rank in sorted(spans):
        for span in spans[rank]:
            yield from _slices(timeline, span)
    yield from _arrows(timeline, spans)
    yield from _counters(timeline)
    for number, life in enumerate(timeline.lives.values(), 1):
        yield from _life(life, number, timeline.now)
    yield from _marks(timeline)


def _us(ns: int) -> float:
    return ns / 1000


def _named(what: str, pid: int, name: str, tid: int = 0) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _names(timeline: Timeline) -> Iterator[Event]:
    for pid, name in ((RANKS, "ranks"), (REQUESTS, "requests")):
        yield _named("process_name", pid, name)
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    for rank in timeline.ranks:
        yield _named("thread_name", RANKS, f"rank {rank}", rank + 1)
        yield {
            "ph": "M", "name": "thread_sort_index", "pid": RANKS, "tid": rank + 1, "args": {"sort_index": rank},
        }  # fmt: skip


# ---- ranks ------------------------------------------------------------------------------------------------------


def _slices(timeline: Timeline, span: Span) -> Iterator[Event]:
    """The task on one rank, and its hand-over as a slice inside."""
    command = span.task.command
    where: dict[str, object] = {"pid": RANKS, "tid": span.rank + 1, "ts": _us(span.start)}
    yield {
        "ph": "X", "name": command.request_id, "cat": "give" if span.gives else str(command.stage), **where,
        "dur": _us(span.end - span.start), "args": _arguments(timeline.lives[command.request_id], span),
    }  # fmt: skip
    if span.handover_end > span.start and not span.gives:
        kind = "restore" if command.restore else "hand-over"
        yield {"ph": "X", "name": kind, "cat": "handover", **where, "dur": _us(span.handover_end - span.start)}


def _arguments(life: Life, span: Span) -> dict[str, object]:
    task, command = span.task, span.task.command
    arguments: dict[str, object] = {
        "request": command.request_id,
        "class": life.request.class_name,
        "size": f"{life.request.width}x{life.request.height}x{life.request.frames}",
        "stage": str(command.stage),
        "degree": len(command.ranks),
        "ranks": list(command.ranks),
        "epoch": command.epoch,
        "compute_ms": task.busy_ns / 1e6,
        "handover_ms": task.handover_ns / 1e6,
    }
    if command.stage is Stage.DENOISE:
        arguments["step"] = f"{command.first_step + command.steps}/{command.steps_total}"
    if command.sources:
        arguments["state_from"] = list(command.sources)
    if span.gives:
        arguments["gives"] = True
    if task.failed:
        arguments["failed"] = task.failed
    return arguments


def _arrows(timeline: Timeline, spans: Mapping[int, list[Span]]) -> Iterator[Event]:
    """Where each state that moved was made, and where it went. An end of an arrow belongs to the slice around it."""
    slice_of = {(span.task.command.epoch, span.rank): span for lane in spans.values() for span in lane}
    made: dict[str, Task] = {}  # request -> the newest task of it that finished
    number = 0
    for task in timeline.tasks:
        command = task.command
        before = made.get(command.request_id)
        if before is not None and command.has_handover:
            maker = _maker(before, command.sources)
            origin = slice_of[before.command.epoch, maker]
            for rank in command.ranks:
                target = slice_of[command.epoch, rank]
                if rank in command.sources or origin.end > target.start:
                    continue
                number += 1
                yield from _arrow(number, "restore" if command.restore else "hand-over", origin, target)
        if task.end is not None and not task.failed:
            made[command.request_id] = task


def _maker(before: Task, sources: tuple[int, ...]) -> int:
    """The rank that the arrows start from: the first one that made the state and gives it."""
    return next((rank for rank in before.command.ranks if rank in sources), before.command.ranks[0])


def _arrow(number: int, name: str, origin: Span, target: Span) -> Iterator[Event]:
    inside = min(1000, (origin.end - origin.start) // 2)  # viewers bind an end to the slice that is open then
    common: dict[str, object] = {"name": name, "cat": "state", "id": number, "pid": RANKS}
    yield {"ph": "s", **common, "tid": origin.rank + 1, "ts": _us(origin.end - inside)}
    yield {"ph": "f", "bp": "e", **common, "tid": target.rank + 1, "ts": _us(target.start)}


def _counters(timeline: Timeline) -> Iterator[Event]:
    for sample in timeline.samples:
        for name, values in (
            ("queue", {"waiting": sample.waiting, "paused": sample.paused}),
            ("busy ranks", {"busy": sample.busy}),
            ("workers", {"alive": sample.workers}),
        ):
            yield {"ph": "C", "name": name, "pid": RANKS, "tid": 0, "ts": _us(sample.at), "args": values}


# ---- requests ---------------------------------------------------------------------------------------------------


def _life(life: Life, number: int, now: int) -> Iterator[Event]:
    """A row from arrival to end, with a slice for each time on one group inside."""
    request = life.request
    common: dict[str, object] = {"cat": "request", "id": number, "pid": REQUESTS, "tid": 0}
    end = now if life.end is None else life.end.at
    arguments: dict[str, object] = {
        "class": request.class_name,
        "tenant": request.tenant,
        "priority": request.priority,
        "state": str(life.state),
        "waited_ms": life.wait_ns / 1e6,
        "resizes": life.resizes,
        "preemptions": life.preemptions,
        "attempts": life.attempts,
    }
    if life.end is not None:
        arguments["on_time"] = life.end.on_time
    yield {"ph": "b", "name": request.id, **common, "ts": _us(request.arrival_ns), "args": arguments}
    for stint in life.stints:
        name = f"{stint.stage} sp {stint.degree}"
        stop = min(end, end if stint.end is None else stint.end)
        inner = {"ranks": list(stint.ranks), "first_step": stint.first_step, "steps": stint.steps}
        yield {"ph": "b", "name": name, **common, "ts": _us(stint.start), "args": inner}
        yield {"ph": "e", "name": name, **common, "ts": _us(max(stint.start, stop))}
    yield {"ph": "e", "name": request.id, **common, "ts": _us(max(end, request.arrival_ns))}


def _marks(timeline: Timeline) -> Iterator[Event]:
    for note in timeline.notes:
        if note.kind in MARKS:
            name = note.kind.value if note.life is None else f"{note.kind.value} {note.life.request.id}"
            yield {
                "ph": "i", "s": "p", "name": name, "cat": "note", "pid": RANKS, "tid": 0, "ts": _us(note.at),
                "args": {"text": note.text},
            }  # fmt: skip
