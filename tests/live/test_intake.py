"""The door for other threads: order, times, cancellations before arrival, and what closing means."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gfdit.core.events import PolicyEjected, PolicySwapped
from gfdit.core.work import Request
from gfdit.errors import InputError, ShuttingDown
from gfdit.live.intake import Intake
from gfdit.live.results import Tickets


@dataclass
class HandClock:
    time: int = 0

    def now(self) -> int:
        return self.time


def request(name: str, arrival_ns: int = 0) -> Request:
    return Request(name, "m", "c", arrival_ns, 64, 64, 4, 16)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def intake(clock: HandClock) -> Iterator[Intake]:
    intake = Intake(clock, Tickets())
    yield intake
    intake.release()


def ids(intake: Intake, now: int) -> list[str]:
    return [arrival.request.id for arrival in intake.take(now).arrivals]


def test_a_fed_workload_arrives_by_its_times_from_the_call_on(intake: Intake, clock: HandClock) -> None:
    clock.time = 1000
    intake.feed([request("b", 200), request("a", 100)], lambda r: {"prompt": r.id})
    assert ids(intake, 1000) == []
    assert intake.next_due() == 1100
    taken = intake.take(1250).arrivals
    assert [(a.request.id, a.request.arrival_ns, a.inputs) for a in taken] == [
        ("a", 1100, {"prompt": "a"}),
        ("b", 1200, {"prompt": "b"}),
    ]
    assert intake.empty


def test_submit_arrives_now_and_wakes(intake: Intake, clock: HandClock) -> None:
    clock.time = 50
    assert select.select([intake.wake_fd], [], [], 0)[0] == []
    ticket = intake.submit(request("a", arrival_ns=10**12), {})
    assert select.select([intake.wake_fd], [], [], 0)[0] == [intake.wake_fd]
    intake.acknowledge_wake()
    assert select.select([intake.wake_fd], [], [], 0)[0] == []
    assert ids(intake, 50) == ["a"]
    assert ticket.request.arrival_ns == 50


def test_an_id_is_taken_for_ever(intake: Intake) -> None:
    intake.submit(request("a"), {})
    with pytest.raises(InputError, match="`a` is taken"):
        intake.submit(request("a"), {})


def test_cancel_before_and_after_arrival(intake: Intake) -> None:
    intake.feed([request("early", 0), request("late", 900)], lambda _: {})
    intake.cancel("late")
    intake.cancel("early")
    taken = intake.take(10)
    assert [a.request.id for a in taken.arrivals] == ["early"]
    assert taken.cancelled == ["early"]
    assert taken.dropped == ["late"]
    assert intake.empty


def test_close_lets_fed_requests_arrive_and_drain_does_not(intake: Intake) -> None:
    intake.feed([request("a", 10), request("b", 20)], lambda _: {})
    intake.close()
    with pytest.raises(ShuttingDown):
        intake.submit(request("c"), {})
    assert ids(intake, 10) == ["a"]
    intake.drain()
    taken = intake.take(15)
    assert (taken.arrivals, taken.cancelled, taken.dropped) == ([], [], ["b"])
    assert intake.empty


def test_drain_with_cancel_ends_the_live_ones_once(intake: Intake) -> None:
    intake.feed([request("a", 0), request("b", 99)], lambda _: {})
    intake.take(1)
    intake.drain(cancel=True)
    taken = intake.take(2)
    assert (taken.cancelled, taken.dropped) == (["a"], ["b"])
    assert intake.take(3).cancelled == []


def test_many_threads_lose_nothing(intake: Intake) -> None:
    def submit(worker: int) -> None:
        for number in range(50):
            intake.submit(request(f"{worker}-{number}"), {})

    threads = [threading.Thread(target=submit, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    seen: list[str] = []
    while any(thread.is_alive() for thread in threads) or not intake.empty:
        select.select([intake.wake_fd], [], [], 5)
        intake.acknowledge_wake()
        seen += ids(intake, 0)
    assert sorted(seen) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(50))


def test_orders_about_the_policy_come_in_their_time_and_hold_nobody_up(intake: Intake, clock: HandClock) -> None:
    intake.order(PolicySwapped(500, (), label="later"))
    intake.order(PolicyEjected(0))
    assert select.select([intake.wake_fd], [], [], 0)[0]
    assert intake.take(100).orders == [PolicyEjected(100)]
    assert intake.empty and intake.next_due() == 500  # a drained system does not wait for it
    (order,) = intake.take(600).orders
    assert isinstance(order, PolicySwapped) and (order.at, order.label) == (600, "later")
    intake.order(PolicyEjected(900))
    intake.revoke_orders()
    assert intake.next_due() is None and intake.take(1000).orders == []
