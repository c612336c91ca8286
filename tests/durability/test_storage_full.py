"""A disk that is full, seen from outside: new requests are told so, those that run get their answers, none is lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from gfdit.api.server import HttpServer
from gfdit.cli.service import LiveService
from gfdit.cli.shipped import find_cost
from gfdit.live.durable_ledger import Ledger
from gfdit.live.system import LiveConfig, start_live
from gfdit.policy.store import load_policy
from gfdit.runtime.blobs import Blobs
from gfdit.runtime.costfile import load_cost_model

from .serving import PATH, WAIT_S, asked, entries, undisturbed

COST = load_cost_model(find_cost("qwen-h20"))
MOST_PAGES = 24  # SQLite itself refuses to grow the file: the same error as of a full disk


def test_a_full_disk_is_503_and_stops_nothing(tmp_path: Path) -> None:
    config = LiveConfig(load_policy("slo"), COST, "emulated", workers=2, time_scale=100.0)
    blobs = Blobs(tmp_path / "results")
    with start_live(config) as system, ThreadPoolExecutor(64) as pool:
        system.keep(Ledger(tmp_path / "ledger.sqlite", blobs, MOST_PAGES))
        service = LiveService(system, None)
        loop = threading.Thread(target=system.run, args=(service.observers,))
        loop.start()
        try:
            with (
                HttpServer(service, "127.0.0.1", 0, results=blobs) as server,
                httpx.Client(base_url=server.url, timeout=WAIT_S) as client,
            ):
                long = [pool.submit(client.post, PATH, json=asked(n, prompt="x" * 1500)) for n in range(60)]
                answers = [one.result() for one in long]
                refused = [answer for answer in answers if answer.status_code == 503]
                served = [answer for answer in answers if answer.status_code == 200]
                assert len(refused) >= 20 and len(served) >= 3 and len(refused) + len(served) == 60
                for answer in refused:
                    told = answer.json()["error"]
                    assert (told["code"], told["type"]) == ("storage_full", "server_error")
                    assert answer.headers["x-should-retry"] == "true" and int(answer.headers["retry-after-ms"]) > 0
                assert client.post(PATH, json=asked(60, prompt="x" * 4000)).status_code == 503
                assert "gfdit_storage_failing 1.0" in client.get("/metrics").text
                assert client.get("/livez").status_code == 200
        finally:
            system.drain()
            loop.join(WAIT_S)
    known = entries(tmp_path)  # with room again
    assert set(known) == {answer.json()["gfdit"]["id"] for answer in served}
    for entry in known.values():
        unwritten = entry.progress is None  # its end found no room before the process was gone: it would run again
        assert unwritten or entry.output == undisturbed(entry.request, tuple(COST.stages("qwen-image")))
