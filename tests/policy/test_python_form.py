"""The decorated Python form gives the program that the text gives, and refuses what cannot be traced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gfdit.errors import PolicyError
from gfdit.lang.frozen import changed
from gfdit.lang.parser import parse
from gfdit.lang.source import Source
from gfdit.policy import (
    accept,
    admit,
    aging,
    alert,
    allocate_rollout,
    arrival,
    backfill,
    batch,
    call,
    choose,
    count,
    deadline,
    degrade,
    demote,
    gpu,
    grow,
    let,
    migrate,
    minutes,
    mode,
    ms,
    name,
    now,
    order_by,
    param,
    pause,
    percent,
    pol,
    policy,
    pool,
    preempt,
    priority,
    raise_tier,
    react,
    reject,
    resize,
    s,
    service_class,
    shrink,
    sp_best,
    stage,
    stages,
    state,
    step,
    surplus,
    tag,
    tick,
    tier,
    triage,
    wait,
    where,
)
from gfdit.policy.decorators import TracedPolicy
from gfdit.policy.store import checked_program, load_policy

PYTHON_FILE = """
from gfdit.policy import arrival, choose, deadline, gpu, greedy, grow, ms, order_by, policy, priority, stage, stages

@policy(
    version=2,
    title="EDF; smallest SP degree that meets the deadline; surplus to the most urgent",
    fallback="fcfs_static",
    tick_limit=50 * ms,
)
class EdfBestFit:
    order = order_by(deadline, -priority, arrival)
    single = stages("encode", "decode", sp=1 * gpu)

    @stage("denoise", degrees=(1, 2, 4, 8) * gpu, prefer=("last_gpus", "same_node"))
    def width(r, sp):
        return choose(smallest=sp, where=r.finish(sp) <= r.deadline) | choose(minimizing=r.finish(sp))

    @grow("denoise")
    def wider(r, sp, nxt):
        return r.finish(nxt) < r.finish(sp)

    allocate = greedy()
