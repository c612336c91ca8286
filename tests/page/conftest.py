"""A served system of emulated workers, and a browser where one is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.api.conftest import Running, serve


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    yield from serve(time_scale=50.0)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of an installed Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed")
    return found
