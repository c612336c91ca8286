"""An unsafe policy in a live system: it takes too long, loses its place, and everybody is served all the same."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from gfdit.core.proposal import Limits, Policy, Proposal
from gfdit.core.view import View
from gfdit.live.system import LiveConfig, start_live
from gfdit.runtime.ejections import EjectionFiles
from gfdit.runtime.journal import Journal, JournalReader
from gfdit.runtime.records import TickRecord
from tests.live.emulation import Restless, assert_all_complete_and_equal, cost_model, requests

LIMIT_S = 0.005


@dataclass
class Ponderous(Restless):
    """Computes for more than its limit on every tick."""

    name: str = "ponderous"
    limits: Limits = field(default_factory=lambda: Limits(tick_s=LIMIT_S))
    fallback: Policy | None = field(default_factory=Restless)

    def plan(self, view: View) -> Proposal:
        until = time.thread_time() + 1.2 * LIMIT_S
        while time.thread_time() < until:
            pass
        return super().plan(view)


def test_a_policy_that_computes_too_long_is_ejected_and_told_of(tmp_path: Path) -> None:
    cost = cost_model()
    config = LiveConfig(Ponderous(), cost, device="emulated", workers=2, time_scale=20.0)
    files = EjectionFiles(tmp_path / "ejections")
    with start_live(config) as system:
        journal = Journal(tmp_path / "journal.sqlite", {"recipe": None}, system.scheduler)
        tickets = system.feed(requests(3))
        system.close_intake()
        system.run((journal, files))
        journal.close()
        assert system.scheduler.policy.name == "restless"
    assert_all_complete_and_equal(tickets, cost)
    (path,) = files.written
    told = json.loads(path.read_text("utf-8"))
    assert (told["policy"]["name"], told["cause"], told["blame"]) == ("ponderous", "overruns", "policy")
    assert all(strike["seconds"] > LIMIT_S and strike["cpu_s"] > LIMIT_S for strike in told["strikes"])
    reader = JournalReader(tmp_path / "journal.sqlite")
    ticks = [record for record in reader.records() if isinstance(record, TickRecord)]
    reader.close()
    ejected = next(n for n, tick in enumerate(ticks) if any(news.kind == "eject" for news in tick.policy_news))
    assert ticks[ejected + 1].policy == "restless"
    # no plan that came too late was carried out: until the fallback took over, nothing ran at all
    assert not any(tick.commands for tick in ticks[: ejected + 1])
