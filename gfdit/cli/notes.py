"""A note of the timeline as one line of text: the same words on the screen, in the plain log and in tests."""

from __future__ import annotations

from gfdit.core.proposal import Because
from gfdit.runtime.timeline import Note, NoteKind

# What each kind looks like on the screen (styles of rich), and a sign that reads without colour.
STYLES = {
    NoteKind.START: "cyan",
    NoteKind.GROW: "bold green",
    NoteKind.SHRINK: "bold yellow",
    NoteKind.MIGRATE: "bold blue",
    NoteKind.PAUSE: "yellow",
    NoteKind.RESUME: "cyan",
    NoteKind.ARRIVED: "dim",
    NoteKind.DONE: "green",
    NoteKind.MISSED: "bold red",
    NoteKind.REJECTED: "red",
    NoteKind.FAILED: "bold red",
    NoteKind.CANCELLED: "red",
    NoteKind.SET_BACK: "magenta",
    NoteKind.JOINED: "dim",
    NoteKind.LOST: "bold magenta",
    NoteKind.POLICY: "bold magenta",
}


def describe(note: Note) -> str:
    """`grow      r007  sp 2 -> 4 on ranks 0-3  [sp, 1st alternative:12]`"""
    subject = "" if note.life is None else f"{note.life.request.id}  "
    return f"{note.kind.value:<9} {subject}{note.text}{clause(note.because)}"


def clause(because: Because | None) -> str:
    """The policy's clause that decided, with its line, as a suffix; "" when there is none."""
    if because is None:
        return ""
    values = " ".join(f"{name}={value}" for name, value in because.values)
    line = f":{because.line}" if because.line else ""
    return f"  [{because.clause}{line}{' ' + values if values else ''}]"
