"""The operator's commands: what each does, when it is refused, and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfdit.core.commands import EndRequest
from gfdit.core.events import PolicySwapped
from gfdit.errors import InputError
from gfdit.policy.bundle import Bundle, BundleError, Fault, make_keys, pack, private_key, public_key, unpack
from gfdit.policy.store import compile_text
from gfdit.runtime.rollout.canary import Verdict
from gfdit.runtime.rollout.control import Conflict
from gfdit.runtime.rollout.status import RolloutStatus
from gfdit.runtime.rollout.vetting import Refused

from .desk import Desk, bundle_of, request, shipped, text_of

FAILS_LATER = "guard never: queued(any) < 1 else fallback\nfallback fcfs_static"
TO_B = text_of("a", more="fallback b")
BAD_TEST = 'test "no" { cluster 2 gpu request a { stage = "denoise" } expect a.sp == 2 gpu }'


def labels(status: RolloutStatus) -> list[tuple[str, int, str]]:
    return [(one.name, one.version, one.how) for one in status.history]


def in_charge(desk: Desk) -> tuple[str, int]:
    return desk.scheduler.policy.name, desk.scheduler.policy.version


def pushed(desk: Desk, *args: object, **more: object) -> Bundle:
    bundle = bundle_of(text_of(*args, **more))  # type: ignore[arg-type]
    desk.rollout.push(bundle)
    return bundle


def test_push_puts_into_the_shadow_and_arm_in_charge(tmp_path: Path) -> None:
    desk = Desk("slo", tmp_path)
    pushed(desk, "a")
    status = desk.rollout.status()
    assert in_charge(desk) == ("slo", 1) and status.candidate is not None and status.candidate.name == "a"
    desk.rollout.arm()
    status = desk.rollout.status()
    assert in_charge(desk) == ("a", 1) and status.candidate is None
    assert status.last_good is not None and status.last_good.startswith("slo@1")
    assert labels(status) == [("a", 1, "arm"), ("slo", 1, "start")]
    assert status.history[1].until_s is not None and "arm: a@1" in status.history[1].ended
    with pytest.raises(Conflict, match="no candidate"):
        desk.rollout.arm()


def test_findings_that_are_no_errors_are_told() -> None:
    desk = Desk("slo")
    pushed(desk, "a", more="param unused: dur = 1s")
    candidate = desk.rollout.status().candidate
    assert candidate is not None
    (finding,) = candidate.findings
    assert finding.startswith("a.pol:6:7: warning[L508]")


def test_push_now_takes_over_at_once() -> None:
    desk = Desk("slo")
    desk.rollout.push(bundle_of(text_of("a")), now=True)
    assert in_charge(desk) == ("a", 1) and desk.rollout.status().candidate is None
    assert [e.how for seen in desk.seen for e in seen.events if isinstance(e, PolicySwapped)] == ["push"]


@pytest.mark.parametrize(
    ("bundle", "code", "part"),
    [
        (bundle_of('policy a version 1 "x"\norder by deadlin, arrival'), "policy_invalid", "N101"),
        (bundle_of("not a policy at all", "a"), "policy_invalid", "P001"),
        (bundle_of(text_of("a", more="fallback nobody")), "policy_invalid", "nobody"),
        (bundle_of(text_of("a", more=BAD_TEST)), "policy_tests_failed", "expected a.sp == 2 gpu"),
        (Bundle("a.pol", {"a.pol": TO_B, "b.pol": text_of("b", more="fallback a")}), "policy_invalid", "circle"),
        (Bundle("a.pol", {"a.pol": TO_B, "b.pol": "policy b"}), "policy_invalid", "b.pol"),
        (Bundle("a.pol", {"a.pol": text_of("a")}, {"nothing": "1s"}), "policy_invalid", "nothing"),
        (bundle_of(text_of("a", sp=64)), "policy_invalid", "A6"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_refused_and_nothing_changes(bundle: Bundle, code: str, part: str) -> None:
    desk = Desk("slo")
    for now in (False, True):
        with pytest.raises(Refused) as caught:
            desk.rollout.push(bundle, now=now)
        assert caught.value.code == code and part in str(caught.value)
    status = desk.rollout.status()
    assert in_charge(desk) == ("slo", 1) and status.candidate is None and len(status.history) == 1


def test_a_policy_that_fails_on_the_present_requests_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from gfdit.policy.planner import CompiledPolicy

    desk = Desk("slo")
    desk.submit(*(request(n) for n in range(3)))
    desk.run(0.1)
    plan = CompiledPolicy.plan

    def failing(self: CompiledPolicy, view):  # type: ignore[no-untyped-def]
        if self.name == "a" and view.size:
            raise ZeroDivisionError("of all things")
        return plan(self, view)

    monkeypatch.setattr(CompiledPolicy, "plan", failing)
    with pytest.raises(Refused, match="ZeroDivisionError"):
        pushed(desk, "a")


def test_bases_and_fallbacks_travel_along_before_shipped_ones() -> None:
    desk = Desk("slo")
    base = text_of("srtf", version=7)
    main = 'policy a version 2 "of a base" extends srtf\nfallback edf_best_fit'
    desk.rollout.push(Bundle("a.pol", {"a.pol": main, "srtf.pol": base}), now=True)
    policy = desk.scheduler.policy
    assert in_charge(desk) == ("a", 2) and policy.fallback is not None and policy.fallback.name == "edf_best_fit"


def test_an_ejection_holds_until_arm_or_rollback() -> None:
    desk = Desk("slo")
    desk.rollout.push(bundle_of(text_of("a", more="fallback fcfs_static")), now=True)
    desk.rollout.eject()
    status = desk.rollout.status()
    assert in_charge(desk) == ("fcfs_static", 1) and status.in_charge.how == "fallback"
    assert status.ejected is not None and (status.ejected.name, status.ejected.cause) == ("a", "operator")
    with pytest.raises(Conflict, match="was ejected"):
        desk.rollout.push(bundle_of(text_of("a", 2)), now=True)
    with pytest.raises(Conflict, match="ejected"):
        pushed(desk, "a", 2)
        desk.rollout.canary(5.0, 2)
    desk.rollout.stop()  # the candidate is forgotten
    desk.rollout.arm()
    assert in_charge(desk) == ("a", 1) and desk.rollout.status().ejected is None
    desk.rollout.eject()
    desk.rollout.rollback()
    assert in_charge(desk) == ("slo", 1) and desk.rollout.status().ejected is None


def test_a_guard_ejects_and_the_last_good_version_is_another(tmp_path: Path) -> None:
    desk = Desk("slo", tmp_path)
    desk.rollout.push(bundle_of(text_of("a", more=FAILS_LATER)), now=True)
    assert unpack((tmp_path / "last-good.polb").read_bytes()).main == "a.pol"
    desk.submit(*(request(n) for n in range(12)))
    desk.run(0.5)
    status = desk.rollout.status()
    assert in_charge(desk) == ("fcfs_static", 1)
    assert status.ejected is not None and status.ejected.cause == "guard"
    assert status.last_good is not None and status.last_good.startswith("slo@1")
    assert unpack((tmp_path / "last-good.polb").read_bytes()).main == "slo.pol"
    desk.rollout.rollback()
    desk.run(60.0)
    assert in_charge(desk) == ("slo", 1) and len(desk.commands(EndRequest)) == 12


def test_rollback_goes_back_version_by_version(tmp_path: Path) -> None:
    desk = Desk("slo", tmp_path)
    with pytest.raises(Conflict, match="no earlier version"):
        desk.rollout.rollback()
    for version in (1, 2):
        desk.rollout.push(bundle_of(text_of("a", version)), now=True)
    for expected in (("a", 1), ("slo", 1)):
        desk.rollout.rollback()
        assert in_charge(desk) == expected
        assert unpack((tmp_path / "last-good.polb").read_bytes()).main == f"{expected[0]}.pol"
    with pytest.raises(Conflict, match="no earlier version"):
        desk.rollout.rollback()
    desk.rollout.push(bundle_of(text_of("a", 2)), now=True)  # a new chance
    desk.rollout.push(bundle_of(text_of("a", 3)), now=True)
    desk.rollout.rollback()
    assert in_charge(desk) == ("a", 2)


def test_a_canary_is_no_version_to_go_back_to(tmp_path: Path) -> None:
    desk = Desk("slo", tmp_path)
    pushed(desk, "a")
    desk.rollout.canary(10.0, 2)
    assert in_charge(desk) == ("a", 1)
    assert unpack((tmp_path / "last-good.polb").read_bytes()).main == "slo.pol"
    desk.run(30.0)
    assert in_charge(desk) == ("slo", 1) and desk.rollout.status().last_good is None
    desk.rollout.arm()
    desk.rollout.rollback()
    assert in_charge(desk) == ("slo", 1)


def test_versions_are_kept_on_disk_before_they_take_over(tmp_path: Path) -> None:
    desk = Desk("slo", tmp_path)
    desk.rollout.push(
        Bundle("a.pol", {"a.pol": text_of("a", more="param x: dur = 1s\nlet y = x")}, {"x": "3s"}), now=True
    )
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert [name.split("-")[0] for name in kept] == ["a@1", "last", "slo@1"]
    (file,) = tmp_path.glob("a@1-*.polb")
    assert unpack(file.read_bytes()).params == {"x": "3s"}
    again = Desk("slo")
    again.rollout.push(again.rollout.unpack(file.read_bytes()), now=True)
    assert again.scheduler.policy.sha == desk.scheduler.policy.sha


def test_a_full_disk_refuses_the_swap(tmp_path: Path) -> None:
    desk = Desk("slo", tmp_path / "kept")
    (tmp_path / "kept").rename(tmp_path / "gone")
    (tmp_path / "kept").write_text("a file, not a folder")
    with pytest.raises(Exception, match="cannot keep"):
        desk.rollout.push(bundle_of(text_of("a")), now=True)
    assert in_charge(desk) == ("slo", 1)
    desk.rollout.eject()  # which needs no disk
    assert in_charge(desk) == ("edf_best_fit", 2) and desk.rollout.status().problem == ""


def test_a_disk_that_fills_up_later_does_not_stop_the_system(tmp_path: Path) -> None:
    desk = Desk("slo", tmp_path / "kept")
    desk.rollout.push(bundle_of(text_of("a", more="fallback fcfs_static")), now=True)
    (tmp_path / "kept").rename(tmp_path / "gone")
    (tmp_path / "kept").write_text("a file, not a folder")
    desk.rollout.eject()
    assert in_charge(desk) == ("fcfs_static", 1) and "last-good.polb" in desk.rollout.status().problem


def test_with_a_key_only_its_bundles_are_taken(tmp_path: Path) -> None:
    private, public = make_keys()
    (tmp_path / "k.key").write_bytes(private)
    (tmp_path / "k.key").chmod(0o600)
    (tmp_path / "k.pub").write_bytes(public)
    desk = Desk("slo", key=public_key(tmp_path / "k.pub"))
    assert desk.rollout.status().signed_only
    bundle = bundle_of(text_of("a"))
    with pytest.raises(BundleError) as caught:
        desk.rollout.unsigned(bundle)
    assert caught.value.fault is Fault.UNSIGNED
    with pytest.raises(BundleError):
        desk.rollout.unpack(pack(bundle))
    assert desk.rollout.unpack(pack(bundle, private_key(tmp_path / "k.key"))) == bundle


# ---- canary ---------------------------------------------------------------------------------------------------------


def trying(slow: bool = False) -> Desk:
    """A canary of six windows of 10 s under a steady load; the candidate is as good, or four times as slow."""
    desk = Desk(compile_text(text_of("live", sp=4)))
    desk.submit(*(request(n, 0.9 * n, 3, 1024, slo_s=1.6) for n in range(100)))
    desk.run(1.0)
    pushed(desk, "other", sp=1 if slow else 4)
    desk.rollout.canary(10.0, 6)
    return desk


def test_a_canary_takes_turns_and_gives_back() -> None:
    desk = trying()
    turns = []
    for second in range(1, 62):
        desk.run(1.0 + second - 0.5)
        turns.append(in_charge(desk)[0])
    assert turns == (["other"] * 10 + ["live"] * 10) * 3 + ["live"]
    desk.run(200.0)
    report = desk.rollout.status().canary
    assert report is not None and report.done and not report.ended
    assert [window.arm for window in report.windows] == ["canary", "live"] * 3
    assert sum(window.arrived for window in report.windows) == sum(window.ended for window in report.windows) > 60
    assert report.verdict is Verdict.NO_DIFFERENCE
    assert len(desk.commands(EndRequest)) == 100
    assert labels(desk.rollout.status()) == [("live", 1, "canary over"), ("other", 1, "canary"), ("live", 1, "start")]
    assert desk.rollout.status().candidate is not None
    desk.rollout.arm()
    assert in_charge(desk) == ("other", 1)


def test_a_slow_candidate_is_called_worse() -> None:
    desk = trying(slow=True)
    desk.run(300.0)
    report = desk.rollout.status().canary
    assert report is not None and report.verdict is Verdict.WORSE
    assert report.live.attainment is not None and report.canary.attainment is not None
    assert report.canary.attainment < report.live.attainment


@pytest.mark.parametrize("command", ["stop", "arm", "rollback", "eject"])
def test_every_command_that_ends_a_canary_ends_it_for_good(command: str) -> None:
    desk = trying()
    desk.run(5.0)
    with pytest.raises(Conflict, match="canary is running"):
        pushed(desk, "third")
    getattr(desk.rollout, command)()
    expected = {"stop": "live", "arm": "other", "rollback": "live", "eject": "live"}[command]
    for at in (6.0, 15.0, 40.0, 90.0):
        desk.run(at)
        assert in_charge(desk)[0] == expected
    report = desk.rollout.status().canary
    assert report is not None and report.done and len(report.windows) == 1


def test_a_candidate_that_is_ejected_in_its_turn_gives_way_to_the_policy_of_before() -> None:
    desk = Desk(compile_text(text_of("live")))
    pushed(desk, "other", more="guard few: queued(any) < 5 else fallback\nfallback fcfs_static")
    desk.rollout.canary(100.0, 4)
    assert in_charge(desk)[0] == "other"
    desk.submit(*(request(n, 1.0) for n in range(20)))
    desk.run(5.0)
    status = desk.rollout.status()
    assert in_charge(desk)[0] == "live" and status.ejected is None and status.candidate is None
    assert status.canary is not None and status.canary.done and "ejected" in status.canary.ended
    assert status.history[0].how == "canary over" and "ejected: guard" in status.history[1].ended
    desk.run(250.0)
    assert in_charge(desk)[0] == "live" and len(desk.commands(EndRequest)) == 20


def test_a_canary_needs_a_candidate_that_differs_and_windows_that_make_sense() -> None:
    desk = Desk("slo")
    with pytest.raises(Conflict, match="no candidate"):
        desk.rollout.canary(10.0, 4)
    desk.rollout.push(shipped("srtf"))
    for window_s, turns in ((0.5, 4), (float("nan"), 4), (10.0, 3), (10.0, 0), (10.0, 5000)):
        with pytest.raises(InputError):
            desk.rollout.canary(window_s, turns)
    assert desk.rollout.status().canary is None
    desk.rollout.arm()
    desk.rollout.push(shipped("srtf"))
    if desk.rollout.status().candidate is not None:
        with pytest.raises(Conflict, match="is the policy in charge"):
            desk.rollout.canary(10.0, 4)