"""


def test_edf_best_fit_in_python_is_the_program_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "edf.py"
    path.write_text(PYTHON_FILE, encoding="utf-8")
    from_python = load_policy(str(path)).program
    from_text = load_policy("edf_best_fit").program
    assert from_text.tests and not from_python.tests  # tests are for the text form
    assert from_python == changed(
        from_text, tests=(), uses=from_python.uses
    )  # spans, lines and hashes are not compared
    assert load_policy(str(path)).sha != load_policy("edf_best_fit").sha


def test_the_fuller_form_prints_as_text_would() -> None:
    @policy(version=4, name="everything", fallback="edf_best_fit", tick_limit=5 * ms)
    class Everything:
        age_step = param("age_step", "dur", 45 * s, within=(5 * s, 10 * minutes))
        rate = let("rate", 1 * step / (call("step_time", sp_best) * sp_best))
        interactive = service_class("interactive", tag == "ui", slo=8 * s, rank=0, weight=10, miss=1 * percent)
        batch = service_class("batch", slo=30 * minutes, rank=2, weight=1, preemptible=True)
        intake = admit(
            reject((name("class") == name("batch")) & (call("queued", name("batch")) >= 500), "batch queue is full"),
            degrade(count(where=name("waiting")) > 20, steps=call("max", name("steps") * (70 * percent), 12 * step)),
            accept(),
        )
        order = order_by(tier, -rate, arrival)
        lost = triage(deadline, margin=90 * percent, shed_most=name("gpu_time") / name("weight"))
        older = aging(age_step, raise_by=1, until_tier=0)
        single = stages("encode", "decode", sp=1 * gpu)

        @stage("denoise", degrees=(1, 2, 4) * gpu, hold=5 * s, sticky=10 * percent, reserve=300 * ms)
        def width(r, sp):  # type: ignore[no-untyped-def]
            urgent = where(r.late, 2, 1) * r.remaining(sp)
            return choose(smallest=sp, where=~r.late & (now + urgent <= r.deadline)) | choose(largest=sp) | wait

        @grow("denoise", most=4 * gpu)
        def wider(r, sp, nxt):  # type: ignore[no-untyped-def]
            return r.gain(nxt) > 110 * percent

        take = preempt(
            ["interactive"],
            ["batch"],
            (shrink(1 * gpu), pause()),
            when=call("slack", sp_best) < 0 * s,
            by=[-call("slack", name("sp"))],
            limit=(4, 10 * s),
            protect=5 * s,
        )
        allocate = backfill(16)
        when = tick(every=20 * ms, on=["arrival", "step_end"])

    assert isinstance(Everything, TracedPolicy)
    program = checked_program(Everything.text)
    assert program.name == "everything" and len(program.preempts) == 1 and program.allocate.depth == 16
    assert parse(Source(Everything.text)).tree == Everything.tree
    for line in (
        "order by tier, rate desc, arrival",
        "preempt for interactive when slack(sp_best) < 0s from batch by slack(sp) desc",
        "aging every age_step raise 1 until tier 0",
    ):
        assert line in Everything.text


def test_every_clause_can_be_written() -> None:
    @policy(version=1, name="all", extends="fcfs", fallback="fcfs", errors=None)
    class All:
        rush = mode("rush", name("load") > 2, name("load") < 1, when_for=5 * s)
        price = state("price", "num", 0, name("price") + 1, within=(0, 8), every=500 * ms, per="class")
        aux = pool("aux", 2 * gpu)
        dit = pool("dit")
        more = resize("aux", 1 * gpu, call("backlog", name("aux")) > 3 * s, (1 * gpu, 6 * gpu), cooldown=15 * s)
        lost = triage(deadline, shed_least=name("weight"), reject="")
        single = stages("encode", "decode", sp=1 * gpu, on="aux", lanes=4, spill=("dit", rush))

        @stage("denoise", degrees=(1, 2) * gpu, on="dit", hold="done", prefer="pack")
        def width(r, sp):  # type: ignore[no-untyped-def]
            return choose(smallest=sp)

        @grow("denoise")
        def wider(r, sp, nxt):  # type: ignore[no-untyped-def]
            return surplus(-r.gain(nxt), arrival)

        take = preempt(["ui"], ["any"], (demote(), migrate()))

        @allocate_rollout(10, 12)
        def value(r, sp):  # type: ignore[no-untyped-def]
            return r.step_time(sp) * r.price

        together = batch(name("model"), name("tokens"), most=8, window=200 * ms, where=name("waiting"))
        first = react("worker_lost", shrink(1 * gpu, lasting=30 * s), when=name("late"))
        second = react("rush", raise_tier(1))
        third = react("late", alert("a request is late"))
        fourth = react("preempted", pause(lasting=5 * s))
        shown = pol('test "t" { expect free == 8 gpu }')

    assert isinstance(All, TracedPolicy)
    assert All.text.splitlines() == [
        "policy all version 1 extends fcfs",
        "",
        "mode rush when load > 2 for 5s until load < 1",
        "state price[class]: num = 0 within 0 .. 8 next price + 1 every 500ms",
        "pool aux = 2 gpu",
        "pool dit = rest",
        "resize aux by 1 gpu when backlog(aux) > 3s within 1 gpu .. 6 gpu cooldown 15s",
        "triage by deadline shed least weight then reject",
        "stage encode, decode on aux {",
        "  sp fixed 1 gpu",
        "  lanes 4",
        "  spill to dit when rush",
        "}",
        "stage denoise on dit {",
        "  sp in {1, 2} gpu smallest",
        "  grow by gain(next) desc, arrival",
        "  hold until done",
        "  prefer pack",
        "}",
        "preempt for ui from any do demote else migrate",
        "allocate rollout horizon 10 beam 12 minimizing step_time(sp) * price",
        "batch by model, tokens max 8 window 200ms where waiting",
        "react worker_lost when late do shrink to 1 gpu for 30s",
        "react rush do raise 1",
        'react late do alert "a request is late"',
        "react preempted do pause for 5s",
        "fallback fcfs",
        "",
        'test "t" {',
        "  expect free == 8 gpu",
        "}",
    ]


def chooser(body: Callable[..., object]) -> object:
    return stage("denoise", degrees=(1, 2) * gpu)(body)  # type: ignore[arg-type]


def branch(r, sp):  # type: ignore[no-untyped-def]
    if r.late:
        return choose(largest=sp)
    return choose(smallest=sp)


def chained(r, sp):  # type: ignore[no-untyped-def]
    return choose(smallest=sp, where=0 * gpu < sp < 4 * gpu)


def joined(r, sp):  # type: ignore[no-untyped-def]
    return choose(smallest=sp, where=r.late and r.waiting)


@pytest.mark.parametrize("body", [branch, chained, joined])
def test_branching_on_a_symbolic_value_is_an_error_that_says_what_to_use(body: Callable[..., object]) -> None:
    with pytest.raises(PolicyError, match="no truth") as error:
        chooser(body)
    assert error.value.hint is not None and "where(" in error.value.hint


def test_other_mistakes_are_named() -> None:
    with pytest.raises(PolicyError, match="no loops"):
        list(priority)
    with pytest.raises(PolicyError, match="takes one of"):
        choose()
    with pytest.raises(PolicyError, match=r"expected `choose\(...\)`"):
        chooser(lambda r, sp: r.finish(sp))
    with pytest.raises(PolicyError, match="not a value of the policy language"):
        order_by([1])  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="unit `ms` has no number"):
        order_by(deadline * ms)  # type: ignore[operator]
    with pytest.raises(PolicyError, match="no option `colour=1` of a stage"):
        stages("encode", sp=1 * gpu, colour=1)
    with pytest.raises(PolicyError, match="hold='never'"):
        stages("encode", sp=1 * gpu, hold="never")
    with pytest.raises(PolicyError, match="most or the least"):
        triage(deadline, shed_most=priority, shed_least=priority)
    with pytest.raises(PolicyError, match="no clause by itself"):

        @policy(version=1)
        class Part:
            rule = reject()

    with pytest.raises(PolicyError, match="no stage `decode`"):

        @policy(version=1)
        class Wrong:
            more = grow("decode")(lambda r, sp, nxt: r.gain(nxt) > 1)


def test_findings_of_the_checker_reach_the_author_of_a_python_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(PYTHON_FILE.replace("<= r.deadline", "<= r.remaining(sp)"), encoding="utf-8")
    with pytest.raises(PolicyError, match="U204") as error:
        load_policy(str(path))
    assert "bad.py (traced):" in str(error.value) and "sp in {1, 2, 4, 8} gpu" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "defines 0 policies"),
        ("raise ValueError('boom')\n", "ValueError: boom"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_a_python_file_that_does_not_load(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PolicyError, match=message):
        load_policy(str(path))
