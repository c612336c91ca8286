"""The policy of last resort, as a program like any other: `builtin.fcfs`."""

from __future__ import annotations

BUILTIN_NAME = "builtin.fcfs"

# The narrowest group that the cluster offers, so that as many as possible move and nobody waits on a clause.
BUILTIN_FCFS = """\
policy builtin_fcfs version 1 "First come, first served, narrow groups: what runs when nothing else can"

order by arrival
stage encode, decode { sp fixed 1 gpu }
stage denoise { sp in {1, 2, 4, 8} gpu smallest }
allocate greedy
"""
