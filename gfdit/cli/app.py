"""`gfdit`: finds the command, and turns every way it can end into an exit code and at most one clear message.

    0    done, nothing found          2    the command line is wrong
    1    findings, or a bad input     70   an error of gfdit's own            130   interrupted

A command `x` is the function (for a family of commands: the Typer) `x` in `gfdit/cli/x.py`. Only the module of the
command that runs is imported, and it imports what is heavy (torch, numpy, zmq, rich) inside the function, so that
`gfdit check` answers at once.
"""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from gfdit import __version__
from gfdit.errors import GfditError, InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    *("run", "submit", "status", "top", "policy", "doctor"),
    *("sim", "bound", "workload", "compare", "tune", "replay", "trace", "fidelity", "profile", "bench"),
    *("check", "fmt", "lint", "test", "prove", "convert", "explain", "cost", "diff", "policies"),
    *("lsp", "completion", "version"),
)
ASKED = "_GFDIT_COMPLETE"  # set by a shell that asks for completions
EXIT_FOUND, EXIT_USAGE, EXIT_INTERNAL, EXIT_INTERRUPTED = 1, 2, 70, 130


class LazyGroup(TyperGroup):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[no-untyped-def,override]
        if cmd_name not in COMMANDS:
            near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
            ctx.fail(f"no command `{cmd_name}`" + (f"; did you mean `{near[0]}`?" if near else ""))
        if cmd_name not in self.commands:
            found = getattr(import_module(f"gfdit.cli.{cmd_name}"), cmd_name)
            if not isinstance(found, typer.Typer):  # a command of its own, not a family of them
                function, found = found, typer.Typer(add_completion=False, rich_markup_mode=None)
                found.command(cmd_name)(function)
            self.commands[cmd_name] = typer.main.get_command(found)
            if ASKED in os.environ:
                _completed(self.commands[cmd_name])
        return self.commands[cmd_name]


def _completed(command: object) -> None:
    """Makes a command, and every member of a family, complete what it takes."""
    from gfdit.cli.completing import attach

    for member in getattr(command, "commands", {}).values():
        _completed(member)
    attach(getattr(command, "params", ()))


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gfdit {__version__}")
        raise typer.Exit


@app.callback()
def gfdit(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_show_version, is_eager=True
    ),
) -> None:
    """GPU parallelism for Diffusion Transformers as something to schedule."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    if ASKED in os.environ:
        from gfdit.cli.completing import prepare

        prepare()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="gfdit")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader has left: nothing more can be said, and Python must not try
        return EXIT_FOUND
    except GfditError as error:
        return _explain(error)
    except Exception:
        traceback.print_exc()
        _say("internal error: this is a bug in gfdit; the lines above say where")
        return EXIT_INTERNAL
    return 0


def _explain(error: GfditError) -> int:
    _say(str(error) if _is_rendered(error) else f"error: {error}")
    match error:
        case UsageError():
            return EXIT_USAGE
        case _:
            return EXIT_FOUND


def _is_rendered(error: GfditError) -> bool:
    """Whether the message is a listing of diagnostics that already begins with `error[...]`."""
    return isinstance(error, InputError) and error.message.startswith(("error", "warning"))


def _say(message: str) -> None:
    print(message, file=sys.stderr)
