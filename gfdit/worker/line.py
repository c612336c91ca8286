"""A worker's line to the controller: a thread that owns the DEALER socket, so that heartbeats go out while the device
computes.

Messages for the command loop go into `inbox` in order; aborts overtake them and are noted in `aborts` at once. If the
controller's process is gone, this process ends at once: nobody is left to answer.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import threading
import time
from collections import deque

import zmq

from gfdit.errors import WireError
from gfdit.wire.codec import MAX_FRAME, TO_CONTROLLER, TO_WORKER
from gfdit.wire.messages import Abort, Forget, Heartbeat, Run, Shutdown, ToController
from gfdit.worker.aborts import AbortBoard

_log = logging.getLogger(__name__)

ORPHANED = 3  # exit code of a worker whose controller is gone


class Line(threading.Thread):
    """`busy_epoch` is told with each heartbeat; the command loop sets it."""

    def __init__(self, address: str, identity: bytes, heartbeat_s: float) -> None:
        super().__init__(name="line", daemon=True)
        self.inbox: queue.SimpleQueue[Run | Forget | Shutdown] = queue.SimpleQueue()
        self.aborts = AbortBoard()
        self.busy_epoch = 0
        self._outbox: deque[list[bytes]] = deque()
        self._address, self._identity = address, identity
        self._heartbeat_s = heartbeat_s
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
            dealer.close()
            context.term()

    def _serve(self, dealer: zmq.Socket[bytes]) -> None:
        parent = multiprocessing.parent_process()
        poller = zmq.Poller()
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
            if now >= beat_at:
                beat_at = now + self._heartbeat_s
                dealer.send_multipart(TO_CONTROLLER.encode(Heartbeat(self.busy_epoch)))
            ready = dict(poller.poll(1 + int(1000 * max(0.0, beat_at - time.monotonic()))))
            if parent is not None and parent.sentinel in ready:
                os._exit(ORPHANED)  # the other thread may be deep in a computation that nobody wants any more
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if dealer in ready:
                self._receive(dealer)

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
