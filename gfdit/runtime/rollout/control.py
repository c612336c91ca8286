"""The operator's commands about the policy of a running system, one at a time, and what becomes of them.

    push      vet a bundle; it becomes the candidate and plans in the shadow, or takes over at once
    arm       the candidate takes over; without one, the policy that was ejected
    canary    the candidate and the policy in charge take turns in windows
    rollback  the last good version takes over
    eject     the fallback of the policy in charge takes over, until `arm` or `rollback`

Commands come from any thread and return when the scheduler has observed what they ordered. `record` is called in the
driver's thread after the commands of each tick were sent.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gfdit.core.commands import EndRequest
from gfdit.core.events import Event, PolicyEjected, PolicySwapped
from gfdit.core.scheduler import Decision, Scheduler
from gfdit.core.view import View
from gfdit.core.watchdog import WINDOW_NS, Ejection
from gfdit.errors import GfditError, InputError
from gfdit.lang.render import render
from gfdit.policy.bundle import Bundle, BundleError, Fault, unpack
from gfdit.runtime.rollout.canary import Arm, Canary
from gfdit.runtime.rollout.loading import Loader
from gfdit.runtime.rollout.shadow import Shadow
from gfdit.runtime.rollout.status import Candidate, Ejected, InCharge, RolloutStatus
from gfdit.runtime.rollout.versions import CANARY, ROLLBACK, Versions
from gfdit.runtime.rollout.vetting import Key, Vetted, key_of, vet
from gfdit.units import to_ns, to_s

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PATIENCE_S = 30.0  # until the scheduler has observed an order; it looks up at least once a tick
LEAST_WINDOW_S = 1.0
MOST_TURNS = 1000
SWITCH_S = 0.0005
CANARY_OVER = "canary over"


class Conflict(GfditError):
    """A command that does not fit the present state."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What the rollout needs of a system. `order`: the scheduler observes the event at its time, or now when that has
    passed; `revoke`: those that are not due yet never are. `now`: the system's clock (ns)."""

    scheduler: Scheduler
    loader: Loader
    now: Callable[[], int]
    order: Callable[[PolicySwapped | PolicyEjected], None]
    revoke: Callable[[], None]
    gpus: int


@dataclass(slots=True)
class _Candidate:
    vetted: Vetted
    since: int
    shadow: Shadow


@dataclass(frozen=True, slots=True)
class _Order:
    """What a command waits for: how, and which policy (None: an ejection)."""

    how: str
    key: Key | None
    observed: threading.Event = field(default_factory=threading.Event, compare=False)


