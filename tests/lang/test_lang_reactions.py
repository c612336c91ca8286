"""`batch`, `react`, `rollout`, `demote`, `migrate`, and names that came with them: what the checker says and makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gfdit.lang import Source, check
from gfdit.lang import program as ir
from gfdit.lang.check import Checked
from gfdit.lang.format import format_source
from gfdit.policy.vocabulary import schema

HEAD = 'policy p version 1 "t"\n'
REST = "order by arrival\nstage encode, decode, denoise { sp fixed 1 gpu }\n"
DESIGN = Path(__file__).resolve().parents[3] / "shared" / "design" / "language.md"


def checked(text: str) -> Checked:
    return check(Source(HEAD + text + "\n" + REST, "p"), schema())


def program(text: str) -> ir.Program:
    found = checked(text)
    assert found.program is not None, found.diagnostics
    return found.program


def findings(text: str) -> list[str]:
    return [f"{item.code} {item.message} | {' '.join(item.help)}" for item in checked(text).diagnostics]


def test_a_batch_is_made() -> None:
    batch = program("batch by model, tokens max 8 window 200ms where mem(sp_best) <= 90% * gpu_mem").batch
    assert batch is not None
    assert (len(batch.by), batch.most, batch.window, batch.clause.id, batch.clause.line) == (2, 8, 0.2, "batch", 2)
    assert isinstance(batch.where, ir.Compare)
    assert program("").batch is None and program("batch by tokens max 1").batch == ir.Batch(
        program("batch by tokens max 1").batch.by, 1, 0.0, None, program("batch by tokens max 1").batch.clause  # type: ignore[union-attr]
    )  # fmt: skip


def test_reactions_are_made() -> None:
    text = """class bulk otherwise { rank 1 }
