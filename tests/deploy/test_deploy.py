"""The dashboard asks for series that exist, by labels that they have; the files of `deploy/` fit together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_worlds import make_cost

from gfdit.config import DEFAULT_HOST, DEFAULT_PORT
from gfdit.policy.store import load_policy
from gfdit.runtime.metrics import Metrics, metric_names
from gfdit.sim.run import build_scheduler

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "gfdit.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
SERIES = re.compile(r"\bgfdit_\w+")
GROUPING = re.compile(r"\bby \(([^)]*)\)")
HISTOGRAM_SUFFIX = re.compile(r"_(bucket|sum|count|total|info)$")


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics(build_scheduler(load_policy("slo"), make_cost(), 4), 4, make_cost())


def queries() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def load(*path: str) -> Any:
    return yaml.safe_load(DEPLOY.joinpath(*path).read_text("utf-8"))


def test_every_query_asks_for_series_that_exist(metrics: Metrics) -> None:
    asked = {name for query in queries() for name in SERIES.findall(query)}
    assert len(asked) > 15
    assert asked <= metric_names(metrics)


def test_every_metric_is_on_the_dashboard(metrics: Metrics) -> None:
    asked = {HISTOGRAM_SUFFIX.sub("", name) for query in queries() for name in SERIES.findall(query)}
    assert {family.name for family in metrics.registry.collect()} == asked


def test_queries_group_by_labels_that_the_series_have(metrics: Metrics) -> None:
    labels = {metric._name: set(metric._labelnames) | {"le"} for metric in metrics.registry._collector_to_names}  # type: ignore[attr-defined]
    for panel in PANELS:
        for target in panel["targets"]:
            known: set[str] = set()
            for name in SERIES.findall(target["expr"]):
                known |= labels[HISTOGRAM_SUFFIX.sub("", name)]
            grouped = {label.strip() for group in GROUPING.findall(target["expr"]) for label in group.split(",")}
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert grouped | shown <= known, panel["title"]
            assert not grouped or shown <= grouped, panel["title"]


def test_panels_do_not_overlap_and_use_the_provisioned_source() -> None:
    (source,) = load("grafana", "provisioning", "datasources", "gfdit.yaml")["datasources"]
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & mine and at["x"] + at["w"] <= 24, panel["title"]
        cells |= mine
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_compose_mounts_what_is_here_and_scrapes_the_default_address() -> None:
    compose = load("compose.yaml")
    mounts = [volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]]
    for mount in mounts:
        assert (DEPLOY / mount).exists() if mount.startswith("./") else mount in compose["volumes"]
    (job,) = load("prometheus.yaml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{DEFAULT_HOST}:{DEFAULT_PORT}"]}]
    (provider,) = load("grafana", "provisioning", "dashboards", "gfdit.yaml")["providers"]
    targets = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in targets


def test_the_reference_page_lists_every_metric_with_its_labels(metrics: Metrics) -> None:
    page = (DEPLOY.parent / "docs" / "reference" / "http.md").read_text("utf-8")
    listed = {name: set(labels.split(",")) - {""} for name, labels in re.findall(r"`(gfdit_\w+)(?:{([\w,]+)})?`", page)}
    assert set(listed) <= metric_names(metrics) | {family.name for family in metrics.registry.collect()}
    labels = {metric._name: set(metric._labelnames) for metric in metrics.registry._collector_to_names}  # type: ignore[attr-defined]
    shown = {HISTOGRAM_SUFFIX.sub("", name): own for name, own in listed.items()}
    assert set(shown) == set(labels)
    for name, own in shown.items():
        assert own == labels[name] or name == "gfdit_policy", name  # an info's labels are its values
