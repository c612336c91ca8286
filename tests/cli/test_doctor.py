"""`gfdit doctor` tries the machine and a model for real."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from gfdit.cli.app import main
from gfdit.worker.machine import machine_checks


def test_this_machine_can_serve() -> None:
    assert [check for check in machine_checks() if not check.passed] == []


def test_too_few_open_files_are_named_with_the_fix() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        (found,) = [check for check in machine_checks() if not check.passed]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found.name == "open files" and "ulimit -n" in found.detail


@pytest.mark.slow
def test_the_embedded_model_conforms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and set(found["checks"]) == {"machine", "model shapes"}
    assert {"stepwise", "interleaved"} <= {check["name"] for check in found["checks"]["model shapes"]}


def test_a_family_that_cannot_be_stepped_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before its weights are looked for: there are none here."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "HeliosPipeline"}))
    assert main(["doctor", "--model", str(tmp_path), "--json"]) == 1
    (check,) = json.loads(capsys.readouterr().out)["checks"][f"model {tmp_path.name}"]
    assert (check["name"], check["passed"]) == ("loads", False)
    assert "family `helios` keeps state between steps" in check["detail"]


def test_a_model_that_is_not_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main(["doctor", "--model", "acme/tiny"]) == 2
    assert "hf download acme/tiny" in capsys.readouterr().err
    assert main(["run", "--policy", "fcfs", "--device", "cpu", "--model", "acme/tiny", "--revision", "v1"]) == 2
    assert "hf download acme/tiny --revision v1" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", str(tmp_path / "none")]) == 2
    assert "no model folder" in capsys.readouterr().err
