"""`gfdit version`: what is installed, for bug reports."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Annotated

import typer

from gfdit import __version__

LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pyzmq", "lark", "pydantic")


def version(
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Print the versions of gfdit, Python and the libraries that matter."""
    versions = {"gfdit": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = installed(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    if json_:
        import json

        print(json.dumps(versions, indent=1))
        return
    for name, number in versions.items():
        print(f"{name:<13} {number}")
