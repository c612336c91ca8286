"""What keys bring onto the screen: requests as chosen and ordered, one request in detail, the list of keys. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from gfdit.cli.keys import HELP, Controls, Sort
from gfdit.cli.notes import STYLES, clause
from gfdit.core.work import Stage
from gfdit.runtime.standing import Standing
from gfdit.runtime.timeline import Life, Stint, Timeline
from gfdit.units import human_s, to_s

Look = Callable[[str], Standing | None]
MOST_BAR = 32


def chosen(lives: Sequence[Life], look: Look, controls: Controls) -> list[Life]:
    """Those that the filter lets through, in the order that was asked for; urgency is the order they come in."""
    wanted = controls.filter.lower()
    kept = [life for life in lives if not wanted or wanted in _words(life, look)]
    match controls.sort:
        case Sort.URGENCY:
            return kept
        case Sort.ARRIVAL:
            return sorted(kept, key=lambda life: life.request.arrival_ns)
        case Sort.DEADLINE:
            return sorted(kept, key=lambda life: (life.deadline_ns is None, life.deadline_ns or 0))
        case Sort.STEPS:
            return sorted(kept, key=lambda life: life.request.steps - life.steps_done)
        case Sort.DEGREE:
            return sorted(kept, key=lambda life: -len(life.group))
        case Sort.CLASS:
            return sorted(kept, key=lambda life: life.request.class_name)


def _words(life: Life, look: Look) -> str:
    request = life.request
    standing = None if life.end is not None else look(request.id)
    told = [request.id, request.class_name, request.model, str(life.state)]
    if standing is not None:
        told += [standing.class_name, str(standing.wait_reason or "").replace("_", " ")]
    return " ".join(told).lower()


def help_lines(width: int, room: int) -> list[Text]:
    lines = [Text("keys".ljust(width), "reverse dim"), Text("")]
    lines += [Text.assemble((f"  {keys:<14}", "bold"), told) for keys, told in HELP]
    return _filled(lines, room)


def detail_lines(
    timeline: Timeline, life: Life | None, look: Look, now: int, width: int, room: int, ascii_only: bool
) -> list[Text]:
    """One request: how it stands, its groups with a bar each, what was decided about it. The newest if it is long."""
    if life is None:
        return _filled([Text("request".ljust(width), "reverse dim"), Text("  it is not known any more")], room)
    request = life.request
    head = [Text(f"request {request.id}".ljust(width), "reverse dim"), *_about(life, look, now)]
    notes = [note for note in timeline.notes if note.life is life]
    shown = notes[-max(1, (room - len(head)) // 3) :]
    left = max(1, room - len(head) - len(shown) - 2)
    stints = [_stint(life, stint, now, ascii_only) for stint in life.stints]
    if len(stints) > left:
        stints = [Text(f"  {len(stints) - left + 1} more before", "dim"), *stints[len(stints) - left + 1 :]]
    title = f"  {'from':>9}  {'took':>9}  {'stage':<9} {'steps':<9} degree and ranks"
    told = [
        Text.assemble(f"{to_s(note.at):>9.2f} ", (f"{note.kind.value:<9} ", STYLES[note.kind]), note.text,
                      (clause(note.because), "dim")) for note in shown
    ]  # fmt: skip
    heads = Text(title.ljust(width), "dim"), Text("decided about it".ljust(width), "dim")
    return _filled([*head, heads[0], *stints, heads[1], *told], room)


def _about(life: Life, look: Look, now: int) -> list[Text]:
    request = life.request
    standing = None if life.end is not None else look(request.id)
    frames = "" if request.frames == 1 else f"x{request.frames}"
    waited = to_s(life.wait_ns + (max(0, now - life.waiting_since) if life.end is None and not life.group else 0))
    first = Text.assemble(
        "  ", (request.class_name, "bold"), f", {request.model}, {request.width}x{request.height}{frames}, "
        f"{life.steps_done}/{request.steps if standing is None else standing.steps_total} steps, ",
        (str(life.state), "bold"), f"; waited {human_s(waited)}, {life.resizes} resizes, {life.preemptions} pauses, "
        f"attempt {life.attempts}",
    )  # fmt: skip
    return [first, Text("  " + _why(life, standing, now))]


def _why(life: Life, standing: Standing | None, now: int) -> str:
    """Its deadline, and what it waits for."""
    told = []
    if life.end is not None:
        told.append(f"ended after {human_s(to_s(life.end.at - life.request.arrival_ns))}")
        told += [life.end.message] if life.end.message else []
    if life.deadline_ns is not None:
        left = to_s(life.deadline_ns - (now if life.end is None else life.end.at))
        told.append(f"deadline in {human_s(left)}" if left >= 0 else f"deadline missed by {human_s(-left)}")
    if standing is not None and standing.slack_s is not None:
        told.append(f"slack {human_s(standing.slack_s)}")
    if standing is not None and standing.wait_reason is not None and not life.group:
        told.append("waits: " + str(standing.wait_reason).replace("_", " ") + clause(standing.because))
    return ", ".join(told) or "no deadline"


def _stint(life: Life, stint: Stint, now: int, ascii_only: bool) -> Text:
    end = now if stint.end is None else stint.end
    steps = f"{stint.first_step}-{stint.first_step + stint.steps - 1}" if stint.stage is Stage.DENOISE else ""
    ranks = ",".join(map(str, stint.ranks[:16])) + (",.." if len(stint.ranks) > 16 else "")
    bar = ("#" if ascii_only else "▮") * min(MOST_BAR, stint.degree)
    row = Text(f"  {to_s(stint.start):>9.2f}  {human_s(to_s(max(0, end - stint.start))):>9}  {stint.stage!s:<9} ")
    row.append(f"{steps:<9} {stint.degree:>2} {bar} ")
    row.append(f"ranks {ranks}", "dim")
    row.append(f"  failed: {stint.failed}" if stint.failed else "" if stint.end is not None else "  now", "bold")
    return row


def _filled(lines: list[Text], room: int) -> list[Text]:
    return lines[:room] + [Text("")] * (room - len(lines))
