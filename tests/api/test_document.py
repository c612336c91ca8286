"""The OpenAPI document is true: what it allows is answered as it says, and nothing makes the server fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.api.conftest import WAIT_S, Running

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method"
)
ENDLESS = "/gfdit/events"


def test_every_route_says_what_an_error_looks_like(running: Running) -> None:
    document = httpx.get(f"{running.url}/openapi.json", timeout=WAIT_S).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "default" in operation["responses"], (method, path)
            assert "422" not in operation["responses"], (method, path)
    assert "#/$defs" not in str(document)


def test_405_lists_what_the_path_takes(running: Running) -> None:
    answer = httpx.patch(f"{running.url}/v1/models/x", timeout=WAIT_S)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_generated_requests_are_answered_as_documented(running: Running, tmp_path: Path) -> None:
    """Requests that fit the document and requests that do not, for every route."""
    tool = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("schemathesis is not installed")
    command = [tool, "run", f"{running.url}/openapi.json", "--checks", CHECKS, "--exclude-path", ENDLESS]
    command += ["--max-examples", "4", "--phases", "coverage,fuzzing", "--seed", "1", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:]
    assert "generated" in done.stdout
