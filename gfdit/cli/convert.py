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
    """Convert a policy between its text and its Python form; both give an equal program. Comments reach Python only."""
    import json

    from gfdit.policy.converting import to_python
    from gfdit.policy.library import find_policy
    from gfdit.policy.store import checked_program, read_policy, read_text

    given = "python" if find_policy(policy).suffix == ".py" else "pol"
    wanted = to or next(form for form in FORMS if form != given)
    if wanted not in FORMS:
        raise UsageError(f"no form `{wanted}`", hint=f"forms are {', '.join(FORMS)}")
    if out is not None and out.exists() and not force:
        raise UsageError(f"`{out}` exists", hint="choose another --out, or add --force")
    text, shown, folder = read_text(policy)
    program = checked_program(text, shown)
    own = read_policy(policy).own  # what it extends stays where it is
    converted = to_python(own, shown) if wanted == "python" else own
    if out is not None:
        _write(out, converted)
        if wanted == "python" and checked_program(_traced(out, folder), str(out)) != program:
            raise PolicyError(f"`{out}` is not the same program as `{shown}`", hint="please report this policy: a bug")
    if json_:
        print(json.dumps({"policy": program.name, "form": wanted, "text": converted, "out": out and str(out)}))
    elif out is None:
        print(converted, end="")
    else:
        print(f"wrote {out}")


def _traced(path: Path, folder: Path | None) -> str:
    """The whole text of the Python form in `path`; what it extends lies in the folder that it was made from."""
    from gfdit.policy.extending import expanded
    from gfdit.policy.store import read_policy

    return expanded(read_policy(str(path)).own, folder)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write `{path}`: {error.strerror}") from error
