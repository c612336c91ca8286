"""Build hook: ship `grammar/`, `policies/`, the example workloads and the pages of error codes inside the wheel, as
`gfdit/_data/...`.

A plain `force-include` would do the same for editable installs and leave a half-empty `gfdit` package in site-packages
that hides the checkout; so this is for real wheels only, and the loaders fall back to the folders of the checkout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIPPED = {"grammar": "*.lark", "policies": "*.pol", "examples": "*.jsonl", "docs/reference/errors": "*.md"}


class ShipData(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        for folder, pattern in SHIPPED.items():
            for path in sorted(Path(self.root, folder).rglob(pattern)):
                inside = path.relative_to(self.root).as_posix()
                build_data["force_include"][str(path)] = f"gfdit/_data/{inside}"
