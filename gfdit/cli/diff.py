"""`gfdit diff`: what two policies decide differently, asked about the same instants of one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.errors import UsageError

if TYPE_CHECKING:
    from gfdit.core.events import PolicySwapped
    from gfdit.core.proposal import Policy
    from gfdit.policy.differ import Answer, Comparison
    from gfdit.runtime.summary import Ended, Summary

SHOWN = 12


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the same workload ends under each of the two, each driving a run of its own."""

    a: Summary
    b: Summary


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A .pol or .py file, or a shipped policy's name.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    on: Annotated[str, typer.Option("--on", help="A workload (file or shipped name), or a journal.")],
    cost: Annotated[str | None, typer.Option(help="Cost model for a workload: a file or a shipped name.")] = None,
    gpus: Annotated[int, typer.Option(min=1, max=65536, help="Ranks, for a workload.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise, for a workload.")] = 0,
    noise: Annotated[float, typer.Option(min=0.0, max=2.0, help="Relative sigma of task durations.")] = 0.0,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Compare two policies asked about the same instants: A drives a workload, or a journal is replayed.

    A workload is also run under each, to see how its requests end. Exit 1 if the two differ.
    """
    from gfdit.policy.differ import Comparison
    from gfdit.policy.store import load_policy

    comparison = Comparison(load_policy(a), load_policy(b))
    outcomes: Outcomes | None = None
    began = 0.0
    if _is_journal(Path(on)):
        began = _on_journal(Path(on), comparison)
    else:
        outcomes = _on_workload(on, comparison, cost, gpus, seed, noise)
    if json_:
        _print_json(comparison, outcomes, began)
    else:
        _print(comparison, outcomes, began)
    if not comparison.equal:
        raise typer.Exit(1)


def _is_journal(path: Path) -> bool:
    """SQLite files begin with these words."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def _on_journal(path: Path, comparison: Comparison) -> float:
    """Replay with the journal's own policy; both are asked on every tick of it. Returns when it began (s)."""
    from gfdit.policy.differ import Watched
    from gfdit.runtime.journal import JournalReader
    from gfdit.runtime.recipe import recipe_from_json, swapped_in
    from gfdit.runtime.records import TickRecord
    from gfdit.units import to_s

    def load(event: PolicySwapped, earlier: Policy) -> Watched:
        return Watched(swapped_in(event, earlier.driver if isinstance(earlier, Watched) else earlier), comparison)

    reader = JournalReader(path)
    began: int | None = None
    try:
        scheduler = recipe_from_json(reader.meta).scheduler(load)
        scheduler.policy = Watched(scheduler.policy, comparison)
        for record in reader.records():
            if isinstance(record, TickRecord):
                began = record.now if began is None else began
                scheduler.tick(record.now)
            else:
                scheduler.observe(record)
    finally:
        reader.close()
    return to_s(began or 0)


def _on_workload(name: str, comparison: Comparison, cost: str | None, gpus: int, seed: int, noise: float) -> Outcomes:
    from dataclasses import replace

    from gfdit.cli.shipped import find_cost, find_workload
    from gfdit.policy.differ import Driven
    from gfdit.runtime.costfile import load_cost_model
    from gfdit.runtime.geometry import tokens_of
    from gfdit.runtime.workload import load_workload
    from gfdit.sim.run import SimConfig, simulate

    path = find_workload(name)
    if cost is None:
        raise UsageError("a workload needs a cost model", hint="such as --cost qwen-h20, or --on a journal")
    config = SimConfig(
        policy=Driven(comparison),
        requests=load_workload(path, tokens_of),
        workload=path.name,
        cost=load_cost_model(find_cost(cost)),
        gpus=gpus,
        seed=seed,
        noise=noise,
    )
    of_a = simulate(config).summary
    fresh = comparison.b.afresh()
    return Outcomes(of_a, simulate(replace(config, policy=fresh)).summary)


# ---- text -----------------------------------------------------------------------------------------------------------


