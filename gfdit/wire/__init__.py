"""Bytes <-> typed messages between the controller and its workers, and the rules of that conversation.

Pure: no sockets, no clocks, no threads. Knows `core`'s words and nothing of what is done with them.
"""
