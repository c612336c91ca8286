"""A worker's line to the controller: a thread that owns the DEALER socket, so that heartbeats go out while the device
computes.

Messages for the command loop go into `inbox` in order; aborts overtake them and are noted in `aborts` at once. If the
controller's process is gone, this process ends: at once, or when no other one has called within the grace period. Until
then it gives up what it was told and keeps its model.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

from gfdit.errors import WireError
from gfdit.wire.codec import MAX_FRAME, TO_CONTROLLER, TO_WORKER
from gfdit.wire.messages import Abort, Forget, Heartbeat, Run, Shutdown, ToController
from gfdit.worker.aborts import AbortBoard

_log = logging.getLogger(__name__)

ORPHANED = 3  # exit code of a worker whose controller is gone


@dataclass(frozen=True, slots=True)
class Orphaned:
    """The controller that gave all work so far is gone: what is held for it is worth nothing."""


class Line(threading.Thread):
    """`busy_epoch` is told with each heartbeat; the command loop sets it. `grace_s`: how long it waits for a
    controller, 0: not at all."""

    def __init__(self, address: str, identity: bytes, heartbeat_s: float, grace_s: float = 0.0) -> None:
        super().__init__(name="line", daemon=True)
        self.inbox: queue.SimpleQueue[Run | Forget | Shutdown | Orphaned] = queue.SimpleQueue()
        self.aborts = AbortBoard()
        self.busy_epoch = 0
        self._outbox: deque[list[bytes]] = deque()
        self._address, self._identity = address, identity
        self._heartbeat_s, self._grace_s = heartbeat_s, grace_s
        self._alone_since: float | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False

    def send(self, message: ToController) -> None:
        """Any thread. Leaves at once, in order. Raises WireError for a message that the controller would refuse."""
        self._outbox.append(TO_CONTROLLER.encode(message))
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Send what is left, then end."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self.join()

    def run(self) -> None:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, self._identity)
        dealer.setsockopt(zmq.LINGER, 1000)  # the last words of an orderly exit
        dealer.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
        dealer.connect(self._address)
        try:
            self._serve(dealer)
        finally:
            dealer.disable_monitor()  # its socket would keep the context from ending
            dealer.close()
            context.term()

    def _serve(self, dealer: zmq.Socket[bytes]) -> None:
        parent = multiprocessing.parent_process() if self._grace_s == 0 else None
        poller = zmq.Poller()
        monitor: zmq.Socket[bytes] | None = None
        if self._grace_s > 0:
            self._alone_since = time.monotonic()
            monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
            poller.register(monitor, zmq.POLLIN)
        poller.register(dealer, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        if parent is not None:
            poller.register(parent.sentinel, zmq.POLLIN)
        beat_at = time.monotonic()
        while True:
            self._flush(dealer)
            if self._closing and not self._outbox:
                return
            now = time.monotonic()
            if self._alone_since is not None and now > self._alone_since + self._grace_s:
                os._exit(ORPHANED)
            if now >= beat_at:
                beat_at = now + self._heartbeat_s
                if self._alone_since is None:
                    dealer.send_multipart(TO_CONTROLLER.encode(Heartbeat(self.busy_epoch)))
            ready = dict(poller.poll(1 + int(1000 * max(0.0, beat_at - time.monotonic()))))
            if parent is not None and parent.sentinel in ready:
                os._exit(ORPHANED)  # the other thread may be deep in a computation that nobody wants any more
            if monitor is not None and monitor in ready:
                self._connection_changed(recv_monitor_message(monitor)["event"])
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if dealer in ready:
                self._receive(dealer)

    def _connection_changed(self, event: int) -> None:
        """One controller has gone, or one has come. What the loop has not begun it never begins; what it does is to be
        given up."""
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._alone_since = None
            return
        self._alone_since = time.monotonic()
        with suppress(queue.Empty):
            while True:
                self.inbox.get_nowait()
        self.inbox.put(Orphaned())
        if self.busy_epoch:
            self.aborts.add(self.busy_epoch, "the controller is gone")

    def _flush(self, dealer: zmq.Socket[bytes]) -> None:
        while self._outbox:
            dealer.send_multipart(self._outbox.popleft())

    def _receive(self, dealer: zmq.Socket[bytes]) -> None:
        while True:
            try:
                frames = dealer.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = TO_WORKER.decode(frames)
            except WireError as error:
                _log.warning("dropped a message: %s", error)
                continue
            if isinstance(message, Abort):
                self.aborts.add(message.epoch, message.reason)
            else:
                self.inbox.put(message)
