"""The report: a page that stands alone, says what the timeline says, and draws every bar where it belongs."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from literal_policies import EdfBestFit
from matplotlib.collections import PatchCollection
from small_worlds import make_cost, make_workload

from gfdit.core.events import RequestArrived
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.core.work import Request, Stage
from gfdit.errors import JournalError
from gfdit.policy.store import compile_text
from gfdit.report import gantt_png, report_of_journal, write_report
from gfdit.report.colours import HUES, Colours, ink_on
from gfdit.report.figures import MAX_LIVES, class_names, gantt_figure, lives_figure, svg, told_lives
from gfdit.runtime.journal import Journal
from gfdit.runtime.recipe import recipe_of
from gfdit.runtime.timeline import Timeline, rank_runs
from gfdit.sim.run import SimConfig, simulate
from gfdit.units import to_ns

GPUS = 4
POLICY = """policy little version 1

admit { accept }
order by deadline, arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise {
  sp in {1, 2, 4} gpu minimizing finish(sp)
}
allocate greedy
"""
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Checks that tags balance, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.rows = 0
        self.headings: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.rows += tag == "tr"
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)
        self.text.append(data)


def simulated(count: int = 40) -> tuple[Timeline, dict[str, object]]:
    timeline = Timeline(GPUS)
    config = SimConfig(EdfBestFit(), make_workload(2, count), "made.jsonl", make_cost(), GPUS, noise=0.1)
    outcome = simulate(config, [timeline])
    return timeline, {**outcome.result, "resizes_by_kind": outcome.summary.resizes_by_kind()}


@pytest.fixture(scope="module")
def run() -> tuple[Timeline, dict[str, object]]:
    return simulated()


def test_the_page_stands_alone_and_has_every_part(run: tuple[Timeline, dict[str, object]], tmp_path: Path) -> None:
    timeline, summary = run
    path = tmp_path / "deep" / "report.html"
    write_report(timeline, summary, path, "A run", POLICY)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.headings == [
        "Ranks over time", "Latency and attainment", "Degree over time, request by request", "Requests", "Policy",
        "All figures",
    ]  # fmt: skip
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert text.count("<svg") == 3 and "<!--" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    shown = " ".join(page.text)
    for life in timeline.lives.values():
        assert life.request.id in shown
    assert f"{summary['attainment']:.1%}" in shown
    assert page.rows == 1 + len(timeline.lives) + len(POLICY.splitlines()) + _scalars(summary)


def _scalars(summary: dict[str, object]) -> int:
    return sum(len(value) if isinstance(value, dict) else 1 for value in summary.values())


def test_what_people_wrote_cannot_become_markup(tmp_path: Path) -> None:
    bad = "<script>alert('1')</script><!--body-->&$x_1$"
    timeline = Timeline(1)
    request = Request(bad, "m", bad, 0, 64, 64, 1, 16)
    timeline.record(to_ns(1), [RequestArrived(0, request)], Decision((), None), 0.0)
    path = tmp_path / "report.html"
    write_report(timeline, {"policy": bad, "workload": bad}, path, bad, bad)
    text = path.read_text(encoding="utf-8")
    Page(text)
    assert text.count("<script>") == 1 and "alert('1')</script>" not in text
    assert text.count("<h2>All figures</h2>") == 1


def test_a_report_of_nothing_is_still_a_page(tmp_path: Path) -> None:
    timeline = Timeline(2)
    timeline.update(0, (), (), ())
    write_report(timeline, {}, tmp_path / "report.html", "nothing")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Policy" not in page.headings and "Ranks over time" in page.headings


def test_bars_have_the_groups_ranks_and_one_colour_a_request(run: tuple[Timeline, dict[str, object]]) -> None:
    timeline, _ = run
    colours = Colours(class_names(timeline))
    figure = gantt_figure(timeline, colours)
    (bars,) = [item for item in figure.axes[0].collections if isinstance(item, PatchCollection)]
    drawn = [
        (path.get_extents(), tuple(face[:3]))
        for path, face in zip(bars.get_paths(), bars.get_facecolors(), strict=True)
    ]
    expected = [
        (life, stint, run)
        for life in timeline.lives.values()
        for stint in life.stints
        for run in rank_runs(stint.ranks)
    ]
    assert len(drawn) == len(expected)
    shades: dict[str, set[tuple[float, ...]]] = {}
    for (box, face), (life, stint, (first, last)) in zip(drawn, expected, strict=True):
        assert (round(box.y0 + 0.46), round(box.y1 - 0.46)) == (first, last)
        assert box.x0 == pytest.approx(stint.start / 1e9) and box.x1 == pytest.approx((stint.end or 0) / 1e9)
        if stint.stage is Stage.DENOISE:
            shades.setdefault(life.request.id, set()).add(face)
    assert len(shades) == len(timeline.lives) and all(len(faces) == 1 for faces in shades.values())


def test_every_life_is_drawn_or_the_most_telling_ones_are() -> None:
    timeline, _ = simulated(MAX_LIVES + 40)
    told = told_lives(timeline)
    assert len(told) == MAX_LIVES
    assert [life.request.arrival_ns for life in told] == sorted(life.request.arrival_ns for life in told)
    changes = {
        life.request.id: life.resizes + 2 * life.preemptions + 3 * (not life.end.on_time) for life in told if life.end
    }
    left = [
        life.resizes + 2 * life.preemptions + 3 * (not life.end.on_time)
        for life in timeline.lives.values()
        if life.end and life.request.id not in changes
    ]
    assert min(changes.values()) >= max(left)
    figure = lives_figure(timeline, Colours(class_names(timeline)))
    assert len(figure.axes[0].get_yticks()) == MAX_LIVES


def test_pictures_are_xml_and_equal_each_time(run: tuple[Timeline, dict[str, object]]) -> None:
    timeline, _ = run
    colours = Colours(class_names(timeline))
    first, second = (svg(gantt_figure(timeline, colours), "gantt") for _ in range(2))
    assert first == second
    assert ET.fromstring(first).tag.endswith("svg")


def test_a_png_for_a_readme(run: tuple[Timeline, dict[str, object]], tmp_path: Path) -> None:
    gantt_png(run[0], tmp_path / "g.png", dpi=50)
    data = (tmp_path / "g.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(data[16:20], "big") == 13 * 50


def test_many_tasks_stay_small(tmp_path: Path) -> None:
    timeline, summary = simulated(400)
    assert len(timeline.tasks) > 2000
    path = tmp_path / "report.html"
    write_report(timeline, summary, path, "many", POLICY)
    assert path.stat().st_size < 3_000_000


def test_a_journal_alone_makes_the_report(tmp_path: Path) -> None:
    policy, cost = compile_text(POLICY, "little.pol"), make_cost()
    workload = make_workload(8, 12)
    journals: list[Journal] = []

    def observers(scheduler: Scheduler) -> list[Journal]:
        header = recipe_of(policy, {}, cost, GPUS, about={"workload": "made.jsonl", "device": "simulated"}).to_json()
        journals.append(Journal(tmp_path / "journal.sqlite", header, scheduler))
        return journals

    result = simulate(SimConfig(policy, workload, "made.jsonl", cost, GPUS), observers).result
    journals[0].close()
    out = report_of_journal(tmp_path / "journal.sqlite", tmp_path / "report.html")
    shown = " ".join(Page(out.read_text(encoding="utf-8")).text)
    assert "made.jsonl under little, 4 simulated ranks" in shown
    assert "stage encode, decode" in shown and f"{result['attainment']:.1%}" in shown
    assert f"{result['resizes']}" in shown


def test_what_is_no_journal_makes_no_report(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        report_of_journal(tmp_path / "missing.sqlite", tmp_path / "report.html")
    with pytest.raises(JournalError, match="no journal"):
        write_report(tmp_path / "missing.sqlite", {}, tmp_path / "report.html", "t")
    assert not (tmp_path / "report.html").exists()


def test_shades_of_a_class_differ_between_neighbours() -> None:
    timeline, _ = simulated(12)
    colours = Colours(["c"])
    by_number = sorted(timeline.lives.values(), key=lambda life: life.number)
    shades = [colours.of(life) for life in by_number]
    assert all(one != other for one, other in pairwise(shades))
    assert colours.of_class("nobody") == HUES[-1]
    assert ink_on((0.0, 0.0, 0.2)) == "#ffffff" and ink_on((1.0, 1.0, 0.8)) != "#ffffff"
