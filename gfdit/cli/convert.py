"""`gfdit convert`: a policy's text as the Python form, and the Python form as text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfdit.errors import InputError, PolicyError, UsageError

FORMS = ("python", "pol")


def convert(
    policy: Annotated[str, typer.Argument(help="A .pol or .py file, or a shipped policy's name.")],
    to: Annotated[str | None, typer.Option("--to", help="python or pol; by default the other form.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of printing.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object with the text.")] = False,
) -> None:
    """Convert a policy between its text and its Python form; both give an equal program. Comments are left behind."""
    import json

    from gfdit.policy.converting import to_python
    from gfdit.policy.library import find_policy
    from gfdit.policy.store import checked_program, read_text

    given = "python" if find_policy(policy).suffix == ".py" else "pol"
    wanted = to or next(form for form in FORMS if form != given)
    if wanted not in FORMS:
        raise UsageError(f"no form `{wanted}`", hint=f"forms are {', '.join(FORMS)}")
    if out is not None and out.exists() and not force:
        raise UsageError(f"`{out}` exists", hint="choose another --out, or add --force")
    text, shown, _ = read_text(policy)
    program = checked_program(text, shown)
    converted = to_python(text, shown) if wanted == "python" else text
    if out is not None:
        _write(out, converted)
        if wanted == "python" and checked_program(read_text(str(out))[0], str(out)) != program:
            raise PolicyError(f"`{out}` is not the same program as `{shown}`", hint="please report this policy: a bug")
    if json_:
        print(json.dumps({"policy": program.name, "form": wanted, "text": converted, "out": out and str(out)}))
    elif out is None:
        print(converted, end="")
    else:
        print(f"wrote {out}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write `{path}`: {error.strerror}") from error
