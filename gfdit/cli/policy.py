"""`gfdit policy push|shadow|canary|arm|eject|rollback|stop|status`: the policy of a running `gfdit run`; and
`build|keygen` for bundles. What a policy is, is decided by the server: nothing is compiled here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.cli.check import parse_settings
from gfdit.errors import GfditError, InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gfdit.policy.bundle import Bundle
    from gfdit.runtime.rollout.canary import ArmReport, CanaryReport
    from gfdit.runtime.rollout.shadow import ShadowReport
    from gfdit.runtime.rollout.status import RolloutStatus

Url = Annotated[str | None, typer.Option(help="The server; default: GFDIT_URL, or http://127.0.0.1:8000.")]
Json = Annotated[bool, typer.Option("--json", help="Print the server's answer as one JSON object.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="PARAM=VALUE", help="A value for a policy param.")]
File = Annotated[str, typer.Argument(metavar="POLICY", help="A .pol, .py or .polb file, or a shipped policy's name.")]
POLL_S = 0.5

policy = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Change the policy of a running `gfdit run`, step by step, and back.",
)


@policy.command()
def push(
    file: File,
    set_: Set = None,
    now: Annotated[bool, typer.Option("--now", help="Take over at once, without a shadow first.")] = False,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Have a policy checked, tested and planning in the shadow; `arm` puts it in charge."""
    answer = _push(_url(url), file, set_ or [], now, json_)
    _show(answer, json_, _in_charge if now else _candidate)


