"""What makes an accepted request outlive the controller: nobody is told anything that is not on disk.

    any thread     --accept--> writer --one fsync for all that wait--> the scheduler and the client hear of it
    the controller --end-----> results (the output's file) --> writer --fsync--> the client hears of it

Two threads, so that neither the controller nor the HTTP side ever waits for a disk, and a new request not for a large
output. A disk that is full refuses new requests and stops nothing that runs.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Thread
from typing import assert_never

from gfdit.core.commands import EndRequest
from gfdit.core.work import Outcome, Request
from gfdit.errors import StorageFull
from gfdit.live.durable_ledger import Acceptance, Ending, Ledger, Unfinished
from gfdit.live.results import Progress, Ticket, Tickets
from gfdit.runtime.keyed import Key
from gfdit.units import to_ns
from gfdit.wire.messages import Value

_log = logging.getLogger(__name__)

LARGEST_GROUP = 256  # entries of one transaction
TIDY_EVERY_S = 600.0
MOST_OWED = 1 << 14  # ends that wait for room on the disk


@dataclass(frozen=True, slots=True)
class _Accept:
    acceptance: Acceptance
    done: Future[None]


@dataclass(frozen=True, slots=True)
class _End:
    ending: Ending
    tell: Callable[[], None]


class Durable:
    """`fsyncs`: commits so far, each one fsync; `written`: acceptances and ends that they made durable."""

    def __init__(self, ledger: Ledger, tickets: Tickets) -> None:
        self.fsyncs = 0
        self.written = 0
        self.committed: Callable[[float], None] = lambda seconds: None  # hears how long each commit took
        self.problem = ""  # why the latest commit failed, "" when it did not
        self._ledger = ledger
        self._tickets = tickets
        self._mail: queue.SimpleQueue[_Accept | _End | None] = queue.SimpleQueue()
        self._owed: list[Ending] = []
        self._tidy_at = 0.0
        self._results = ThreadPoolExecutor(1, thread_name_prefix="results")
        self._writer = Thread(target=self._write, name="ledger", daemon=True)
        tickets.remember(ledger.ended_ids())
        self._writer.start()

    def close(self) -> None:
        """Write what has ended and tell those who wait for it. The ledger is closed, too."""
        self._results.shutdown(wait=True)
        self._mail.put(None)
        self._writer.join()
        self._ledger.close()

    # ---- any thread -----------------------------------------------------------------------------------------------

    def accept(self, requests: Sequence[tuple[Request, Mapping[str, Value]]], key: Key | None = None) -> Future[None]:
        """Done once they are on disk, called back from the writer's thread; fails with StorageFull or InputError."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # nobody can take it back
        self._mail.put(_Accept(Acceptance(requests, key, time.monotonic_ns(), time.time()), done))
        return done

    def unfinished(self) -> list[Unfinished]:
        """What the controller before accepted and did not end."""
        return self._ledger.unfinished()

    def recall(self, request_id: str) -> Ticket | None:
        """The ticket of any request that is known: live, or of one that ended, in this life of the controller or
        before."""
        live = self._tickets.get(request_id)
        if live is not None:
            return live
        if request_id not in self._tickets:  # most are new, and need no look at the disk
            return None
        entry = self._ledger.entry(request_id)
        if entry is None or entry.progress is None:
            return None
        return Ticket(entry.request, entry.progress, entry.output)

    def keyed(self, key: str) -> tuple[bytes, list[Ticket]] | None:
        """What was asked for under the key, as a digest, and its tickets; None unless all of them can be had, with
        the output of those that completed."""
        known = self._ledger.keyed(key)
        if known is None:
            return None
        asked, ids = known
        tickets = [ticket for one in ids if (ticket := self.recall(one)) is not None]
        gone = any(one.progress.outcome is Outcome.COMPLETED and one.output is None for one in tickets)
        return None if gone or len(tickets) < len(ids) else (asked, tickets)

    # ---- the controller's thread ----------------------------------------------------------------------------------

    def end(self, command: EndRequest, output: bytes | None) -> None:
        """The request has ended; whoever waits for it hears of it when that is on disk."""
        self._results.submit(self._keep_result, command, self._tickets.final(command), output)

    def _keep_result(self, command: EndRequest, progress: Progress | None, output: bytes | None) -> None:
        """In the results' thread. A result that cannot be written is made again after a restart: its request counts as
        unfinished."""

        def tell() -> None:
            self._tickets.end(command, output)

        try:
            digest = None if output is None else self._ledger.blobs.put(output)
        except OSError as error:
            self.problem = f"cannot write a result: {error}"
            tell()
            return
        if progress is not None:
            self._mail.put(_End(Ending(command.request_id, progress, digest), tell))

    # ---- the writer's thread --------------------------------------------------------------------------------------

    def _write(self) -> None:
        going_on = True
        while going_on:
            batch, going_on = self._take()
            accepts = [one for one in batch if isinstance(one, _Accept)]
            ends = [one for one in batch if isinstance(one, _End)]
            self._owed.extend(one.ending for one in ends)
            self._commit(accepts)
            for one in ends:  # on disk, or owed: a full disk keeps no answer from its client
                try:
                    one.tell()
                except Exception:  # one listener's trouble is not the next one's
                    _log.exception("could not tell how `%s` ended", one.ending.request_id)
            self._tidy()

    def _take(self) -> tuple[list[_Accept | _End], bool]:
        """All that has come while the one before was written; whether there will be more."""
        batch: list[_Accept | _End] = []
        item = self._mail.get()
        while True:
            match item:
                case None:
                    return batch, False
                case _Accept() | _End():
                    batch.append(item)
                case _:
                    assert_never(item)
            if len(batch) >= LARGEST_GROUP or self._mail.empty():
                return batch, True
            item = self._mail.get()

    def _commit(self, accepts: list[_Accept]) -> None:
        if not accepts and not self._owed:
            return
        acceptances = [one.acceptance for one in accepts]
        begin = time.perf_counter()
        try:
            refused = self._ledger.write(acceptances, self._owed)
        except StorageFull as error:
            self.problem = str(error)
            self._pay()
            for one in accepts:
                one.done.set_exception(StorageFull(f"the request is not accepted: {error.message}"))
            return
        self.problem = ""
        self.committed(time.perf_counter() - begin)
        self._count(len(accepts) + len(self._owed))
        self._owed = []
        for one, why in zip(accepts, refused, strict=True):
            if why is None:
                one.done.set_result(None)
            else:
                one.done.set_exception(why)

    def _pay(self) -> None:
        """Ends need less room than new requests do: try them alone. Those that find none stay owed, and the oldest
        over the limit are forgotten, which makes them unfinished."""
        if not self._owed:
            return
        try:
            self._ledger.write((), self._owed)
        except StorageFull:
            del self._owed[:-MOST_OWED]
            return
        self._count(len(self._owed))
        self._owed = []

    def _count(self, written: int) -> None:
        self.fsyncs += 1
        self.written += written

    def _tidy(self) -> None:
        now = time.monotonic()
        if now < self._tidy_at:
            return
        self._tidy_at = now + TIDY_EVERY_S
        try:
            self._ledger.forget_expired()
        except StorageFull as error:
            self.problem = str(error)


def resumed(one: Unfinished, now: int, scale: float) -> Request:
    """The request as it was accepted, on a clock that reads `now`: its arrival, and so its deadline, are where they
    were in time."""
    return replace(one.request, arrival_ns=now - to_ns(one.age_s * scale))
