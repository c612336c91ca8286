"""The command line: one module a command, imported when that command is used. The only place with typer, and with rich."""
