"""Group-free collectives: any ordered subset of workers runs operations together, nothing is created to form a group.

    world = World.create(rank=0, incarnation=1)            # one per worker process
    world.update_peers(endpoints)                          # `Endpoint`s of the others, from the controller
    with world.open(Key((0, 1, 3), epoch=7)) as lease:     # local: no message, no registration
        parts = lease.all_gather(x)                        # CPU tensors or bytes, uneven sizes allowed
        row = lease.lane((0, 1), 1)                        # sub-group of the lease, same operations
        out = row.all_to_all([a, b])

This package is usable on its own, needs x86-64 Linux, and imports only the error base of the rest of gfdit. It never
creates a torch.distributed group.
"""

from gfdit.collectives.errors import (
    ArenaFull,
    CollectiveError,
    CollectiveTimeout,
    LeaseFenced,
    Mismatch,
    NotMember,
    PeerAborted,
    PeerDead,
    SlotBusy,
    UnknownPeer,
    UnsupportedPlatform,
)
from gfdit.collectives.keys import LANES, SLOTS, Endpoint, Key
from gfdit.collectives.lease import Lease
from gfdit.collectives.operations import Lane
from gfdit.collectives.world import World

__all__ = [
    "LANES",
    "SLOTS",
    "ArenaFull",
    "CollectiveError",
    "CollectiveTimeout",
    "Endpoint",
    "Key",
    "Lane",
    "Lease",
    "LeaseFenced",
    "Mismatch",
    "NotMember",
    "PeerAborted",
    "PeerDead",
    "SlotBusy",
    "UnknownPeer",
    "UnsupportedPlatform",
    "World",
]
