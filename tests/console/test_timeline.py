"""The timeline against runs that are known by hand, and against what any run must add up to."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from literal_policies import EdfBestFit, Reckless
from small_worlds import make_cost, make_workload
from stories import tell

from gfdit.core.commands import RunTask
from gfdit.core.events import PolicyOverran
from gfdit.core.lifecycle import State
from gfdit.core.parallel import Parallel
from gfdit.core.proposal import Policy
from gfdit.core.scheduler import Decision, MoveKind, NewsKind, PolicyNews, Scheduler
from gfdit.core.work import Outcome, Stage
from gfdit.runtime.journal import Journal, JournalReader
from gfdit.runtime.timeline import LETTERS, NoteKind, Task, Timeline, rank_ranges, rank_runs
from gfdit.sim.run import SimConfig, SimOutcome, simulate
from gfdit.units import to_ns

GPUS = 4


def simulated(policy: Policy, seed: int, *timelines: Timeline, count: int = 40) -> SimOutcome:
    return simulate(SimConfig(policy, make_workload(seed, count), "made", make_cost(), GPUS, noise=0.1), timelines)


@pytest.fixture
def story() -> Timeline:
    timeline = Timeline(4)
    tell(timeline.record)
    return timeline


def test_a_life_tells_its_degrees_waits_moves_and_faults(story: Timeline) -> None:
    big = story.lives["big-1"]
    assert big.degrees == [1, 4, 2, 1]
    assert big.resizes == 2 and big.preemptions == 1 and big.attempts == 2
    assert big.steps_done == 4 and big.state is State.PAUSED and big.group == ()
    assert [(stint.stage, stint.ranks, stint.start, stint.end) for stint in big.stints] == [
        (Stage.ENCODE, (0,), to_ns(1), to_ns(3)),
        (Stage.DENOISE, (0,), to_ns(3), to_ns(5)),
        (Stage.DENOISE, (0, 1, 2, 3), to_ns(5), to_ns(11)),  # two steps, one stint
        (Stage.DENOISE, (0, 1), to_ns(11), to_ns(16)),
        (Stage.DENOISE, (3,), to_ns(16), to_ns(20)),
    ]
    assert [stint.handover_ns for stint in big.stints] == [0, 0, to_ns(0.5), 0, 0]
    assert [stint.failed for stint in big.stints] == ["", "", "", "worker_lost", ""]


def test_waiting_counts_from_arrival_and_from_every_pause(story: Timeline) -> None:
    assert story.lives["small-2"].wait_ns == to_ns(2)  # 9 -> 11
    assert story.lives["late-4"].wait_ns == 0
    assert story.lives["no-5"].wait_ns == 0
    assert story.lives["big-1"].waiting_since == to_ns(20) and story.lives["big-1"].wait_ns == 0


def test_totals_and_ends(story: Timeline) -> None:
    totals = story.totals
    assert (totals.arrived, totals.ended, totals.on_time, totals.attainment) == (5, 3, 1, pytest.approx(1 / 3))
    assert totals.outcomes == {Outcome.COMPLETED: 2, Outcome.REJECTED: 1}
    assert totals.clauses == {("sp", 4): 5, ("grow", 7): 1, ("preempt", 11): 1}
    assert story.lives["late-4"].latency_ns == to_ns(2.5) and story.lives["late-4"].deadline_ns == to_ns(16.5)


def test_notes_name_what_happened_in_order(story: Timeline) -> None:
    kinds = [note.kind for note in story.notes]
    assert kinds[:4] == [NoteKind.JOINED, NoteKind.ARRIVED, NoteKind.START, NoteKind.GROW]
    assert Counter(kinds)[NoteKind.LOST] == 1 and Counter(kinds)[NoteKind.MISSED] == 1
    assert [note.at for note in story.notes] == sorted(note.at for note in story.notes)
    lost = kinds.index(NoteKind.LOST)
    assert kinds[lost : lost + 3] == [NoteKind.LOST, NoteKind.SET_BACK, NoteKind.RESUME]


def test_a_lost_worker_leaves_an_outage_until_it_joins_again(story: Timeline) -> None:
    assert story.outages[1][-1] == (to_ns(16), to_ns(19))
    assert story.alive == {0: 1, 1: 2, 2: 1, 3: 1}


def test_a_source_that_is_no_member_only_gives(story: Timeline) -> None:
    resumed = [span for span in story.spans()[0] if span.gives]
    assert [(span.start, span.end) for span in resumed] == [(to_ns(16), to_ns(16))]  # no hand-over time was reported
    grown = next(span for span in story.spans()[2] if span.task.command.request_id == "big-1")
    assert (grown.start, grown.handover_end, grown.end) == (to_ns(5), to_ns(5.5), to_ns(8))


def test_a_task_behind_a_handover_begins_when_the_handover_is_over() -> None:
    """Rank 0 gives x's state to rank 1 for a second, and already has y behind it."""
    timeline = Timeline(2)
    timeline.now = to_ns(5)

    def task(
        epoch: int, request_id: str, ranks: tuple[int, ...], sources: tuple[int, ...], busy: float, moved: float
    ) -> Task:
        command = RunTask(epoch, request_id, Stage.DENOISE, 1, 1, ranks, Parallel(), 4, sources)
        return Task(command, 0, to_ns(busy + moved), to_ns(busy), to_ns(moved))

    timeline.tasks = [task(1, "x", (1,), (0,), 2.0, 1.0), task(2, "y", (0,), (), 1.5, 0.0)]
    gives, works = timeline.spans()[0]
    assert gives.gives and (gives.start, gives.end) == (0, to_ns(1))
    assert not works.gives and (works.start, works.end) == (to_ns(1), to_ns(1.5))