@policy.command()
def shadow(
    file: Annotated[str | None, typer.Argument(metavar="[POLICY]", help="What to push; default: look on.")] = None,
    set_: Set = None,
    ticks: Annotated[int, typer.Option(min=1, help="Watch until so many ticks were compared.")] = 100,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Push a policy and watch where it disagrees with the one in charge. Ctrl-C leaves it in the shadow."""
    server = _url(url)
    answer = _push(server, file, set_ or [], False, json_) if file is not None else _status(server)
    answer = _watched(server, answer, ticks)
    if answer.candidate is None:
        raise GfditError("there is no candidate in the shadow", hint="`gfdit policy shadow FILE`")
    _show(answer, json_, _candidate)


@policy.command()
def canary(
    file: Annotated[
        str | None, typer.Argument(metavar="[POLICY]", help="What to push; default: the candidate.")
    ] = None,
    set_: Set = None,
    switchback: Annotated[str, typer.Option(metavar="TIME", help="Length of a turn, such as 10min or 90s.")] = "10min",
    windows: Annotated[int, typer.Option(min=2, help="Turns of both policies together; an even number.")] = 12,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Let the candidate and the policy in charge take turns, and see who does better; `status` has the figures."""
    from gfdit.cli.explain import parse_time
    from gfdit.units import to_s

    server, window_s = _url(url), to_s(parse_time(switchback, "--switchback"))
    if file is not None:
        _push(server, file, set_ or [], False, json_)
    answer = _command(server, "canary", {"window_s": window_s, "windows": windows}, json_)
    _show(answer, json_, lambda told: [] if told.canary is None else _canary(told.canary))


@policy.command()
def arm(url: Url = None, json_: Json = False) -> None:
    """Put the candidate in charge; without one, the policy that was ejected."""
    _show(_command(_url(url), "arm", {}, json_), json_, _in_charge)


@policy.command()
def rollback(url: Url = None, json_: Json = False) -> None:
    """Put the last good version in charge."""
    _show(_command(_url(url), "rollback", {}, json_), json_, _in_charge)


@policy.command()
def eject(url: Url = None, json_: Json = False) -> None:
    """Put the fallback in charge until a policy is armed."""
    _show(_command(_url(url), "eject", {}, json_), json_, _in_charge)


@policy.command()
def stop(url: Url = None, json_: Json = False) -> None:
    """End the canary; without one, forget the candidate."""
    _show(_command(_url(url), "stop", {}, json_), json_, _in_charge)


@policy.command()
def status(url: Url = None, json_: Json = False) -> None:
    """Show what is in charge since when, the candidate, the canary, and what was in charge before."""
    _show(_status(_url(url)), json_, _everything)


@policy.command()
def build(
    files: Annotated[list[str], typer.Argument(metavar="POLICY...", help="The one to be put in charge, then others.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write, such as slo.polb.")],
    main: Annotated[str | None, typer.Option(help="Which policy of a folder is to be put in charge.")] = None,
    set_: Set = None,
    sign: Annotated[Path | None, typer.Option(metavar="FILE.key", help="Sign it with this private key.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print what was built as one JSON object.")] = False,
) -> None:
    """Build a bundle: a policy, its bases and fallbacks, and its params, in one file that can be signed."""
    import hashlib
    import json

    from gfdit.policy.bundle import merged, pack, private_key

    bundles = [_gathered(name) for file in files for name in _in_folder(file)]
    if main is None and len(files) == 1 and len(bundles) > 1:
        raise UsageError(f"`{files[0]}` has {len(bundles)} policies", hint="say which one with `--main NAME`")
    first = bundles[0].main if main is None else f"{main.removesuffix('.pol')}.pol"
    content = pack(merged(bundles, first, parse_settings(set_ or [])), None if sign is None else private_key(sign))
    out.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    if json_:
        print(json.dumps({"bundle": str(out), "main": first, "sha256": digest, "signed": sign is not None}))
        return
    print(f"{out}: {first}, {'signed' if sign else 'not signed'}, sha256 {digest}")


@policy.command()
def keygen(
    name: Annotated[Path, typer.Argument(metavar="NAME", help="Writes NAME.key, the private one, and NAME.pub.")],
) -> None:
    """Make a pair of keys: one signs bundles, the other goes to `gfdit run --policy-key`."""
    import os

    from gfdit.policy.bundle import make_keys

    private, public = name.with_name(name.name + ".key"), name.with_name(name.name + ".pub")
    for path in (private, public):
        if path.exists():
            raise UsageError(f"`{path}` exists already", hint="choose another name, or remove it")
    contents = make_keys()
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(contents[0])
    public.write_bytes(contents[1])
    print(f"{private} signs: keep it secret\n{public} verifies: gfdit run --policy-key {public}")


# ---- what is sent ---------------------------------------------------------------------------------------------------


def _in_folder(file: str) -> list[str]:
    """A folder stands for the policies in it."""
    from gfdit.policy.library import policies_in

    return [str(path) for path in policies_in(Path(file))] if Path(file).is_dir() else [file]


def _gathered(name: str) -> Bundle:
    """A policy as its texts. Python is traced here, so that only text of the language leaves this machine."""
    from gfdit.policy.bundle import gather, read_source
    from gfdit.policy.library import find_policy

    path = find_policy(name)
    if path.suffix != ".py":
        return gather(path, read_source(path))
    from gfdit.policy.bundle import BundleError, Fault
    from gfdit.policy.store import read_policy

    found = read_policy(name)
    if found.native is not None:
        message = f"policy `{name}` plans in Python (`{found.native.name}`), and code is never sent"
        raise BundleError(Fault.NATIVE, message, hint="write it in the language, or start a server with it")
    return gather(path, found.own)


def _push(url: str, file: str, settings: list[str], now: bool, json_: bool) -> RolloutStatus:
    import base64

    params = parse_settings(settings)
    if file.endswith(".polb"):
        if params:
            raise UsageError("a bundle carries its own params", hint="give `--set` to `gfdit policy build`")
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read bundle `{file}`: {error.strerror}") from None
        return _command(url, "push", {"bundle": base64.b64encode(content).decode(), "now": now}, json_)
    bundle = _gathered(file)
    body = {"main": bundle.main, "sources": dict(bundle.sources), "params": params, "now": now}
    return _command(url, "push", body, json_)


def _url(given: str | None) -> str:
    from gfdit.config import Environment

    return given or Environment.read().url


def _command(url: str, name: str, body: Mapping[str, object], json_: bool) -> RolloutStatus:
    """Raises InputError with the server's words when it refuses; `json_`: its whole answer goes to standard output."""
    import json

    from gfdit.cli.server_client import command

    code, content = command(url, f"/gfdit/policy/{name}", body)
    if code == 200:
        return _read(content)
    try:
        answer = json.loads(content)
        message = str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError):
        raise GfditError(f"{url} answered {code}, and not as `gfdit run` does") from None
    if json_:
        print(json.dumps(answer))
        raise typer.Exit(1)
    hint = "set GFDIT_ADMIN_TOKEN" if answer["error"].get("code") == "invalid_admin_token" else None
    raise InputError(message, hint=hint)


def _status(url: str) -> RolloutStatus:
    from gfdit.cli.server_client import get

    return _read(get(url, "/gfdit/policy/status"))


def _read(content: bytes) -> RolloutStatus:
    from pydantic import TypeAdapter, ValidationError

    from gfdit.runtime.rollout.status import FORMAT, RolloutStatus

    try:
        return TypeAdapter(RolloutStatus).validate_json(content)
    except ValidationError as error:
        raise GfditError(f"the server does not answer in the format `{FORMAT}`: {error.errors()[0]['msg']}") from None


def _watched(url: str, answer: RolloutStatus, ticks: int) -> RolloutStatus:
    """Ask again until the candidate was compared on so many ticks, stopped, or is gone."""
    import sys
    import time

    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("comparing ticks", total=ticks)
            while answer.candidate is not None:
                report = answer.candidate.shadow
                bar.update(task, completed=min(report.ticks, ticks))
                if report.ticks >= ticks or report.stopped:
                    break
                time.sleep(POLL_S)
                answer = _status(url)
    except KeyboardInterrupt:
        console.print("it stays in the shadow; `gfdit policy stop` ends that", style="dim")
    return answer


