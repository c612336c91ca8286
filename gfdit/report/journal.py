"""A report from a journal alone: the journal knows the policy, the cluster, every event and every decision."""

from __future__ import annotations

from pathlib import Path

from gfdit.core.events import Event
from gfdit.core.scheduler import Decision
from gfdit.report.page import write_report
from gfdit.runtime.journal import JournalReader
from gfdit.runtime.recipe import Recipe, recipe_from_json
from gfdit.runtime.records import TickRecord
from gfdit.runtime.summary import Summary
from gfdit.runtime.timeline import Timeline


def report_of_journal(journal: Path, path: Path, title: str = "") -> Path:
    """Write the page about the run that `journal` recorded; returns `path`. Raises JournalError for a bad journal."""
    reader = JournalReader(journal)
    try:
        recipe = recipe_from_json(reader.meta)
        timeline = Timeline(recipe.gpus)
        figures = _read(reader, recipe, timeline)
    finally:
        reader.close()
    workload = recipe.about.get("workload") or "requests over HTTP"
    device = recipe.about.get("device", "")
    write_report(
        timeline,
        {**_about(recipe, timeline), **figures},
        path,
        title or f"{workload} under {timeline.policy}" + (f", {recipe.gpus} {device} ranks" if device else ""),
        recipe.policies[0].text,
    )
    return path


def _read(reader: JournalReader, recipe: Recipe, timeline: Timeline) -> dict[str, object]:
    """Fill the timeline; the figures of the run."""
    summary = Summary(recipe.gpus)
    events: list[Event] = []
    for record in reader.records():
        if not isinstance(record, TickRecord):
            events.append(record)
            continue
        timeline.update(record.now, events, record.commands, record.moves, record.policy, record.policy_news)
        decision = Decision(record.commands, record.next_tick_at, record.moves, policy_news=record.policy_news)
        summary.record(record.now, events, decision, record.seconds)
        events = []
    return {**summary.figures(), "resizes_by_kind": summary.resizes_by_kind()}


def _about(recipe: Recipe, timeline: Timeline) -> dict[str, object]:
    """What the page's subtitle names. The policy is the one in force at the end."""
    about: dict[str, object] = {"policy": timeline.policy, "gpus": recipe.gpus}
    about.update({name: value for name, value in recipe.about.items() if value is not None})
    if recipe.params:
        about["params"] = ", ".join(f"{name}={value}" for name, value in recipe.params.items())
    return about
