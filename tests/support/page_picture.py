"""Draws docs/images/page.png: the page of an emulated system at work. A script; needs Chromium and Playwright."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "page.png"
PORT, SCALE, REQUESTS, SEED = 8765, 10.0, 120, 7
URL = f"http://127.0.0.1:{PORT}"
READY_S, LOAD_S = 60.0, 40.0


def ask(number: int) -> None:
    """One request at some time of the load."""
    draw = random.Random(SEED + number)
    time.sleep(draw.uniform(0, LOAD_S))
    body = {
        "prompt": "a red circle on a blue background",
        "size": draw.choice(["512x512", "1024x1024", "1536x1536"]),
        "class": draw.choice(["interactive", "standard", "batch"]),
        "num_inference_steps": draw.choice([10, 20, 30]),
    }
    try:
        httpx.post(f"{URL}/v1/images/generations", json=body, timeout=300)
    except httpx.TransportError:
        pass  # the picture is drawn and the server gone


def draw() -> None:
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1320, "height": 900})
        page.goto(URL)
        page.wait_for_timeout(LOAD_S * 600)
        page.screenshot(path=str(PICTURE))
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "gfdit", "run", "--policy", "slo.pol", "--device", "emulated", "--cost"]
        command += ["qwen-h20", "--workers", "8", "--time-scale", str(SCALE), "--port", str(PORT), "--out", out]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            until = time.monotonic() + READY_S
            while time.monotonic() < until:
                try:
                    if httpx.get(f"{URL}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            for number in range(REQUESTS):
                threading.Thread(target=ask, args=(number,), daemon=True).start()
            try:
                draw()
            finally:
                server.terminate()
                time.sleep(1)
                server.terminate()


if __name__ == "__main__":
    main()
