"""A real model of videos, tiny and untrained, from a folder to an MP4 file over HTTP."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import httpx
import pytest

from gfdit.live.system import LiveConfig
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import parse_cost_model
from gfdit.worker.loading import quiet
from tests.api.conftest import WAIT_S, serve_config
from tests.worker.tiny import build

DEFAULTS = {"steps": 2, "height": 32, "width": 48, "num_frames": 5, "fps": 8, "max_sequence_length": 16}
STAGES = ("encode", "prepare", "denoise", "denoise_cfg", "decode", "finalize")


def cost() -> str:
    """Ten milliseconds for everything."""
    flat = {"points_s": [[1, 0.01]]}
    stages = {
        name: {"x": "one", "per": "step" if "denoise" in name else "request", "degrees": {"1": flat}} for name in STAGES
    }
    overheads = {"dispatch": 0.001, "reshard": 0.001}
    models = {"tiny": {"stages": stages}}
    return json.dumps({"format": "gfdit-cost/1", "name": "flat", "models": models, "overheads_s": overheads})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.timeout(300)
def test_a_video_has_the_frames_that_were_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    with quiet():
        build("wan").pipe.save_pretrained(str(folder))
    (folder / "defaults.json").write_text(json.dumps(DEFAULTS))
    config = LiveConfig(load_policy("fcfs"), parse_cost_model(cost()), "cpu", model=folder, workers=1)
    films = []
    for running in serve_config(config, videos=tmp_path / "videos"):
        for body in ({"prompt": "a", "seed": 3}, {"prompt": "a", "seed": 3, "seconds": 1, "fps": 12}):
            answer = httpx.post(f"{running.url}/v1/videos/sync", json=body, timeout=WAIT_S)
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "video/mp4"
            films.append(answer.content)
    found = []
    for film in films:
        with av.open(io.BytesIO(film)) as file:
            (stream,) = file.streams
            frames = [frame.to_ndarray(format="rgb24").shape for frame in file.decode(stream)]
            found.append((int(stream.average_rate), len(frames), frames[0]))
    assert found == [(8, 5, (32, 48, 3)), (12, 13, (32, 48, 3))]  # whole groups of four frames and one
