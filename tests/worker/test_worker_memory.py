"""Running out of memory costs a task, and never a worker; decoding is tried again in tiles."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from gfdit.core.parallel import Parallel
from gfdit.core.work import Outcome, Request
from gfdit.live.system import LiveConfig, start_live
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import parse_cost_model
from gfdit.worker.loading import quiet
from gfdit.worker.loop import _code
from gfdit.worker.memory import is_out_of_memory, one_kind
from gfdit.worker.tasks import TaskResult, join_state
from tests.worker.fleet import Fleet
from tests.worker.tiny import PROMPT, build

INPUTS = {"prompt": PROMPT, "height": 32, "width": 32, "num_inference_steps": 3, "seed": 5}


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Fleet(2, "flux") as fleet:
        yield fleet


def test_all_ways_of_saying_it_are_one() -> None:
    with pytest.raises(RuntimeError) as told, torch.no_grad():
        torch.empty(1 << 50)
    assert is_out_of_memory(told.value)
    for error in (told.value, torch.OutOfMemoryError("CUDA out of memory."), MemoryError("x")):
        with pytest.raises(MemoryError) as caught, one_kind():
            raise error
        assert _code(caught.value) == "out_of_memory"
    with pytest.raises(RuntimeError, match="shapes"), one_kind():
        raise RuntimeError("shapes do not fit")


def test_a_step_without_memory_fails_and_is_run_again(fleet: Fleet) -> None:
    cold, expected, _ = fleet.serial("serial", INPUTS)
    how = {"parallel": Parallel(ulysses=2), "restore": join_state(cold), "steps": 3}
    whole = fleet.run("other", "denoise", (0, 1), **how)[0].hot
    fleet.call(1, "starve_after", 2)
    outcomes = fleet.outcomes("r", "denoise", (0, 1), **how)
    assert str(outcomes[1]).startswith("MemoryError: ")
    assert "can't allocate memory" in str(outcomes[1])
    assert str(outcomes[0]).startswith("PeerAborted")
    again = fleet.run("r", "denoise", (0, 1), **how)[0].hot
    assert again == whole
    narrower = fleet.run("narrow", "denoise", (0,), restore=join_state(cold), steps=3)[0].hot
    assert narrower == expected


def test_a_decoder_without_memory_decodes_in_tiles(fleet: Fleet) -> None:
    fleet.use("sd3")
    large = {**INPUTS, "height": 64, "width": 96}  # tiles of this VAE are 32 pixels wide
    cold, hot, whole = fleet.serial("large", large)
    fleet.call(0, "starve_decoder", False)
    output = fleet.run("large", "finalize", (0,), restore=join_state(cold, hot))[0].output
    assert output is not None
    with Image.open(io.BytesIO(output)) as picture:
        assert picture.size == (96, 64)
    assert output != whole  # tiles see less of each other
    cold, hot, whole = fleet.serial("small", INPUTS, rank=1)
    assert fleet.run("small", "finalize", (0,), restore=join_state(cold, hot))[0].output == whole  # one tile
    fleet.call(1, "starve_decoder", True)
    outcome = fleet.outcomes("s", "finalize", (1,), restore=join_state(cold, hot))[1]
    assert outcome == "MemoryError: CUDA out of memory. Tried to allocate 9.00 GiB."
    assert isinstance(fleet.run("t", "encode", (1,), inputs=INPUTS)[1], TaskResult)


def cost(name: str) -> str:
    """Ten milliseconds for everything."""
    flat = {"points_s": [[1, 0.01]]}
    stages = {
        stage: {"x": "one", "per": "step" if "denoise" in stage else "request", "degrees": {"1": flat}}
        for stage in ("encode", "prepare", "denoise", "denoise_cfg", "decode", "finalize")
    }
    overheads = {"dispatch": 0.001, "reshard": 0.001}
    body = {"format": "gfdit-cost/1", "name": "flat", "models": {name: {"stages": stages}}, "overheads_s": overheads}
    return json.dumps(body)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.timeout(300)
def test_a_request_too_large_for_memory_fails_alone(tmp_path: Path) -> None:
    """Its noise would take 4 TB; the one after it is drawn by the same process."""
    folder = tmp_path / "tiny"
    with quiet():
        build("flux").pipe.save_pretrained(str(folder))
    config = LiveConfig(load_policy("fcfs"), parse_cost_model(cost("tiny")), "cpu", model=folder, workers=1)
    with start_live(config) as system:
        before = system.fleet.supervisor.lives[0].pid
        side = 1 << 20
        large = Request("large", "tiny", "any", 0, side, side, 2, 1 << 32, prompt=PROMPT)
        small = Request("small", "tiny", "any", 0, 32, 32, 2, 4, prompt=PROMPT)
        tickets = system.feed([large, small])
        system.close_intake()
        system.run([])
        failed, drawn = (ticket.progress for ticket in tickets)
        assert failed.outcome is Outcome.FAILED
        assert failed.code == "out_of_memory", failed
        assert drawn.outcome is Outcome.COMPLETED, drawn
        assert system.fleet.supervisor.lives[0].pid == before
    with Image.open(io.BytesIO(tickets[1].output)) as picture:
        assert picture.size == (32, 32)
