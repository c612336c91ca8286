"""Who owns which heads, tokens and bytes of a group: pure arithmetic that every member repeats and nobody sends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate


def even_split(total: int, parts: int) -> tuple[int, ...]:
    """`total` over `parts` as b+1, .., b+1, b, .., b (the split of `torch.tensor_split`); zeros when parts > total."""
    if parts < 1 or total < 0:
        raise ValueError(f"parts must be >= 1 and total >= 0, not parts={parts}, total={total}")
    base, extra = divmod(total, parts)
    return (base + 1,) * extra + (base,) * (parts - extra)


def offsets(sizes: Sequence[int]) -> tuple[int, ...]:
    """Start of every part: the exclusive prefix sum of `sizes`."""
    return tuple(accumulate(sizes, initial=0))[:-1]


def intervals(sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Half-open (start, end) of every part."""
    return tuple((start, start + size) for start, size in zip(offsets(sizes), sizes, strict=True))


def overlap(a: tuple[int, int], b: tuple[int, int]) -> int:
    """Length of the intersection of two half-open intervals."""
    return max(0, min(a[1], b[1]) - max(a[0], b[0]))


def reshard_edges(total: int, source: Sequence[int], target: Sequence[int]) -> tuple[tuple[int, int, int, int], ...]:
    """Edges (source rank, target rank, start, end) of a move of `total` units sharded evenly over ordered ranks.

    Units that a rank already holds are edges to itself: `moved` leaves them out of the count.
    """
    held = intervals(even_split(total, len(source)))
    need = intervals(even_split(total, len(target)))
    return tuple(
        (s, t, max(h[0], n[0]), min(h[1], n[1]))
        for t, n in zip(target, need, strict=True)
        for s, h in zip(source, held, strict=True)
        if overlap(h, n)
    )


def moved(total: int, source: Sequence[int], target: Sequence[int]) -> int:
    """Units that change their rank between the two ordered groups."""
    return sum(end - start for s, t, start, end in reshard_edges(total, source, target) if s != t)


def best_order(total: int, source: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """The order of the ranks `target` that moves the fewest units from the ordered `source`; at most 16 stayers.

    Ranks that are not in `source` are interchangeable, so only the stayers are assigned (dynamic programme over the
    set of stayers already placed); the newcomers fill the rest in the order given. Ties go to the lexicographically
    first places.
    """
    held = dict(zip(source, intervals(even_split(total, len(source))), strict=True))
    need = intervals(even_split(total, len(target)))
    stayers = [rank for rank in target if rank in held]
    if len(stayers) > 16:
        raise ValueError(f"at most 16 ranks may be in both groups, not {len(stayers)}")
    newcomers = len(target) - len(stayers)

    @cache
    def keep(place: int, placed: int) -> tuple[int, int]:
        """Most units kept by places >= `place`, and the stayer (or -1: a newcomer) to put there."""
        if place == len(target):
            return 0, -1
        options = [
            (overlap(held[rank], need[place]) + keep(place + 1, placed | 1 << i)[0], i)
            for i, rank in enumerate(stayers)
            if not placed >> i & 1
        ]
        if place - placed.bit_count() < newcomers:
            options.append((keep(place + 1, placed)[0], -1))
        return max(options, key=lambda option: (option[0], -option[1] if option[1] >= 0 else -len(stayers)))

    order: list[int] = []
    fresh = iter(rank for rank in target if rank not in held)
    placed = 0
    for place in range(len(target)):
        choice = keep(place, placed)[1]
        order.append(next(fresh) if choice < 0 else stayers[choice])
        placed |= 0 if choice < 0 else 1 << choice
    return tuple(order)


def factor_degree(degree: int, heads: int) -> tuple[int, int]:
    """`degree = ulysses * ring`: the largest ulysses that divides `degree` and does not exceed `heads`."""
    if degree < 1 or heads < 1:
        raise ValueError(f"degree and heads must be >= 1, not degree={degree}, heads={heads}")
    ulysses = max(u for u in range(1, min(degree, heads) + 1) if degree % u == 0)
    return ulysses, degree // ulysses


def sequence_lanes(
    ranks: Sequence[int], ulysses: int
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Rows (one Ulysses lane each) and columns (one ring lane each) of ordered ranks seen as a ring x ulysses grid."""
    if ulysses < 1 or len(ranks) % ulysses:
        raise ValueError(f"ulysses={ulysses} must divide the number of ranks, {len(ranks)}")
    rows = tuple(tuple(ranks[i : i + ulysses]) for i in range(0, len(ranks), ulysses))
    return rows, tuple(tuple(ranks[u::ulysses]) for u in range(ulysses))
