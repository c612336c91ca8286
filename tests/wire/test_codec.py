"""Whatever is encoded decodes to the same message; whatever else arrives raises WireError and nothing more."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gfdit.core.work import Stage
from gfdit.errors import WireError
from gfdit.wire.codec import MAX_BLOBS, MAX_FRAME, MAX_HEADER, TO_CONTROLLER, TO_WORKER, Codec
from gfdit.wire.messages import (
    Abort,
    Endpoint,
    Facts,
    Forget,
    Goodbye,
    Heartbeat,
    Hello,
    Ready,
    Run,
    Shutdown,
    TaskDone,
    TaskFailed,
    Unfit,
)

epochs = st.integers(1, 2**40 - 1)
ranks = st.integers(0, 2**16 - 1)
counts = st.integers(0, 2**53 - 1)
ids = st.text(min_size=1, max_size=40)
blobs = st.none() | st.binary(max_size=200)
values = st.dictionaries(
    st.text(min_size=1, max_size=20),
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | st.text(max_size=50),
    max_size=5,
)
endpoints = st.builds(Endpoint, ranks, st.integers(1, 2**32 - 1), counts, counts, counts)
degrees = st.integers(1, 128)

runs = st.builds(
    Run,
    epoch=epochs,
    request_id=ids,
    stage=st.sampled_from(Stage),
    ranks=st.lists(ranks, min_size=1, max_size=8).map(tuple),
    first_step=counts,
    steps=counts,
    sources=st.lists(ranks, max_size=8).map(tuple),
    parallel=st.tuples(degrees, degrees, degrees),
    endpoints=st.lists(endpoints, max_size=4).map(tuple),
    inputs=values,
    restore=blobs,
)
to_worker = st.one_of(runs, st.builds(Abort, epochs, st.text(max_size=50)), st.builds(Forget, ids), st.just(Shutdown()))
facts = st.builds(
    Facts,
    name=ids,
    family=ids,
    heads=degrees,
    degrees=st.lists(degrees, min_size=1, max_size=8).map(tuple),
    branches=st.integers(1, 4),
    token_height=degrees,
    token_width=degrees,
    frame_factor=degrees,
    defaults=values,
)
seconds = st.floats(0, 1e6)
to_controller = st.one_of(
    st.builds(Hello, counts),
    st.builds(Ready, endpoints, st.none() | facts),
    st.builds(Unfit, st.text(max_size=50)),
    st.builds(Heartbeat, counts),
    st.just(Goodbye()),
    st.builds(TaskFailed, epochs, st.sampled_from(["worker_lost", "error", "aborted"]), st.text(max_size=50)),
    st.builds(
        TaskDone,
        epoch=epochs,
        done=counts,
        total=st.none() | counts,
        handover_s=seconds,
        compute_s=seconds,
        collectives=counts,
        bytes_moved=counts,
        cold=blobs,
        hot=blobs,
        output=blobs,
    ),
)

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(to_worker)
def test_to_worker_roundtrip(message: object) -> None:
    assert TO_WORKER.decode(TO_WORKER.encode(message)) == message


@few
@given(to_controller)
def test_to_controller_roundtrip(message: object) -> None:
    assert TO_CONTROLLER.decode(TO_CONTROLLER.encode(message)) == message


@few
@given(st.lists(st.binary(max_size=300), max_size=7))
def test_random_frames_raise_wire_error(frames: list[bytes]) -> None:
    for codec in (TO_WORKER, TO_CONTROLLER):
        with pytest.raises(WireError):
            codec.decode(frames)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(to_controller, st.data())
def test_damaged_frames_decode_or_raise_wire_error(message: object, data: st.DataObject) -> None:
    frames = TO_CONTROLLER.encode(message)
    which = data.draw(st.integers(0, len(frames) - 1))
    frame = bytearray(frames[which])
    for _ in range(data.draw(st.integers(1, 4))):
        if frame:
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    frames[which] = bytes(frame)
    try:
        decoded = TO_CONTROLLER.decode(frames)
    except WireError:
        return
    assert TO_CONTROLLER.decode(TO_CONTROLLER.encode(decoded)) == decoded


def header(message: dict[str, object], blobs: list[object] | None = None) -> bytes:
    return json.dumps({"message": message, "blobs": blobs or []}).encode()


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([], "1 to 5 frames"),
        ([header({"type": "goodbye"})] + [b""] * (MAX_BLOBS + 1), "1 to 5 frames"),
        ([b" " * (MAX_HEADER + 1)], "exceeds"),
        ([header({"type": "goodbye"}), memoryview(bytearray(MAX_FRAME + 1))], "exceeds"),
        ([header({"type": "goodbye", "extra": 1})], "extra"),
        ([header({"type": "heartbeat", "busy_epoch": True})], "busy_epoch"),
        ([header({"type": "heartbeat", "busy_epoch": 1.0})], "busy_epoch"),
        ([header({"type": "heartbeat", "busy_epoch": "1"})], "busy_epoch"),
        ([header({"type": "task_failed", "epoch": 0, "code": "error"})], "epoch"),
        ([header({"type": "task_failed", "epoch": 1 << 40, "code": "error"})], "epoch"),
        ([header({"type": "task_failed", "epoch": 1, "code": "sulking"})], "code"),
        ([header({"type": "task_done", "epoch": 1, "compute_s": float("inf")})], "decode"),
        ([header({"type": "task_done", "epoch": 1, "hot": "forged"})], "frames beside the header"),
        ([header({"type": "task_done", "epoch": 1}, [["hot", 3]])], "announces other blobs"),
        ([header({"type": "task_done", "epoch": 1}, [["hot", 3]]), b"four"], "announces other blobs"),
        ([header({"type": "task_done", "epoch": 1}, [["hot", 1], ["hot", 1]]), b"a", b"b"], "cannot carry"),
        ([header({"type": "task_done", "epoch": 1}, [["epoch", 1]]), b"a"], "cannot carry"),
        ([header({"type": "goodbye"}), b"stray"], "announces other blobs"),
        ([b"[" * 100_000], "decode"),
    ],
)
def test_refused_with_a_reason(frames: list[bytes], why: str) -> None:
    with pytest.raises(WireError, match=why):
        TO_CONTROLLER.decode(frames)


def test_directions_do_not_mix() -> None:
    with pytest.raises(WireError):
        TO_CONTROLLER.decode(TO_WORKER.encode(Shutdown()))
    with pytest.raises(WireError):
        TO_WORKER.decode(TO_CONTROLLER.encode(Goodbye()))


@pytest.mark.parametrize("codec", [TO_WORKER, TO_CONTROLLER])
def test_blobs_travel_raw(codec: Codec[object]) -> None:
    payload = bytes(range(256)) * 16
    message = (
        Run(1, "a", Stage.DENOISE, (0,), 0, 1, (), (1, 1, 1), restore=payload)
        if codec is TO_WORKER
        else TaskDone(1, output=payload)
    )
    frames = codec.encode(message)
    assert frames[1] == payload
    assert len(frames[0]) < 1000
