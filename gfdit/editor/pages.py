"""The pages that explain the codes of findings: in the package, or in the repository that the package lies in."""

from __future__ import annotations

from functools import cache
from pathlib import Path

PAGES = Path("docs") / "reference" / "errors"


@cache
def error_page(code: str) -> Path | None:
    """The page of a code, if this installation has it."""
    package = Path(__file__).resolve().parent.parent
    for root in (package / "_data", package.parent):
        if (page := root / PAGES / f"{code}.md").is_file():
            return page
    return None
