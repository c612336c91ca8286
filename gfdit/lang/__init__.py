"""The policy language: text to checked program. Pure; knows no scheduling, driven by a schema.

from gfdit.lang import Source, check, format_source, render
"""

from gfdit.lang.check import Checked, check
from gfdit.lang.diagnostics import Diagnostic, Severity
from gfdit.lang.format import format_source, format_tree
from gfdit.lang.parser import Parsed, parse
from gfdit.lang.render import Style, render, summary
from gfdit.lang.source import Source, Span

__all__ = [
    "Checked",
    "Diagnostic",
    "Parsed",
    "Severity",
    "Source",
    "Span",
    "Style",
    "check",
    "format_source",
    "format_tree",
    "parse",
    "render",
    "summary",
]
