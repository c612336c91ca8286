"""The ledger and what writes it: one fsync for many, torn files, full disks, versions, and what is forgotten."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from small_worlds import make_request

from gfdit.core.commands import EndRequest
from gfdit.core.work import Outcome, Request
from gfdit.errors import InputError, JournalError, StorageFull
from gfdit.live.durable import Durable, resumed
from gfdit.live.durable_ledger import VERSION, Acceptance, Ending, Ledger, Unfinished
from gfdit.live.results import Progress, Status, Ticket, Tickets
from gfdit.runtime.blobs import Blobs
from gfdit.runtime.keyed import Key

COMPLETED = Progress(Status.ENDED, outcome=Outcome.COMPLETED)


def request(number: int) -> Request:
    return replace(make_request(number), id=f"r{number}")


def acceptance(*numbers: int, key: Key | None = None) -> Acceptance:
    return Acceptance(
        [(request(number), {"seed": number}) for number in numbers], key, time.monotonic_ns(), time.time()
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite", Blobs(tmp_path / "results"))
    yield made
    made.close()


def unfinished_ids(ledger: Ledger) -> list[str]:
    return [one.request.id for one in ledger.unfinished()]


# ---- what is written is what is read --------------------------------------------------------------------------------


def test_what_was_accepted_and_has_not_ended_is_unfinished(ledger: Ledger) -> None:
    assert ledger.write([acceptance(1), acceptance(2, 3)], []) == [None, None]
    digest = ledger.blobs.put(b"picture")
    ledger.write([acceptance(4)], [Ending("r2", COMPLETED, digest)])
    assert unfinished_ids(ledger) == ["r1", "r3", "r4"] and ledger.ended_ids() == ["r2"]
    first = ledger.unfinished()[0]
    assert (first.request, first.inputs) == (request(1), {"seed": 1}) and 0 <= first.age_s < 60
    entry = ledger.entry("r2")
    assert entry is not None and (entry.progress, entry.output) == (COMPLETED, b"picture")
    assert ledger.entry("nobody") is None


def test_an_id_that_is_taken_refuses_its_group_and_no_other(ledger: Ledger) -> None:
    ledger.write([acceptance(1)], [])
    first, second, third = ledger.write([acceptance(2), acceptance(3, 1), acceptance(4)], [])
    assert first is third is None and isinstance(second, InputError)
    assert unfinished_ids(ledger) == ["r1", "r2", "r4"]


def test_an_end_is_final(ledger: Ledger) -> None:
    ledger.write([acceptance(1)], [])
    ledger.write([], [Ending("r1", COMPLETED, None)])
    ledger.write([], [Ending("r1", replace(COMPLETED, outcome=Outcome.FAILED), None)])
    entry = ledger.entry("r1")
    assert entry is not None and entry.progress == COMPLETED


def test_what_ended_long_ago_is_forgotten(ledger: Ledger) -> None:
    ledger.write([acceptance(*range(6), key=Key("k", b"d"))], [Ending(f"r{n}", COMPLETED, None) for n in range(5)])
    ledger.forget_expired(most=2)
    assert ledger.ended_ids() == ["r3", "r4"] and unfinished_ids(ledger) == ["r5"]
    ledger.forget_expired(keep_s=-1)
    assert ledger.ended_ids() == [] and unfinished_ids(ledger) == ["r5"] and ledger.keyed("k") is None


def test_a_request_that_goes_on_keeps_its_arrival_in_time() -> None:
    again = resumed(Unfinished(replace(request(1), arrival_ns=5), {}, age_s=3.0), now=2_000_000_000, scale=10.0)
    assert again == replace(request(1), arrival_ns=-28_000_000_000)


# ---- outputs --------------------------------------------------------------------------------------------------------


def test_outputs_are_kept_once_and_the_oldest_make_room(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "results", most_bytes=250)
    digests = [blobs.put(bytes([n]) * 100) for n in (0, 1, 0, 2)]
    assert [blobs.get(one) is not None for one in digests] == [True, False, True, True]
    assert (len(blobs), blobs.size) == (2, 200)
    (tmp_path / "results" / "ab").mkdir(exist_ok=True)
    (tmp_path / "results" / "ab" / "cut short.part").write_bytes(b"x")
    blobs.path(digests[3]).write_bytes(b"torn")
    again = Blobs(tmp_path / "results")
    assert again.get(digests[0]) == bytes(100) and again.get(digests[3]) is None and len(again) == 2
    assert not list((tmp_path / "results").glob("*/*.part"))


# ---- one fsync for many ---------------------------------------------------------------------------------------------


def test_those_that_wait_share_an_fsync_and_nobody_is_told_before(tmp_path: Path) -> None:
    tickets = Tickets()
    durable = Durable(Ledger(tmp_path / "ledger.sqlite", Blobs(tmp_path / "results")), tickets)
    told: list[bool] = []
    opened = [tickets.open(request(n)) for n in range(300)]
    base = sqlite3.connect(tmp_path / "ledger.sqlite")

    def is_there(number: int) -> None:
        ((found,),) = base.execute("SELECT count(*) FROM requests WHERE id = ?", (f"r{number}",))
        told.append(found == 1)

    base.close()
    base = sqlite3.connect(tmp_path / "ledger.sqlite", check_same_thread=False)
    for number in range(300):
        durable.accept([(request(number), {})]).add_done_callback(lambda _, number=number: is_there(number))  # type: ignore[misc]
    durable.end(EndRequest("r7", Outcome.COMPLETED, 9), b"picture")
    assert opened[7].wait(30) and opened[7].output == b"picture"
    durable.close()
    base.close()
    assert told == [True] * 300 and durable.written == 301
    assert durable.fsyncs <= 100, f"{durable.fsyncs} fsyncs for 301 records"
    again = Ledger(tmp_path / "ledger.sqlite", Blobs(tmp_path / "results"))
    entry = again.entry("r7")
    assert entry is not None and entry.output == b"picture" and len(again.unfinished()) == 299
    again.close()


def test_a_key_is_known_after_a_restart(tmp_path: Path) -> None:
    def opened() -> Durable:
        return Durable(Ledger(tmp_path / "ledger.sqlite", Blobs(tmp_path / "results")), Tickets())

    durable = opened()
    durable.accept([(request(1), {}), (request(2), {})], Key("mine", b"digest")).result(30)
    durable.close()
    durable = opened()
    assert durable.keyed("mine") is None  # its requests are not readmitted yet
    tickets = durable._tickets
    for one in durable.unfinished():
        tickets.open(one.request)
    known = durable.keyed("mine")
    assert known is not None and known[0] == b"digest"
    assert [ticket.request.id for ticket in known[1]] == ["r1", "r2"] and durable.keyed("other") is None
    durable.close()


# ---- what disks do --------------------------------------------------------------------------------------------------


def crashed_copy(tmp_path: Path) -> tuple[Path, bytes, int]:
    """A ledger as a kill leaves it, its log, and how long the log was before the last record."""
    source = tmp_path / "live"
    source.mkdir()
    ledger = Ledger(source / "ledger.sqlite", Blobs(source / "results"))
    wal = source / "ledger.sqlite-wal"
    ledger.write([acceptance(1)], [])
    ledger.write([acceptance(2)], [Ending("r1", COMPLETED, None)])
    before = wal.stat().st_size
    ledger.write([acceptance(3)], [])
    shutil.copy(source / "ledger.sqlite", tmp_path / "crashed.sqlite")
    content = wal.read_bytes()
    ledger.close()
    return tmp_path / "crashed.sqlite", content, before


def test_a_torn_tail_loses_at_most_the_last_record(tmp_path: Path) -> None:
    crashed, log, before = crashed_copy(tmp_path)
    cuts = list(range(before, len(log)))
    if "GFDIT_ALL_CUTS" not in os.environ:  # every byte takes minutes
        seed = random.randrange(1 << 30)
        print(f"seed {seed}")
        cuts = [before, before + 1, len(log) - 1, *random.Random(seed).sample(cuts, 60)]
    path, blobs = tmp_path / "ledger.sqlite", Blobs(tmp_path / "results")
    for cut in [*cuts, len(log)]:
        shutil.copy(crashed, path)
        path.with_name("ledger.sqlite-wal").write_bytes(log[:cut])
        ledger = Ledger(path, blobs)
        assert unfinished_ids(ledger) == (["r2"] if cut < len(log) else ["r2", "r3"]), cut
        assert ledger.ended_ids() == ["r1"]
        assert ledger.write([acceptance(9)], []) == [None]
        ledger.close()


def test_a_full_disk_refuses_new_requests_and_loses_none(tmp_path: Path) -> None:
    def opened(most_pages: int | None) -> Durable:
        path = tmp_path / "ledger.sqlite"
        return Durable(Ledger(path, Blobs(tmp_path / "results"), most_pages), tickets)

    tickets = Tickets()
    durable = opened(most_pages=24)
    accepted: list[int] = []
    with pytest.raises(StorageFull, match="not accepted: cannot write to disk: database or disk is full"):
        for number in range(1000):
            durable.accept([(replace(request(number), prompt="x" * 2000), {})]).result(30)
            tickets.open(request(number))
            accepted.append(number)
    assert len(accepted) > 3 and durable.problem
    running = tickets.get("r0")
    assert running is not None
    durable.end(EndRequest("r0", Outcome.COMPLETED, 9), b"picture")
    assert running.wait(30) and running.output == b"picture"  # who waits is told, disk or no disk
    durable.close()
    tickets = Tickets()
    durable = opened(most_pages=None)
    left = {one.request.id for one in durable.unfinished()}
    assert left in ({f"r{n}" for n in accepted}, {f"r{n}" for n in accepted[1:]})
    durable.accept([(request(2000), {})]).result(30)
    durable.close()


def test_an_end_that_found_no_room_is_written_when_there_is(tmp_path: Path) -> None:
    tickets = Tickets()
    ledger = Ledger(tmp_path / "ledger.sqlite", Blobs(tmp_path / "results"))
    durable = Durable(ledger, tickets)
    durable.accept([(request(1), {})]).result(30)
    ticket = tickets.open(request(1))
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    ledger._db.execute("PRAGMA busy_timeout=0")
    other.execute("BEGIN IMMEDIATE")  # nobody else can write
    durable.end(EndRequest("r1", Outcome.COMPLETED, 9), b"picture")
    assert ticket.wait(30) and "locked" in durable.problem
    other.execute("COMMIT")
    other.close()
    durable.accept([(request(2), {})]).result(30)
    assert unfinished_ids(ledger) == ["r2"] and durable.problem == ""
    durable.close()


# ---- versions -------------------------------------------------------------------------------------------------------


def test_the_version_is_in_the_file(tmp_path: Path) -> None:
    path, blobs = tmp_path / "ledger.sqlite", Blobs(tmp_path / "results")
    Ledger(path, blobs).close()
    base = sqlite3.connect(path)
    assert base.execute("PRAGMA user_version").fetchone() == (VERSION,)
    base.execute(f"PRAGMA user_version={VERSION + 1}")
    base.close()
    with pytest.raises(JournalError, match=f"has version {VERSION + 1}, this gfdit writes {VERSION}"):
        Ledger(path, blobs)
    (tmp_path / "text").write_text("not a database, " * 100)
    with pytest.raises(JournalError, match="is not a gfdit ledger"):
        Ledger(tmp_path / "text", blobs)


def test_tickets_of_the_past_have_ended() -> None:
    ticket = Ticket(request(1), COMPLETED, b"picture")
    assert ticket.ended and ticket.wait(0) and ticket.output == b"picture"
