"""The command line: one module a command, imported when it is used. The only place with typer and rich."""
