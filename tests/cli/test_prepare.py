"""Settings: what is found where, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfdit.cli.prepare import cost_file, prepare, profile_path
from gfdit.cli.results import Pictures
from gfdit.cli.shipped import find_cost, find_workload
from gfdit.config import Device, Environment, RunConfig, parse_size, parse_workers
from gfdit.core.work import Request
from gfdit.errors import CostModelError, UsageError
from gfdit.live.results import Progress, Status, Ticket
from gfdit.models import embedded_model_path
from gfdit.models.folders import model_name
from gfdit.models.shapes.vocabulary import BACKGROUNDS, COLOURS, COUNTS, SHAPES, SIZES
from gfdit.runtime.geometry import tokens_of
from gfdit.runtime.workload import load_workload


def environment(home: Path, **variables: str) -> Environment:
    return Environment.read({"GFDIT_HOME": str(home), **variables})


def test_the_environment_has_defaults_and_can_be_set(tmp_path: Path) -> None:
    bare = Environment.read({"XDG_DATA_HOME": str(tmp_path)})
    assert (bare.url, bare.cost, bare.home) == ("http://127.0.0.1:8000", None, tmp_path / "gfdit")
    set_ = environment(tmp_path, GFDIT_URL="http://127.0.0.1:9", GFDIT_COST="qwen-h20")
    assert (set_.url, set_.cost, set_.home) == ("http://127.0.0.1:9", Path("qwen-h20"), tmp_path)


@pytest.mark.parametrize("text", ["64", "64x", "x64", "64x64x64", "-1x64", "64 x 64", "²x64", "999999x99999999"])
def test_a_size_is_two_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="128x128"):
        parse_size(text)


def test_sizes_and_workers_as_written() -> None:
    assert parse_size("64X128") == (64, 128)
    assert (parse_workers("auto"), parse_workers("3")) == (None, 3)


def test_the_cost_model_is_the_nearest_to_the_user(tmp_path: Path) -> None:
    folder = embedded_model_path()
    assert model_name(folder) == "shapes"

    def chosen(given: str | None, **variables: str) -> Path:
        return cost_file(given, folder, Device.CPU, environment(tmp_path, **variables))[0]

    assert chosen(None) == find_cost("shapes")
    measured = profile_path(environment(tmp_path), "shapes", Device.CPU)
    measured.parent.mkdir(parents=True)
    measured.write_text("{}")
    assert chosen(None) == measured
    assert chosen(None, GFDIT_COST="wan5b") == find_cost("wan5b")
    assert chosen("qwen-h20", GFDIT_COST="wan5b") == find_cost("qwen-h20.cost.json")


def test_a_model_without_a_cost_model_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gfdit profile --model"):
        cost_file(None, tmp_path, Device.CPU, environment(tmp_path))


def test_a_workload_for_a_model_that_is_not_served_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = RunConfig("slo", workload=find_workload("mixed.jsonl"), device=Device.EMULATED)
    with pytest.raises(CostModelError, match="no model `shapes`"):
        prepare(config, environment(tmp_path))


def test_mixed_asks_for_what_the_embedded_model_knows() -> None:
    requests = load_workload(find_workload("mixed"))
    plurals = {f"{shape}s" for shape in SHAPES} | {"crosses"}
    places = ("in", "the", "top", "bottom", "left", "right", "of", "corner", "above", "below")
    known = {
        *SHAPES,
        *plurals,
        *COLOURS,
        *BACKGROUNDS,
        *COUNTS.values(),
        *SIZES,
        *places,
        "a",
        "an",
        "on",
        "background",
    }
    assert 24 <= len(requests) <= 40
    assert {request.class_name for request in requests} == {"interactive", "standard", "batch"}
    for request in requests:
        assert set(request.prompt.split()) <= known, request.prompt
        assert request.prompt.rpartition(" on a ")[2] in {f"{name} background" for name in BACKGROUNDS}
        assert request.tokens == tokens_of("shapes", request.height, request.width, 1)
        assert 64 <= min(request.width, request.height) <= max(request.width, request.height) <= 512
        assert request.cfg and request.slo_ns is not None


@pytest.mark.parametrize("path", sorted(find_cost("qwen-h20").parent.glob("*.json")), ids=lambda path: path.name)
def test_shipped_cost_models_say_where_they_are_from(path: Path) -> None:
    body = json.loads(path.read_text())
    assert len(body["source"]) > 20 and body["device"]
    assert find_cost(path.name) == path


def test_the_geometry_gives_the_published_token_counts() -> None:
    assert tokens_of("qwen-image", 1024, 1024, 1) == 4096
    assert tokens_of("wan2.2-ti2v-5b", 480, 832, 49) == 5070
    assert tokens_of("wan2.2-ti2v-5b", 720, 1280, 81) == 18480
    assert tokens_of("unheard-of", 64, 64, 1) is None


def ended(request_id: str, output: bytes | None) -> Ticket:
    ticket = Ticket(Request(request_id, "m", "c", 0, 8, 8, 1, 1))
    ticket.update(Progress(status=Status.ENDED), output)
    return ticket


def test_pictures_stay_inside_their_folder_and_never_overwrite_each_other(tmp_path: Path) -> None:
    inside = tmp_path / "out"
    inside.mkdir()
    pictures = Pictures(inside)
    png = b"\x89PNG\r\n\x1a\n"
    for number, name in enumerate(("a", "A", "a/b", "a b", "../../a", "/etc/x", "..", "é")):
        ended(name, png + bytes([number])).on_end(pictures.take)
    ended("digest", b"0123").on_end(pictures.take)
    ended("none", None).on_end(pictures.take)
    assert pictures.written == 8 and not pictures.problems
    contents = {path.read_bytes() for path in inside.iterdir()}
    assert len(contents) == 8 and not [path for path in tmp_path.iterdir() if path != inside]


def test_a_picture_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path / "gone")
    ended("a", b"\x89PNG\r\n\x1a\n").on_end(pictures.take)
    assert pictures.written == 0
    (problem,) = pictures.problems
    assert "gone/a.png" in problem
