"""A model is a folder or a name in the hub's local cache, and never a reason to reach for the network."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gfdit.errors import UsageError
from gfdit.models import embedded_model_path
from gfdit.models.folders import model_folder, model_name

OLD, NEW = "0" * 40, "1" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The layout of the hub's cache: blobs, two commits of links to them, a branch and a tag."""
    repository = tmp_path / "models--acme--tiny-flux"
    for commit, text in ((OLD, "{}"), (NEW, "[]")):
        blob, snapshot = repository / "blobs" / commit, repository / "snapshots" / commit
        for folder in (blob.parent, snapshot, repository / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_text(text)
        (snapshot / "model_index.json").symlink_to(f"../../blobs/{commit}")
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1").write_text(OLD)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def refuse(*_: object) -> None:
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return repository


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("main", NEW), ("v1", OLD), (OLD, OLD)])
def test_a_hub_id_is_its_snapshot(cache: Path, revision: str | None, commit: str) -> None:
    folder = model_folder(Path("acme/tiny-flux"), revision)
    assert folder == cache / "snapshots" / commit
    assert model_name(folder) == "tiny-flux"


@pytest.mark.parametrize("offline", ["0", "1"])
def test_what_is_not_in_the_cache_says_how_to_get_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, offline: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(UsageError, match=r"`acme/other` is no folder, and not in the local hub cache") as caught:
        model_folder(Path("acme/other"))
    assert caught.value.hint == "run `hf download acme/other` first; gfdit downloads nothing"
    with pytest.raises(UsageError, match="at revision `v2`") as caught:
        model_folder(Path("acme/tiny-flux"), "v2")
    assert "hf download acme/tiny-flux --revision v2" in str(caught.value.hint)


@pytest.mark.parametrize("given", ["nowhere", "a/b/c", "../a/b", "a/b c"])
def test_what_is_neither_folder_nor_id_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="no model folder"):
        model_folder(Path(given))


def test_a_revision_goes_with_an_id(tmp_path: Path) -> None:
    for given in (tmp_path, None):
        with pytest.raises(UsageError, match="not with a folder"):
            model_folder(given, "main")


def test_folders_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder(tmp_path) == tmp_path
    assert model_folder(None) == embedded_model_path()
    assert model_name(embedded_model_path()) == "shapes"
    assert model_name(tmp_path / "wan") == "wan"
    monkeypatch.chdir(tmp_path)
    assert model_name(Path()) == tmp_path.name
    assert model_name(Path("snapshots") / "abc") == "abc"