# ---- what is shown --------------------------------------------------------------------------------------------------


def _show(answer: RolloutStatus, json_: bool, lines: object) -> None:
    """`lines`: what of the answer people are told."""
    if json_:
        from pydantic import TypeAdapter

        from gfdit.runtime.rollout.status import RolloutStatus

        print(TypeAdapter(RolloutStatus).dump_json(answer).decode())
        return
    assert callable(lines)
    for line in lines(answer):
        print(line)


def _label(name: str, version: int, sha: str) -> str:
    return f"{name}@{version} ({sha[:7]})"


def _in_charge(answer: RolloutStatus) -> list[str]:
    from gfdit.units import human_s

    one, ejected = answer.in_charge, answer.ejected
    since = human_s(max(0.0, answer.now_s - one.since_s))
    strikes = f", {one.strikes} of {one.strikes_allowed} strikes" if one.strikes else ""
    guards = f", does not hold: {', '.join(one.broken_guards)}" if one.broken_guards else ""
    lines = [f"in charge  {_label(one.name, one.version, one.sha)} for {since} ({one.how}){strikes}{guards}"]
    if ejected is not None:
        what = f"{_label(ejected.name, ejected.version, ejected.sha)}, {ejected.cause}: {ejected.text}"
        blame = "" if ejected.cause == "operator" else f"; the {ejected.blame} is to blame"
        lines.append(f"ejected    {what}{blame}; `gfdit policy arm` ends it")
    return lines


def _candidate(answer: RolloutStatus) -> list[str]:
    one = answer.candidate
    if one is None:
        return ["candidate  none"]
    tests = f"{one.tests} test{'' if one.tests == 1 else 's'} passed"
    findings = [f"  {finding}" for finding in one.findings]
    return [f"candidate  {_label(one.name, one.version, one.sha)}, {tests}", *findings, *_shadow(one.shadow)]


def _shadow(report: ShadowReport) -> list[str]:
    if report.stopped:
        return [f"  stopped: {report.stopped}"]
    if not report.ticks:
        return ["  in the shadow, nothing to plan yet"]
    concerned = ", ".join(f"{count} in {aspect}" for aspect, count in report.requests.items() if count) or "none"
    live, other = report.live_late, report.shadow_late
    lines = [
        f"  differs on {report.differing} of {report.ticks} ticks; requests concerned: {concerned}",
        f"  predicted late  {live.requests:.2f} requests, {live.seconds:.2f} s now; "
        f"{other.requests:.2f} requests, {other.seconds:.2f} s in the shadow (means of a tick)",
        f"  cost of a tick  {report.cost_us['p50']:.0f} us, p99 {report.cost_us['p99']:.0f} us"
        + (f"; failed {report.errors} times" if report.errors else ""),
    ]
    for example in report.examples:
        what = f"{example.aspect} {example.live}, in the shadow {example.shadow}"
        lines.append(f"  at {example.at_s:.2f} s  {example.request}: {what}")
    return lines


def _canary(report: CanaryReport) -> list[str]:
    from gfdit.units import human_s

    state = f"over{report.ended and f' ({report.ended})'}" if report.done else f"{report.arm} has the turn"
    turn = f"turn {len(report.windows)} of {report.turns}, {human_s(report.window_s)} each"
    return [
        f"canary     {state}; {turn}",
        f"  live     {_arm_line(report.live)}",
        f"  canary   {_arm_line(report.canary)}",
        f"  verdict  {str(report.verdict).replace('_', ' ')}: {report.text}",
    ]


def _arm_line(arm: ArmReport) -> str:
    if arm.attainment is None:
        return "nothing has ended yet"
    latency = "" if arm.mean_latency_s is None else f", mean latency {arm.mean_latency_s:.2f} s"
    crossed = f", {arm.crossed} crossed an edge" if arm.crossed else ""
    return f"{arm.attainment:.1%} of {arm.requests} on time{latency} ({arm.windows} windows{crossed})"


def _everything(answer: RolloutStatus) -> list[str]:
    from gfdit.units import human_s

    lines = [*_in_charge(answer), *_candidate(answer)]
    lines += [] if answer.canary is None else _canary(answer.canary)
    lines.append(f"last good  {answer.last_good or 'none'}")
    lines += ["signed     only signed bundles are taken"] if answer.signed_only else []
    lines += [f"problem    {answer.problem}"] if answer.problem else []
    for one in answer.history:
        until = answer.now_s if one.until_s is None else one.until_s
        ended = f"; {one.ended}" if one.ended else ""
        stay = human_s(max(0.0, until - one.since_s))
        lines.append(f"  {_label(one.name, one.version, one.sha)}  {one.how}, {stay}{ended}")
    return lines
