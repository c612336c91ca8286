"""Editor support for policies: what a language server answers, without the server.

`analysis.py` reads a text once; hover, completion, definition, symbols and fixes are functions of that reading and of
character offsets. Only `server.py` knows the protocol. Nothing here runs or compiles a policy.
"""