def _print(comparison: Comparison, outcomes: Outcomes | None, began: float) -> None:
    from gfdit.units import human_s

    a, b = comparison.a, comparison.b
    print(f"a  {a.program.label}")
    print(f"b  {b.program.label}")
    print(f"asked on the same {comparison.ticks} ticks: {comparison.differing or 'none'} differ in order or degree")
    for aspect, counter in comparison.requests.items():
        if counter:
            names = ", ".join(f"{name} ({count}x)" for name, count in counter.most_common(SHOWN))
            more = f", and {len(counter) - SHOWN} more" if len(counter) > SHOWN else ""
            print(f"  {aspect:<6}  {len(counter)} requests: {names}{more}")
    if comparison.first:
        print(f"the first difference, at {human_s(comparison.first[0].at_s - began)}:")
        for one in comparison.first[:SHOWN]:
            print(f"  {one.request}  {one.aspect}")
            print(f"    a  {_answer(one.a)}")
            print(f"    b  {_answer(one.b)}")
        if len(comparison.first) > SHOWN:
            print(f"  and {len(comparison.first) - SHOWN} more")
    if outcomes is not None:
        _print_outcomes(outcomes)


def _answer(answer: Answer) -> str:
    from gfdit.core.proposal import Because

    because = answer.because
    if because is None:
        return answer.text
    if not isinstance(because, Because):
        return f"{answer.text}  {because}"
    values = ", ".join(f"{name} = {value}" for name, value in because.values)
    return f"{answer.text}  {because.clause}, line {because.line}" + (f": {values}" if values else "")


def _print_outcomes(outcomes: Outcomes) -> None:
    figures = outcomes.a.figures(), outcomes.b.figures()
    print("each on its own:")
    rows = [("", "a", "b")]
    for name in ("completed", "rejected", "attainment", "mean_latency_s", "p99_latency_s", "resizes", "preemptions"):
        rows.append((name, _figure(figures[0][name]), _figure(figures[1][name])))
    changed = _changed(outcomes)
    for request_id, one, other in changed[:SHOWN]:
        rows.append((request_id, _ended(one), _ended(other)))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, wide, strict=True)).rstrip())
    if len(changed) > SHOWN:
        print(f"  and {len(changed) - SHOWN} more requests end otherwise")


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ended(one: Ended | None) -> str:
    from gfdit.units import human_s

    if one is None:
        return "not ended"
    return f"{one.end.outcome}{', on time' if one.end.on_time else ''} after {human_s(one.latency_s)}"


def _fate(one: Ended) -> tuple[str, bool]:
    return str(one.end.outcome), one.end.on_time


def _changed(outcomes: Outcomes) -> list[tuple[str, Ended | None, Ended | None]]:
    """Requests whose end differs: fate and punctuality first, then by how much latency changed."""
    ends = [{one.request.id: one for one in summary.ended} for summary in (outcomes.a, outcomes.b)]
    found = []
    for request_id in sorted({*ends[0], *ends[1]}):
        one, other = ends[0].get(request_id), ends[1].get(request_id)
        if one is None or other is None or _fate(one) != _fate(other):
            found.append((0, 0.0, request_id, one, other))
        elif one.end.at != other.end.at:
            found.append((1, -abs(one.latency_s - other.latency_s), request_id, one, other))
    return [(request_id, one, other) for _, _, request_id, one, other in sorted(found, key=lambda item: item[:3])]


# ---- for machines ---------------------------------------------------------------------------------------------------


def _print_json(comparison: Comparison, outcomes: Outcomes | None, began: float) -> None:
    import json

    result: dict[str, object] = {
        "a": {"policy": comparison.a.name, "sha": comparison.a.sha},
        "b": {"policy": comparison.b.name, "sha": comparison.b.sha},
        "equal": comparison.equal,
        "ticks": comparison.ticks,
        "differing_ticks": comparison.differing,
        "requests": {aspect: dict(counter) for aspect, counter in comparison.requests.items()},
        "first": [
            {
                "at_s": one.at_s - began,
                "request": one.request,
                "aspect": one.aspect,
                "a": _answer(one.a),
                "b": _answer(one.b),
            }
            for one in comparison.first
        ],
    }
    if outcomes is not None:
        result["outcomes"] = {"a": outcomes.a.figures(), "b": outcomes.b.figures()}
        result["ends"] = {request_id: [_ended(one), _ended(other)] for request_id, one, other in _changed(outcomes)}
    print(json.dumps(result))
