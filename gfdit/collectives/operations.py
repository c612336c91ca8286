"""The operations of a lane, each in terms of one `Plan`. Members are named by their index in `lane.ranks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gfdit.collectives.channel import Channel, Op, Plan, Take
from gfdit.collectives.errors import CollectiveError
from gfdit.collectives.keys import layout_hash
from gfdit.collectives.payload import Payload, copy, payload_of, received, target_of

if TYPE_CHECKING:
    from gfdit.collectives.payload import Data, Received

Layout = Sequence[int] | int | None


class Lane(Channel):
    """An ordered sub-group of a lease: `ranks`, `size`, and `index` of this rank. All members call the same operations
    in the same order; lanes of one lease are independent of each other. One thread at a time.

    `Data` is a CPU torch tensor or a bytes-like object; what arrives is a tensor of the sender's shape and dtype, or a
    bytearray. `out` gives memory to receive into (its size and dtype are checked). `layout` is whatever the caller
    believes the sizes to be (integers): a member that believes otherwise is a `Mismatch` on all. `timeout` is in
    seconds.

    Every operation raises `CollectiveTimeout`, `PeerAborted`, `PeerDead`, `Mismatch` or `LeaseFenced`, and the lease
    is then aborted on this rank; bad arguments are a `ValueError` or `TypeError` before anything is published.

    Data in the arena (`World.empty`) is read by the peers in place. Do not overwrite it before a later operation of
    the lane that hears from everybody, such as `barrier`, has returned.
    """

    _barrier = Plan(Op.BARRIER, None)

    def barrier(self, *, timeout: float | None = None) -> None:
        """Return when every member has entered."""
        self._run(self._barrier, timeout)

    def all_gather(
        self, data: Data, *, out: Sequence[Data] | None = None, layout: Layout = None, timeout: float | None = None
    ) -> list[Data]:
        """What every member gave, by index, uneven or not. Without `out` the own entry is `data` itself."""
        mine = payload_of(data)
        into = self._targets(out)
        if into and into[self.index].nbytes != mine.nbytes:
            raise ValueError(f"out[{self.index}] holds {into[self.index].nbytes} bytes, the data has {mine.nbytes}")
        takes = dict.fromkeys(self._others, 0)
        plan = Plan(Op.ALL_GATHER, None, (mine,), mine.dtype, layout_hash(layout), takes, into)
        got = self._run(plan, timeout)
        return self._results(got, data, mine, out)

    def all_to_all(
        self,
        parts: Sequence[Data],
        *,
        out: Sequence[Data] | None = None,
        layout: Layout = None,
        timeout: float | None = None,
    ) -> list[Data]:
        """Send `parts[i]` to member i; returns what each member had for this one. All parts have one dtype."""
        if len(parts) != self.size:
            raise ValueError(f"all_to_all over {self.size} members needs that many parts, not {len(parts)}")
        payloads = [payload_of(part) for part in parts]
        dtypes = {payload.dtype for payload in payloads}
        if len(dtypes) > 1:
            raise ValueError("the parts of an all_to_all must have one dtype")
        mine, into = payloads[self.index], self._targets(out)
        if into and into[self.index].nbytes != mine.nbytes:
            raise ValueError(f"out[{self.index}] holds {into[self.index].nbytes} bytes, the part has {mine.nbytes}")
        # What stays here is not staged.
        payloads[self.index] = Payload(None, 0, 0, mine.dtype, (0,))
        takes = dict.fromkeys(self._others, self.index)
        plan = Plan(Op.ALL_TO_ALL, None, payloads, mine.dtype, layout_hash(layout), takes, into)
        got = self._run(plan, timeout)
        return self._results(got, parts[self.index], mine, out)

    def broadcast(
        self,
        data: Data | None,
        src: int,
        *,
        out: Data | None = None,
        layout: Layout = None,
        timeout: float | None = None,
    ) -> Data:
        """The data of member `src` on every member; the others pass None. `src` gets its own object back."""
        self._check_index(src)
        if self.index == src:
            if data is None:
                raise ValueError(f"member {src} is the source of the broadcast and must give data")
            mine = payload_of(data)
            self._run(Plan(Op.BROADCAST, (src,), (mine,), mine.dtype, layout_hash(layout)), timeout)
            return data
        into = {} if out is None else {src: target_of(out)}
        dtype = into[src].dtype if into else 0
        got = self._run(Plan(Op.BROADCAST, (src,), (), dtype, layout_hash(layout), {src: 0}, into), timeout)
        return received(got[src]) if out is None else out

    def exchange(
        self, sends: Mapping[int, Data], receive: Sequence[int], *, timeout: float | None = None
    ) -> dict[int, Received]:
        """Point to point: send `sends[i]` to member i, and return what the members in `receive` had for this one.

        All members of the lane take part, with nothing to send or receive if need be. A member in `receive` that sends
        nothing here is a `Mismatch`.
        """
        for i in (*sends, *receive):
            self._check_index(i)
            if i == self.index:
                raise ValueError(f"member {i} cannot exchange with itself")
        nothing = Payload(None, 0, 0, 0, ())
        payloads = [payload_of(sends[i]) if i in sends else nothing for i in range(self.size)]
        takes = dict.fromkeys(receive, self.index)
        got = self._run(Plan(Op.EXCHANGE, None, payloads, takes=takes), timeout)
        return {i: received(payload) for i, payload in got.items()}

    def handover(self, data: Data | None, holders: Sequence[int], *, timeout: float | None = None) -> Data:
        """Give what the members `holders` have to those that lack it, each from one holder in turn; the cheap reshard.

        All members pass the same `holders`. Returns `data` on a holder and the received copy elsewhere. Nothing is
        staged by a holder that nobody reads from.
        """
        if not holders:
            raise ValueError("holders must name at least one member")
        for i in holders:
            self._check_index(i)
        having = set(holders)
        if (data is None) == (self.index in having):
            raise ValueError(f"member {self.index} must give data exactly when it is in holders={list(holders)}")
        lacking = [i for i in range(self.size) if i not in having]
        source_of = {i: holders[n % len(holders)] for n, i in enumerate(lacking)}
        sources = sorted(set(source_of.values()))
        layout = layout_hash(list(holders))
        if data is not None:
            parts = (payload_of(data),) if self.index in sources else ()
            self._run(Plan(Op.HANDOVER, sources, parts, layout=layout), timeout)
            return data
        got = self._run(Plan(Op.HANDOVER, sources, layout=layout, takes={source_of[self.index]: 0}), timeout)
        return received(got[source_of[self.index]])

    def publish(self, *parts: Data, layout: Layout = None, timeout: float | None = None) -> int:
        """Let the members read `parts` when they like; returns the sequence number for `pull` and `wait`.

        Every member publishes (nothing, if need be). Waits only until the parts of two publications ago are read. A
        publication is one round: it must fit into the arena (`ArenaFull`). It can be pulled until the next operation
        of the lane on the pulling rank.
        """
        payloads = [payload_of(part) for part in parts]
        dtype = payloads[0].dtype if payloads else 0
        plan = Plan(Op.PUBLISH, (), payloads, dtype, layout_hash(layout), single=True)
        self._run(plan, timeout)
        self._published = plan
        return self._seq - 1

    def pull(
        self, peer: int, seq: int, part: int = 0, *, out: Data | None = None, timeout: float | None = None
    ) -> Received | Data:
        """Part `part` of what member `peer` published as `seq`, waiting until it has; one copy, no message."""
        self._check_index(peer)
        published = self._last(seq)
        if peer == self.index:
            raise ValueError("a member does not pull from itself: it has the data")
        into = None if out is None else target_of(out)
        self._fence.guard()
        plan = replace(published, takes={peer: part}, into={} if into is None else {peer: into})
        takes: dict[int, Take] = {}
        try:
            for i in self._arrivals((peer,), seq, self._deadline(timeout)):
                self._take(i, seq, 0, plan, takes)
        except CollectiveError as error:
            self._fence.fail(error)
        self._first_timeout = None
        return received(takes[peer].target) if out is None else out

    def wait(self, seq: int, peers: Sequence[int] | None = None, *, timeout: float | None = None) -> None:
        """Return when the members `peers` (all others by default) have made publication `seq`."""
        published = self._last(seq)
        others = self._others if peers is None else [i for i in peers if i != self.index]
        for i in others:
            self._check_index(i)
        self._fence.guard()
        try:
            for i in self._arrivals(others, seq, self._deadline(timeout)):
                self._header(i, seq, published, 0)
        except CollectiveError as error:
            self._fence.fail(error)
        self._first_timeout = None

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.size:
            raise ValueError(f"member {index} is not in 0..{self.size - 1}; members are named by index, not by rank")

    def _last(self, seq: int) -> Plan:
        if self._published is None or seq != self._seq - 1:
            raise ValueError(f"publication {seq} cannot be read any more: the lane went on to {self._seq - 1}")
        return self._published

    def _targets(self, out: Sequence[Data] | None) -> dict[int, Payload]:
        if out is None:
            return {}
        if len(out) != self.size:
            raise ValueError(f"out needs {self.size} entries, not {len(out)}")
        return dict(enumerate(map(target_of, out)))

    def _results(self, got: Mapping[int, Payload], own: Data, mine: Payload, out: Sequence[Data] | None) -> list[Data]:
        if out is None:
            return [own if i == self.index else received(got[i]) for i in range(self.size)]
        copy(target_of(out[self.index]).address, mine.address, mine.nbytes)
        return list(out)