class Rollout:
    """See the module. `started`: what the system was started with; `folder`: where versions are kept, None: nowhere;
    `key`: whose signature bundles must carry, None: anybody's."""

    def __init__(
        self, ports: Ports, started: Vetted, folder: Path | None = None, key: Ed25519PublicKey | None = None
    ) -> None:
        self._ports, self._key = ports, key
        self._versions = Versions(folder)
        self._live = started  # what was put in charge on purpose
        self._candidate: _Candidate | None = None
        self._canary: Canary | None = None
        self._ejected: Ejected | None = None
        self._view: View | None = None
        self._outstanding: _Order | None = None
        self._one_at_a_time = threading.Lock()
        self._state = threading.RLock()
        self._versions.keep(started)
        self._versions.took_over(started, "start", to_s(ports.now()))

    # ---- commands ---------------------------------------------------------------------------------------------------

    def unpack(self, content: bytes) -> Bundle:
        """A `.polb` that came in. Raises BundleError."""
        return unpack(content, self._key)

    def unsigned(self, bundle: Bundle) -> Bundle:
        """Texts that came in without a signature. Raises BundleError where a key is configured."""
        if self._key is not None:
            hint = "`gfdit policy build ... --sign FILE.key -o x.polb`, then push that"
            raise BundleError(Fault.UNSIGNED, "only signed bundles are taken here", hint=hint)
        return bundle

    def push(self, bundle: Bundle, *, now: bool = False) -> Vetted:
        """Vet it and make it the candidate; with `now` it takes over. Raises Refused, Conflict or BundleError."""
        with self._one_at_a_time:
            self._no_canary()
            if now and self._ejected is not None:
                raise Conflict(
                    f"policy `{self._ejected.name}` was ejected, and that holds until somebody arms a policy",
                    hint="push without `--now`, look at the shadow, then `gfdit policy arm`",
                )
            with _giving_way():
                vetted = vet(bundle, self._ports.gpus, self._view)
            with self._state:
                self._candidate = _Candidate(vetted, self._ports.now(), Shadow(vetted.fresh()))
            if now:
                self._take_over(vetted, "push")
            return vetted

    def arm(self) -> None:
        """Raises Conflict when there is nothing to arm."""
        with self._one_at_a_time:
            if self._candidate is not None:
                self._take_over(self._candidate.vetted, "arm")
            elif self._ejected is not None:
                self._take_over(self._live, "arm")
            else:
                raise Conflict("there is no candidate, and nothing was ejected", hint="`gfdit policy push FILE` first")

    def rollback(self) -> None:
        """To the policy before the canary, else to the last good version. Raises Conflict when there is none."""
        with self._one_at_a_time:
            good = self._live if self._running_canary else self._versions.last_good
            if good is None:
                raise Conflict("there is no earlier version to go back to")
            self._take_over(good, ROLLBACK)

    def eject(self) -> None:
        """Raises Conflict for the policy of last resort."""
        with self._one_at_a_time:
            policy = self._ports.scheduler.policy
            if policy.fallback is None:
                raise Conflict(f"`{policy.name}` is what runs when nothing else can: it has no fallback")
            self._order(PolicyEjected(0), _Order("eject", None))

    def canary(self, window_s: float, turns: int) -> None:
        """Turns of the candidate and the policy in charge, the candidate first. `window_s`: of the system's clock.

        Raises Conflict without a candidate or after an ejection, InputError for windows that make no sense.
        """
        if not window_s >= LEAST_WINDOW_S:
            raise InputError(f"a window of {window_s:g} s is too short", hint=f"at least {LEAST_WINDOW_S:g} s")
        if not 2 <= turns <= MOST_TURNS or turns % 2:
            raise InputError(f"{turns} windows cannot be shared by two", hint=f"an even number up to {MOST_TURNS}")
        with self._one_at_a_time:
            self._no_canary()
            if self._candidate is None:
                raise Conflict("there is no candidate", hint="`gfdit policy push FILE` first")
            if self._candidate.vetted.key == self._live.key:
                raise Conflict("the candidate is the policy in charge")
            if self._ejected is not None:
                raise Conflict(f"policy `{self._ejected.name}` was ejected: there is nothing good to compare with")
            self._keep(self._live)
            with self._state:
                self._canary = Canary(to_ns(window_s), turns)
            self._take_over(self._candidate.vetted, CANARY)

    def stop(self) -> None:
        """End the canary, with the policy of before in charge; without one, forget the candidate. Raises Conflict."""
        with self._one_at_a_time:
            if self._running_canary:
                self._take_over(self._live, CANARY_OVER)
            elif self._candidate is not None:
                with self._state:
                    self._candidate = None
            else:
                raise Conflict("there is no canary and no candidate to stop")

    def _no_canary(self) -> None:
        if self._running_canary:
            raise Conflict("a canary is running", hint="`gfdit policy arm`, or `gfdit policy canary --stop`")

    @property
    def _running_canary(self) -> bool:
        return self._canary is not None and not self._canary.done

    def _take_over(self, vetted: Vetted, how: str) -> None:
        self._keep(vetted)
        self._ports.loader.prepare(vetted)
        self._order(vetted.swap(how), _Order(how, vetted.key))

    def _keep(self, vetted: Vetted) -> None:
        try:
            self._versions.keep(vetted)
        except OSError as error:
            raise GfditError(f"cannot keep `{vetted.program.label}` on disk: {error}") from None

    def _order(self, event: PolicySwapped | PolicyEjected, order: _Order) -> None:
        """Have the scheduler observe it, and wait until it has."""
        with self._state:
            self._outstanding = order
        self._ports.revoke()  # a turn of a canary that falls due together with a command must not come after it
        self._ports.order(event)
        if not order.observed.wait(PATIENCE_S):
            raise GfditError("the scheduler has not taken the order yet: it is busy, or it stops")

    # ---- the driver's thread ----------------------------------------------------------------------------------------

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        scheduler = self._ports.scheduler
        with self._state:
            for event in events:
                if isinstance(event, PolicySwapped):
                    self._swapped(event)
            if decision.ejection is not None:
                self._lost_its_place(decision.ejection)
            if any(isinstance(event, PolicyEjected) for event in events):
                self._observed(_Order("eject", None))
            if self._canary is not None:
                self._canary.record(events, [one for one in decision.commands if isinstance(one, EndRequest)])
            self._view = scheduler.asked.view or self._view
            watching = None if self._running_canary else self._candidate
        scheduler.always_evaluate = watching is not None  # a shadow is asked when the policy is: on every tick
        if watching is not None:
            watching.shadow.record(scheduler.asked, scheduler.policy)

    def _swapped(self, event: PolicySwapped) -> None:
        vetted, canary = self._versions.known(key_of(event)), self._canary
        if event.how == CANARY and canary is not None:
            self._turn(event.at, canary, vetted)
        else:
            if canary is not None and not canary.done:
                canary.finish(event.at, "" if event.how == CANARY_OVER else f"{event.how}: {event.label}")
                self._ports.revoke()
            if self._candidate is not None and event.how in ("push", "arm"):
                self._candidate = None
            self._live, self._ejected = vetted, None
            self._versions.took_over(vetted, event.how, to_s(event.at))
        self._observed(_Order(event.how, vetted.key))

    def _turn(self, at: int, canary: Canary, vetted: Vetted) -> None:
        """A window begins: keep the books, and order what comes at its end."""
        if not canary.windows:
            self._versions.took_over(vetted, CANARY, to_s(at))
        arm = Arm.LIVE if canary.arm is Arm.CANARY else Arm.CANARY
        canary.begin(arm, at)
        over = len(canary.windows) == canary.turns
        following = self._live if over or arm is Arm.CANARY or self._candidate is None else self._candidate.vetted
        self._ports.loader.prepare(following)
        self._ports.order(following.swap(CANARY_OVER if over else CANARY, at + canary.window_ns))

    def _lost_its_place(self, ejection: Ejection) -> None:
        policy = ejection.policy
        self._versions.ejected(to_s(ejection.at), f"{ejection.cause}: {ejection.text}")
        canary = self._canary
        if canary is not None and not canary.done:
            canary.finish(ejection.at, f"{canary.arm} ejected, {ejection.cause}: {ejection.text}")
            self._ports.revoke()
            if canary.arm is Arm.CANARY:  # the policy of before has done nothing wrong
                self._candidate = None
                self._ports.loader.prepare(self._live)
                self._ports.order(self._live.swap(CANARY_OVER))
                return
        self._ejected = Ejected(
            policy.name, policy.version, policy.sha, to_s(ejection.at), ejection.cause.value, ejection.text,
            ejection.blame.value,
        )  # fmt: skip

    def _observed(self, order: _Order) -> None:
        if self._outstanding == order:
            self._outstanding.observed.set()
            self._outstanding = None

    # ---- what is told -----------------------------------------------------------------------------------------------

    def status(self) -> RolloutStatus:
        now = self._ports.now()
        with self._state:
            good = self._live if self._running_canary else self._versions.last_good
            return RolloutStatus(
                now_s=to_s(now),
                in_charge=self._in_charge(now),
                ejected=self._ejected,
                candidate=self._told(self._candidate),
                canary=None if self._canary is None else self._canary.report(),
                last_good=None if good is None else good.program.label,
                signed_only=self._key is not None,
                problem=self._versions.problem,
                history=self._versions.told(),
            )

    def _in_charge(self, now: int) -> InCharge:
        scheduler, history = self._ports.scheduler, self._versions.told()
        policy, ejected = scheduler.policy, self._ejected
        return InCharge(
            name=policy.name,
            version=policy.version,
            sha=policy.sha,
            how=history[0].how if ejected is None else "fallback",
            since_s=history[0].since_s if ejected is None else ejected.at_s,
            strikes=sum(strike.at > now - WINDOW_NS for strike in scheduler.strikes),
            strikes_allowed=policy.limits.errors,
            broken_guards=scheduler.broken_guards,
        )

    @staticmethod
    def _told(candidate: _Candidate | None) -> Candidate | None:
        if candidate is None:
            return None
        vetted, program = candidate.vetted, candidate.vetted.program
        findings = tuple(render([one], style="short") for one in vetted.warnings)
        return Candidate(
            program.name, program.version, program.sha, to_s(candidate.since), vetted.tests, findings,
            candidate.shadow.report(),
        )  # fmt: skip


@contextmanager
def _giving_way() -> Iterator[None]:
    """Let the scheduler's thread have the interpreter often: a tick must not be late, and count against the policy in
    charge, because another one is being vetted."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
