"""Who works with whom: the grid of a group, and the plan of a hand-over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfdit.core.parallel import Parallel
from gfdit.errors import StateError
from gfdit.worker.formation import members_of
from gfdit.worker.handover import Delivery, Stock, deliveries


def test_a_grid_of_two_branches_two_rows_and_two_columns() -> None:
    ranks = (7, 3, 5, 1, 0, 2, 4, 6)
    members = members_of(ranks, 1, Parallel(cfg=2, ulysses=2, ring=2))
    assert (members.index, members.size) == (3, 4)
    assert members.ulysses == (5, 1)  # neighbours
    assert members.ring == (3, 1)  # `ulysses` apart
    assert members.branches == (1, 6)  # the same share of the other branch


@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 3), st.randoms())
def test_members_agree_on_their_groups(cfg: int, ulysses: int, ring: int, random: object) -> None:
    ranks = list(range(cfg * ulysses * ring))
    random.shuffle(ranks)
    parallel = Parallel(cfg, ulysses, ring)
    seen = {rank: members_of(tuple(ranks), rank, parallel) for rank in ranks}
    for rank, members in seen.items():
        for kind, degree in (("ulysses", ulysses), ("ring", ring), ("branches", cfg)):
            group = getattr(members, kind)
            assert len(group) == degree and rank in group
            assert all(getattr(seen[other], kind) == group for other in group)
        assert all(seen[other].index == members.index for other in members.branches)
    assert sorted(members.index for members in seen.values()) == sorted([*range(ulysses * ring)] * cfg)


def test_degrees_must_fit_the_group() -> None:
    with pytest.raises(ValueError, match="needs 4 ranks"):
        members_of((0, 1, 2), 0, Parallel(cfg=2, ulysses=2))


def test_newcomers_get_the_state_from_holders_in_turn() -> None:
    stocks = [Stock(False, 0), Stock(True, 5), Stock(False, 5), Stock(False, 4), Stock(True, 5)]
    assert deliveries(stocks, members=4) == [
        Delivery(source=1, target=0, with_cold=True),
        Delivery(source=4, target=2, with_cold=False),  # it has this cold state already
        Delivery(source=1, target=3, with_cold=True),  # it has an older one
    ]


def test_participants_beyond_the_members_are_given_nothing() -> None:
    assert deliveries([Stock(True, 5), Stock(False, 0)], members=1) == []


def test_a_state_that_nobody_holds_is_an_error() -> None:
    with pytest.raises(StateError, match="no participant holds"):
        deliveries([Stock(False, 5), Stock(False, 0)], members=1)
