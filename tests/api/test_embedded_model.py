"""The embedded model behind OpenAI's client: real pictures, in the format and of the size that were asked for."""

from __future__ import annotations

import base64
import io
from typing import Literal

import httpx
import openai
import pytest
from PIL import Image

from gfdit.cli.shipped import find_cost
from gfdit.live.system import LiveConfig
from gfdit.models import embedded_model_path
from gfdit.policy.store import load_policy
from gfdit.runtime.costfile import load_cost_model

from .conftest import WAIT_S, serve_config

FORMATS: tuple[Literal["png", "jpeg", "webp"], ...] = ("png", "jpeg", "webp")
MORE = {"num_inference_steps": 2, "seed": 3}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pictures_have_the_format_that_was_asked_for() -> None:
    cost = load_cost_model(find_cost("shapes"))
    config = LiveConfig(load_policy("slo"), cost, "cpu", model=embedded_model_path(), workers=1)
    prompt = "a red circle on a blue background"
    for running in serve_config(config):
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", timeout=WAIT_S, max_retries=0) as client:
            pictures = {}
            for kind in FORMATS:
                answer = client.images.generate(prompt=prompt, size="64x64", output_format=kind, extra_body=MORE)
                assert answer.data is not None and answer.data[0].b64_json is not None
                assert answer.output_format == kind
                pictures[kind] = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
            linked = client.images.generate(prompt=prompt, response_format="url", output_format="webp", extra_body=MORE)
        assert {kind: picture.format for kind, picture in pictures.items()} == {k: k.upper() for k in FORMATS}
        assert {picture.size for picture in pictures.values()} == {(64, 64)}
        assert linked.data is not None and linked.data[0].url is not None
        fetched = httpx.get(linked.data[0].url, timeout=WAIT_S)
        assert fetched.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(fetched.content)).format == "WEBP"
