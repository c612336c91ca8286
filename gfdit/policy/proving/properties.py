"""Properties of one plan: each looks at the plan of a case, and at plans of cases like it, for a counterexample.

A property says itself when it does not apply. It judges what the policy proposes, not how: the same for a compiled
policy and for one written in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gfdit.core.lifecycle import State
from gfdit.core.proposal import Place, Proposal, WaitReason
from gfdit.core.view import STAGE_CODE, View
from gfdit.core.work import SINGLE_RANK_STAGES
from gfdit.lang.program import AllocateKind, Program
from gfdit.policy.proving.cases import Ask, Case, Planned, Plans, written
from gfdit.policy.proving.findings import Counterexample
from gfdit.policy.world import World

_ONE_RANK = frozenset(STAGE_CODE[stage] for stage in SINGLE_RANK_STAGES)
# "it waits because the policy says so": what a policy may give as a reason while GPUs are idle
_BY_CHOICE = frozenset(
    {WaitReason.POLICY_WAITS, WaitReason.HOLDING, WaitReason.LANE_FULL, WaitReason.DEFERRED, WaitReason.NEVER_FITS}
)
SECOND_TICK = "second-tick"
_BARELY = 1e-9  # relative: less than that is rounding


@dataclass(frozen=True, slots=True)
class Property:
    """`refute` gives a counterexample that the planned case shows, or None. `excuse`: why it does not apply."""

    name: str
    title: str
    refute: Callable[[Plans, Planned], Counterexample | None]
    excuse: Callable[[Program], str | None] = lambda program: None


# ---- capacity -----------------------------------------------------------------------------------------------


def over_capacity(plans: Plans, planned: Planned) -> Counterexample | None:
    """More GPUs than are free, a request placed twice or not to be placed at all, a degree that does not exist."""
    view, places = planned.view, planned.proposal.places
    wanted = sum(place.degree for place in places)
    names = [ask.name for ask in planned.case.asks if ask.name in view.ids]
    if wanted > view.free:
        total = " + ".join(f"{name}.sp" for name in names)
        text = f"{wanted} GPUs are handed out, {view.free} are free"
        expected = (f"{total} <= {planned.case.gpus} gpu",)
        return Counterexample(text, planned.case, expected, "no more GPUs than there are")
    for place in places:
        why = _wrong(view, place, places)
        if why is not None:
            name = view.ids[place.row]
            return Counterexample(f"`{name}` {why}", planned.case, (f"{name}.sp == 0 gpu",), f"{name} {why}")
    return None


def _wrong(view: View, place: Place, places: tuple[Place, ...]) -> str | None:
    if sum(other.row == place.row for other in places) > 1:
        return "is placed twice"
    if not view.plannable[place.row]:
        return "is in the middle of a step and cannot be placed"
    if int(view.stage[place.row]) in _ONE_RANK:
        return None if place.degree == 1 else f"gets {place.degree} GPUs for a stage that runs on one"
    offered = place.degree in view.degrees and np.isfinite(view.step_s[place.row, view.degrees.index(place.degree)])
    return None if offered else f"gets {place.degree} GPUs, which its model cannot use"


# ---- work conservation ---------------------------------------------------------------------------------------


def idle_gpus(plans: Plans, planned: Planned) -> Counterexample | None:
    """GPUs stay idle, set apart for nobody, while a request waits that they suffice for."""
    view, proposal = planned.view, planned.proposal
    left = view.free - sum(place.degree for place in proposal.places) - sum(r.gpus for r in proposal.reservations)
    if left < 1:
        return None
    placed = {place.row for place in proposal.places} | {turn.row for turn in proposal.turns}
    # code has no clause that says `wait`: it is to use what there is
    by_choice = _BY_CHOICE if written(planned.policy) is not None else _BY_CHOICE - {WaitReason.POLICY_WAITS}
    for row in np.flatnonzero(view.plannable).tolist():
        if row in placed or proposal.waits.get(row) in by_choice:
            continue
        fits = _narrowest(planned, row)
        if fits is not None and fits <= left:
            name = view.ids[row]
            text = f"`{name}` waits although {left} GPUs stay idle and {fits} would do"
            title = f"{name} runs on GPUs that nobody else uses"
            return Counterexample(text, planned.case, (f"{name}.sp >= 1 gpu",), title)
    return None


def _narrowest(planned: Planned, row: int) -> int | None:
    """The fewest GPUs that the clause of its stage admits; of a policy without clauses, that its model can use."""
    view, policy = planned.view, written(planned.policy)
    single = int(view.stage[row]) in _ONE_RANK
    if policy is not None:
        return min(policy.admitted(view, row), default=None)
    usable = [degree for column, degree in enumerate(view.degrees) if np.isfinite(view.step_s[row, column])]
    return 1 if single else min(usable, default=None)


def _divided(program: Program) -> str | None:
    return "with pools it depends on which ranks are free: tried in the closed loop" if program.pools else None


def _may_idle(program: Program) -> str | None:
    if program.pools:
        return "its pools set GPUs apart for some stages"
    if program.allocate.kind is AllocateKind.BACKFILL and program.allocate.depth < 2:
        return "`allocate backfill` lets few pass the first that waits"
    return None


# ---- input order, second tick --------------------------------------------------------------------------------


def depends_on_input_order(plans: Plans, planned: Planned) -> Counterexample | None:
    """The same requests, listed the other way round, get other GPUs."""
    case = planned.case
    if len(case.asks) < 2:
        return None
    other = plans.of(case, backwards=True)
    if _essence(planned.view, planned.proposal) == _essence(other.view, other.proposal):
        return None
    listed = replace(case, asks=case.asks[::-1])
    names = [name for name in planned.view.ids if name in other.view.ids]
    expected = tuple(f"{name}.sp == {planned.degrees.get(name, 0)} gpu" for name in names if _plannable(planned, name))
    text = f"listed in the other order, {_shown(other.degrees)} instead of {_shown(planned.degrees)}"
    return Counterexample(text, listed, expected, "the order of the list decides nothing")


def _essence(view: View, proposal: Proposal) -> tuple[object, ...]:
    """What a proposal asks for, whatever the rows are called."""
    return (
        sorted((view.ids[place.row], place.degree) for place in proposal.places),
        sorted((view.ids[cap.row], cap.degree) for cap in proposal.caps),
        sorted(view.ids[turn.row] for turn in proposal.turns),
        sorted((r.request_id, r.gpus) for r in proposal.reservations),
    )


def second_tick_acts(plans: Plans, planned: Planned) -> Counterexample | None:
    """After the plan was carried out and before anything else happens, a second tick wants something else."""
    again = _after(planned)
    view = again.view()
    proposal = planned.policy.plan(view)
    if not proposal.places and not proposal.turns:
        return None
    asks = tuple(_ask_of(ask, again) for ask in planned.case.asks if ask.name in view.ids)
    acted = [view.ids[row] for row in [place.row for place in proposal.places] + [t.row for t in proposal.turns]]
    expected = tuple(f"{name}.sp == 0 gpu" for name in acted)
    text = f"first {_shown(planned.degrees)}; then, with no news, `{'`, `'.join(acted)}` as well"
    return Counterexample(text, Case(planned.case.gpus, asks), expected, "a second tick without news changes nothing")


def _after(planned: Planned) -> World:
    """The world right after the plan was carried out."""
    world = planned.world
    degrees, caps = planned.degrees, {planned.view.ids[cap.row]: cap.degree for cap in planned.proposal.caps}
    turned = {planned.view.ids[turn.row] for turn in planned.proposal.turns}
    actors = []
    for actor in world.actors:
        if actor.id in turned:
            continue
        plannable = actor.present_state is not State.RUNNING
        if actor.id in degrees and plannable:
            actor = replace(actor, sp=degrees[actor.id], state=State.RUNNING, group_since_s=world.now_s, waited_s=0.0)
        elif plannable and actor.sp:
            actor = replace(actor, sp=0, last_sp=actor.sp, state=State.PAUSED, waited_s=0.0)
        if actor.id in caps:
            actor = replace(actor, cap=caps[actor.id])
        actors.append(actor)
    return replace(world, actors=actors, reservations=planned.proposal.reservations)


def _ask_of(ask: Ask, world: World) -> Ask:
    actor = world.actor(ask.name)
    return replace(ask, sp=actor.sp, running=actor.present_state is State.RUNNING, waited_s=actor.waited_s)


# ---- more GPUs -----------------------------------------------------------------------------------------------


def later_with_more(plans: Plans, planned: Planned) -> Counterexample | None:
    """With one GPU more, the first in order would end later."""
    first = _first(planned)
    if first is None:
        return None
    other = plans.of(planned.case.with_gpus(planned.case.gpus + 1))
    if first not in other.view.ids:
        return None
    before, after = _ends_in(planned, first), _ends_in(other, first)
    if not after > before * (1 + _BARELY):
        return None
    had, has = planned.degrees.get(first, 0), other.degrees.get(first, 0)
    text = (
        f"`{first}` comes first and has {had} of {planned.case.gpus} GPUs; of {other.case.gpus} it has {has} and ends "
        + (f"{after - before:.3g} s later" if np.isfinite(after) else "later: it waits")
    )
    title = f"{first} is not worse off on {other.case.gpus} GPUs than on {planned.case.gpus}"
    better = ">=" if has < had else "<="  # wider is not always faster
    return Counterexample(text, other.case, (f"{first}.sp {better} {had} gpu",), title)


def _first(planned: Planned) -> str | None:
    """Who comes first in the policy's order: for one that does not tell, who is placed first."""
    policy = written(planned.policy)
    if policy is not None:
        order = policy.order(planned.view)
        return planned.view.ids[order[0]] if order else None
    places = planned.proposal.places
    return planned.view.ids[places[0].row] if places else None


def _ends_in(planned: Planned, name: str) -> float:
    """Seconds until it would end at the degree that it got; +inf when it got none."""
    view, degree = planned.view, planned.degrees.get(name, 0)
    row = view.ids.index(name)
    return float(view.remaining_s[row, view.degrees.index(degree)]) if degree in view.degrees else float("inf")


# ---- shared --------------------------------------------------------------------------------------------------


def _plannable(planned: Planned, name: str) -> bool:
    return bool(planned.view.plannable[planned.view.ids.index(name)])


def _shown(degrees: dict[str, int]) -> str:
    return ", ".join(f"{name} {degree} gpu" for name, degree in sorted(degrees.items())) or "nobody anything"


PROPERTIES: tuple[Property, ...] = (
    Property("capacity", "never more GPUs than are free", over_capacity),
    Property("work-conservation", "no GPU idle while something fits", idle_gpus, _may_idle),
    Property("input-order", "the order of the input is irrelevant", depends_on_input_order),
    Property("more-gpus", "one more GPU never makes the first in order later", later_with_more),
    # the last, because it plans again with the policy that made the plan
    Property(SECOND_TICK, "a second tick without news changes nothing", second_tick_acts, _divided),
)
