"""What all tests share: one thread a process, since ranks share few cores, and none of the user's own settings."""

from __future__ import annotations

import os

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before anything imports torch or numpy


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("GFDIT_URL", "GFDIT_COST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GFDIT_HOME", str(tmp_path_factory.getbasetemp() / "home"))