mode busy when load > 1 until load < 0.5
react worker_lost do alert "call somebody"
react late when class == bulk do raise 2 for 1min
react busy do shrink to 2 gpu for 30s
react preempted do pause for 5s"""
    reacts = program(text).reacts
    assert [(r.event, r.is_mode, r.of_request, r.action.value, r.amount, r.seconds, r.text) for r in reacts] == [
        ("worker_lost", False, False, "alert", 0.0, None, "call somebody"),
        ("late", False, True, "raise", 2.0, 60.0, ""),
        ("busy", True, False, "shrink", 2.0, 30.0, ""),
        ("preempted", False, True, "pause", 0.0, 5.0, ""),
    ]
    assert [r.clause.id for r in reacts] == [f"react.{n}" for n in (1, 2, 3, 4)]
    assert [r.when is None for r in reacts] == [True, False, True, True]


def test_rollout_and_the_ways_of_taking_are_made() -> None:
    allocate = program("allocate rollout horizon 10 beam 12 maximizing slack(sp) / 1s").allocate
    assert (allocate.kind, allocate.horizon, allocate.beam) == (ir.AllocateKind.ROLLOUT, 10, 12)
    assert not program("allocate rollout horizon 1 beam 1 minimizing remaining(sp)").allocate.maximizing
    (preempt,) = program("preempt for any from any do shrink to 1 gpu else migrate else demote else pause").preempts
    assert [take.action.value for take in preempt.takes] == ["shrink", "migrate", "demote", "pause"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("batch by tokens max 0", "V404 `max` takes a whole number, at least 1"),
        ("batch by tokens max 2.5", "V404 `max` takes a whole number, at least 1"),
        ("batch by tokens max 2 window 3 step", "U205 `window` takes a duration, found a step count"),
        ("batch by tokens max 2 window -1s", "V404 `window` cannot be negative"),
        ("batch by step_time(sp) max 2", None),  # the present degree
        ("batch by next max 2", "N105 `next` means nothing in a `batch` clause"),
        ("batch by tokens max 2\nbatch by model max 3", "N106 `batch` is given twice"),
        ("batch by tokens max 2 where tokens", "T302 a condition takes a condition, found a token count"),
        ("react wroker_lost do alert", "N104 unknown event `wroker_lost` | did you mean `worker_lost`?"),
        ("react busy do alert", "N104 unknown event `busy`"),
        ("react late do shrink to 2 gpu", "T301 `shrink` needs a time after which it ends"),
        ("react late do shrink to 2 gpu", "write `shrink to 2 gpu for 10s`"),
        ("react late do pause", "T301 `pause` needs a time after which it ends | write `pause for 10s`"),
        ("react late do raise 0", "V404 `raise` must be above zero"),
        ("react late do raise 1 gpu", "U205"),
        ("react late do shrink to 0 gpu for 1s", "V404 `shrink to` takes a whole number, at least 1"),
        ("react late do pause for 0s", "V404 `for` must be above zero"),
        ("react late when next > 1 gpu do alert", "N105 `next` means nothing in a `react` condition"),
        ("react late do replan", "P001 unexpected `replan`"),
        ("allocate rollout horizon 0 beam 2 minimizing sp / 1 gpu", "V404 `horizon` takes a whole number, at least 1"),
        ("allocate rollout horizon 10 beam 301 minimizing remaining(sp)", "V404 a rollout of horizon 10 and beam 301"),
        ("allocate rollout horizon 2 beam 2 minimizing finish(sp)", "T302 a rollout adds numbers up, found instant"),
        ("allocate rollout horizon 2 beam 2 minimizing weight", "L503 the value is the same for every degree"),
        ("preempt for any from any do demote to 1 gpu", "T301 `demote` takes no `to`"),
        ("param gpu_mem: bytes = 1 GiB", "N106 `gpu_mem` is a built-in name"),
        ("param window: dur = 1s\nguard g: window < 2s else alert", None),
        ("guard g: miss_rate(nobody) < 1% else alert", "N103 unknown class `nobody`"),
        ("guard g: miss_rate(any) < 1% and gpu_mem > 1 GiB and window == 0s else alert", None),
        ("guard g: alerts == 0 else alert", "N105 `alerts` means nothing in a condition on the whole system"),
        ("let a = last_gpus\nadmit { reject when a > 2 gpu }", None),
        ("admit { degrade to cache = 15% step }", "P001"),
        ("admit { degrade to cache = 15 step }", "U205 knob `cache` takes a number, found a step count"),
        ("admit { degrade to cahce = 15% }", "N104 unknown knob `cahce` | did you mean `cache`?"),
    ],
)  # fmt: skip
def test_what_is_said(text: str, wanted: str | None) -> None:
    found = [line for line in findings(text) if not line.startswith("L508")]
    assert (found == []) if wanted is None else any(wanted in line for line in found), found


def test_an_event_that_is_a_mode_uses_it() -> None:
    assert not findings("mode busy when load > 1 until load < 0.5\nreact busy do alert")


@pytest.mark.parametrize(
    "clause",
    [
        "batch by model, tokens max 8",
        "batch by tokens max 8 window 200ms where mem(sp_best) <= 90% * gpu_mem",
        'react late when age > 60s do alert "a request is late"',
        "react worker_lost do alert",
        "react late do raise 1",
        "react late do raise 1 for 60s",
        "react late do shrink to 2 gpu for 30s",
        "react late do pause for 5s",
    ],
)
def test_formatting_is_the_clause_itself(clause: str) -> None:
    assert format_source(HEAD + "\n" + clause + "\n") == HEAD + "\n" + clause + "\n"


@pytest.mark.skipif(not DESIGN.is_file(), reason="the shared design pages are not here")
def test_every_program_of_the_design_is_without_findings() -> None:
    """The worked examples and both published programs, exactly as written."""
    programs = re.findall(r"```\n(policy .*?)```", DESIGN.read_text("utf-8"), re.S)
    shipped = {"fcfs_static", "edf_best_fit", "builtin.fcfs"}
    assert len(programs) == 9
    for text in programs:
        found = check(Source(text, text.split()[1]), schema(), policies=shipped)
        assert found.ok and not found.diagnostics, (text.split()[1], found.diagnostics)
        assert len(text.splitlines()) <= 23


NAMES = {
    "class stage model tag tenant priority arrival deadline slo tokens pixels width height frames steps_total alone",
    "age waited tier steps_done steps_left sp last_gpus preemptions paused_for waiting running late lateness",
    "now gpus free load gpu_mem arrival_gap arrival_rate window rank weight miss sp_best",
}
FUNCTIONS = (
    "step_time remaining finish slack gain mem queued longest_wait miss_rate free busy backlog ewma clamp max min"
)


def test_every_word_of_the_design_is_one_of_the_language() -> None:
    words = schema()
    assert {name for line in NAMES for name in line.split()} <= set(words.attributes)
    assert {"sp", "next"} == set(words.degrees)
    assert set(FUNCTIONS.split()) <= set(words.functions)
    assert {kind.value for kind in ir.AggregateKind} == {"count", "sum", "mean", "max", "min"}
