"""Edits that the editor offers: the canonical layout, and what puts a finding right."""

from __future__ import annotations

from dataclasses import replace

from gfdit.editor.analysis import Analysis
from gfdit.errors import PolicyError
from gfdit.lang.diagnostics import Diagnostic
from gfdit.lang.format import format_source
from gfdit.lang.frozen import Frozen
from gfdit.lang.mend import FIXABLE, Edit, lint_fix, spelling_fix

MOST_ROUNDS = 20  # a let that only another unused let reads is found in the next one


class Fix(Frozen):
    """One thing to offer. `sure`: changes no decision of the policy, so that it may be applied with all others."""

    title: str
    edit: Edit
    finding: Diagnostic
    sure: bool


def formatted(reading: Analysis) -> Edit | None:
    """The edit that `gfdit fmt` makes, as small as whole lines allow; None when there is none or it does not parse."""
    try:
        after = format_source(reading.text, reading.path.name)
    except PolicyError:
        return None
    before = reading.text
    if after == before:
        return None
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    head = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    most = min(len(old), len(new)) - head
    tails = zip(reversed(old), reversed(new), strict=False)
    tail = next((n for n, (a, b) in enumerate(tails) if a != b or n == most), most)
    end = len(before) - sum(map(len, old[len(old) - tail :]))
    return Edit(sum(map(len, old[:head])), end, "".join(new[head : len(new) - tail]))


def fixes(reading: Analysis, start: int, end: int) -> list[Fix]:
    """What can be put right about the findings that touch the characters `start` to `end`."""
    found = []
    for item in reading.diagnostics:
        if item.span.end < start or item.span.start > end:
            continue
        edit = spelling_fix(item)
        if edit is not None:
            found.append(Fix(f"Write `{edit.text}`", edit, item, sure=False))
        if item.code in FIXABLE and (edit := lint_fix(reading.text, reading.parsed.tree, item)) is not None:
            title = f"Remove `{reading.source.slice(item.span)}`" if not edit.text else f"Write `{edit.text}`"
            found.append(Fix(title, edit, item, sure=True))
    return found


def fix_all(reading: Analysis) -> Edit | None:
    """Every safe fix at once, as `gfdit lint --fix` does it; None when there is none."""
    present = reading
    for _ in range(MOST_ROUNDS):
        fix = next((fix for fix in fixes(present, 0, len(present.text)) if fix.sure), None)
        if fix is None:
            break
        after = replace(reading, text=fix.edit.apply(present.text))
        if present.checked.ok and not after.checked.ok:
            break
        present = after
    return None if present is reading else Edit(0, len(reading.text), present.text)