@pytest.mark.parametrize("policy", [EdfBestFit(), Reckless(3)], ids=["edf", "reckless"])
def test_spans_never_overlap_and_stints_hold_exactly_the_tasks_time(policy: Policy) -> None:
    timeline = Timeline(GPUS)
    outcome = simulated(policy, 7, timeline)
    for spans in timeline.spans().values():
        assert all(before.end <= after.start for before, after in pairwise(spans))
        assert all(span.start <= span.handover_end <= span.end for span in spans)
    of_tasks = sum(len(t.command.ranks) * (t.end - t.start) for t in timeline.tasks if t.end is not None)
    of_stints = sum(
        stint.degree * (stint.end - stint.start)
        for life in timeline.lives.values()
        for stint in life.stints
        if stint.end is not None
    )
    assert of_tasks == of_stints > 0
    assert len(timeline.tasks) == outcome.summary.tasks
    for lane in timeline.lanes.values():
        assert all((before.end or 0) <= after.start for before, after in pairwise(lane))


@pytest.mark.parametrize("seed", [1, 2])
def test_counts_agree_with_the_summary(seed: int) -> None:
    timeline = Timeline(GPUS)
    outcome = simulated(EdfBestFit(), seed, timeline)
    assert timeline.totals.moves == outcome.summary.moves
    assert sum(life.resizes for life in timeline.lives.values()) == outcome.result["resizes"]
    assert sum(life.preemptions for life in timeline.lives.values()) == outcome.result["preemptions"]
    assert timeline.totals.attainment == outcome.result["attainment"]
    waits_and_runs = {
        life.request.id: life.wait_ns + sum((s.end or 0) - s.start for s in life.stints)
        for life in timeline.lives.values()
    }
    assert waits_and_runs == {life.request.id: life.latency_ns for life in timeline.lives.values()}


def test_the_last_sample_of_a_served_run_is_idle() -> None:
    timeline = Timeline(GPUS)
    simulated(EdfBestFit(), 1, timeline)
    assert (timeline.samples[-1].busy, timeline.samples[-1].queue) == (0, 0)
    assert max(sample.busy for sample in timeline.samples) == GPUS
    assert max(sample.queue for sample in timeline.samples) > 0


def test_a_journal_gives_the_same_timeline(tmp_path: Path) -> None:
    watched, path = Timeline(GPUS), tmp_path / "journal.sqlite"
    journals: list[Journal] = []

    def observers(scheduler: Scheduler) -> list[Journal | Timeline]:
        journals.append(Journal(path, {}, scheduler))
        return [*journals, watched]

    simulate(SimConfig(EdfBestFit(), make_workload(5), "made", make_cost(), GPUS), observers)
    journals[0].close()
    reader = JournalReader(path)
    read = Timeline.from_journal(reader, GPUS)
    reader.close()
    assert read.spans().keys() == watched.spans().keys()
    for rank, spans in watched.spans().items():
        assert [(s.task.command, s.start, s.end) for s in read.spans()[rank]] == [
            (s.task.command, s.start, s.end) for s in spans
        ]
    assert [(n.at, n.kind, n.text) for n in read.notes] == [(n.at, n.kind, n.text) for n in watched.notes]
    assert list(read.samples) == list(watched.samples) and read.totals == watched.totals


def test_a_bounded_timeline_forgets_what_is_old_and_keeps_the_counts() -> None:
    whole, bounded = Timeline(GPUS), Timeline(GPUS, keep_s=0.5)
    simulated(EdfBestFit(), 2, whole, bounded, count=120)
    old = whole.now - to_ns(0.5) * 2
    assert not bounded.tasks
    assert all((stint.end or whole.now) >= old for lane in bounded.lanes.values() for stint in lane)
    assert all(life.end is None or life.end.at >= old for life in bounded.lives.values())
    assert len(bounded.lives) < len(whole.lives) / 4
    assert len(bounded.samples) < len(whole.samples) / 4
    assert bounded.totals == whole.totals


def test_running_requests_have_different_letters() -> None:
    timeline = Timeline(GPUS)

    class Check:
        def record(self, *_: object) -> None:
            letters = [life.letter for life in timeline.live() if life.letter]
            assert len(set(letters)) == len(letters) or len(letters) > len(LETTERS)

    simulate(SimConfig(EdfBestFit(), make_workload(4, 60), "made", make_cost(), GPUS), [timeline, Check()])
    assert [life.number for life in timeline.lives.values()].count(-1) == 0


def test_a_fallback_and_an_overrun_are_noted() -> None:
    names = ["first"]
    timeline = Timeline(1, policy_of=lambda: names[0])
    tell(timeline.record)
    names[0] = "second"
    decision = Decision((), None, policy_news=(PolicyNews(NewsKind.ERROR, "ValueError: no"),))
    notes = timeline.record_notes(to_ns(30), [PolicyOverran(to_ns(30), 0.2)], decision)
    assert [note.text for note in notes] == [
        "a tick took 200.0 ms, over the policy's limit",
        "error: ValueError: no",
        "first -> second",
    ]


def test_rank_ranges() -> None:
    assert rank_ranges((5, 0, 2, 1)) == "0-2,5"
    assert rank_runs((7, 3, 4)) == [(3, 4), (7, 7)]
    assert rank_ranges(()) == ""


def test_moves_cover_the_notes_kinds() -> None:
    assert {kind.value for kind in MoveKind} <= {kind.value for kind in NoteKind}
