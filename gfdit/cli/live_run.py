"""One live run from start to report: workers up, requests in, the loop, results out. `run.py` is its command line."""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from rich.console import Console as Terminal
from rich.status import Status

from gfdit import __version__
from gfdit.api.policies import Control
from gfdit.api.server import HttpServer
from gfdit.cli.console import WINDOW_S, ConsoleHeader, RunConsole, make_console
from gfdit.cli.prepare import Prepared, prepare
from gfdit.cli.results import Figures, Pictures, write_summary
from gfdit.cli.service import LiveService
from gfdit.cli.summary_table import summary_table
from gfdit.config import LOOPBACK, Environment, RunConfig, read_keys
from gfdit.core.events import Event
from gfdit.core.scheduler import Decision
from gfdit.live.durable_ledger import Ledger
from gfdit.live.durable_lock import FolderLock
from gfdit.live.system import LiveSystem, start_live
from gfdit.policy.bundle import public_key
from gfdit.report import report_of_journal
from gfdit.runtime.blobs import Blobs
from gfdit.runtime.ejections import EjectionFiles
from gfdit.runtime.journal import Journal, set_aside
from gfdit.runtime.ports import Observer
from gfdit.runtime.recipe import recipe_of
from gfdit.runtime.summary import Summary

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
ROSTER = ".workers.json"
EXAMPLE = 'gfdit submit "a red circle on a blue background" --size 128x128 -o a.png'


@dataclass(frozen=True, slots=True)
class Look:
    """How a run shows itself. `plain`: lines instead of the full screen, None as the terminal allows. `json`: the
    summary as one object on standard output, everything else on standard error."""

    plain: bool | None = None
    ascii: bool = False
    json: bool = False


class Interrupts:
    """Ctrl-C (or SIGTERM) drains, a second one cancels what still runs, a third one leaves at once."""

    def __init__(self, system: LiveSystem, say: Callable[[str], None]) -> None:
        self._system = system
        self._say = say
        self._before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}
        self.count = 0

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        match self.count:
            case 1:
                self._say("draining: running requests are finished; Ctrl-C again cancels them")
                self._system.drain()
            case 2:
                self._say("cancelling what still runs")
                self._system.drain(cancel=True)
            case _:
                raise KeyboardInterrupt

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class TimedObserver:
    """Tells how many seconds each tick took `observer`."""

    observer: Observer
    tell: Callable[[float], None]

    def record(self, now: int, events: Sequence[Event], decision: Decision, tick_seconds: float) -> None:
        begin = time.perf_counter()
        self.observer.record(now, events, decision, tick_seconds)
        self.tell(time.perf_counter() - begin)


@dataclass(frozen=True, slots=True)
class Keys:
    """What clients, operators and policies are known by. `api`, `admin`: empty where nothing is asked for."""

    api: tuple[str, ...]
    admin: tuple[str, ...]
    policy: Ed25519PublicKey | None

    @classmethod
    def read(cls, config: RunConfig) -> Keys:
        """Raises UsageError."""
        files = config.api_key_file, config.admin_token_file
        api, admin = (() if file is None else read_keys(file) for file in files)
        return cls(api, admin, None if config.policy_key is None else public_key(config.policy_key))


def _allow_many_sockets() -> None:
    """A client is a file. The hard limit is the operator's to set, the soft one is ours."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def execute(config: RunConfig, look: Look) -> int:
    """Run it; returns the exit code. Raises GfditError for what cannot be started."""
    _allow_many_sockets()
    keys = Keys.read(config)
    prepared = prepare(config, Environment.read())
    terminal = Terminal(stderr=look.json, highlight=False)
    with FolderLock(config.out), _starting(prepared, terminal, config.out) as system:
        aside = set_aside(config.out / "journal.sqlite")
        if aside is not None:
            terminal.print(f"the run before did not end in order; its journal is {aside}", style="dim")
        journal = Journal(config.out / "journal.sqlite", _header(prepared, config, system), system.scheduler)
        summary, pictures = Summary(system.workers), Pictures(config.out)
        try:
            interrupted = _serve(config, keys, look, prepared, system, pictures, journal, summary)
        finally:
            journal.close()
    figures = _figures(prepared, config, summary)
    _leave_results(config, look, figures, pictures, terminal)
    storage = system.fleet.durable.problem if system.fleet.durable is not None else ""
    for problem in filter(None, (*pictures.problems, journal.problem, storage)):
        print(f"warning: {problem}", file=sys.stderr)
    if prepared.requests and interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if figures["failed"] and not interrupted else 0


def _starting(prepared: Prepared, terminal: Terminal, out: Path) -> LiveSystem:
    """Start the workers, saying so; those of a server wait for the next one if this one is killed."""
    live = prepared.live
    if not prepared.requests:
        live = replace(live, fleet=replace(live.fleet, roster=out / ROSTER))
    what = f"{prepared.workers} {prepared.device} workers, model {prepared.model}"
    terminal.print(f"cost model {prepared.cost.name} ({prepared.cost_from})", style="dim")
    status = Status(f"starting {what}", console=terminal) if terminal.is_terminal else None
    if status is None:
        terminal.print(f"starting {what}")

    def progress(ready: int, workers: int) -> None:
        if status is not None:
            status.update(f"starting {what}: {ready}/{workers} ready")

    with status or nullcontext():
        return start_live(live, progress)


def _serve(
    config: RunConfig,
    keys: Keys,
    look: Look,
    prepared: Prepared,
    system: LiveSystem,
    pictures: Pictures,
    journal: Journal,
    summary: Summary,
) -> bool:
    """The loop, until the workload is served or the system has drained; returns whether it was interrupted."""
    observers: list[Observer] = [journal, summary]
    afterwards: tuple[Observer, ...] = ()
    with ExitStack() as stack:
        hint = "Ctrl-C drains and stops"
        if not prepared.requests:
            results = Blobs(config.out / "results")
            if resumed := system.keep(Ledger(config.out / "ledger.sqlite", results)):
                print(f"{resumed} requests of the run before go on", file=sys.stderr)
            service = LiveService(system, prepared.live.model, config.max_queue)
            observers = [TimedObserver(journal, service.journal_committed), summary, *service.observers]
            rollout = system.rollout(prepared.params, config.out / "policies", keys.policy)
            control = Control(rollout, keys.admin)
            afterwards = (rollout,)
            videos = config.out / "videos"
            server = stack.enter_context(
                HttpServer(service, config.host, config.port, keys.api, control, videos, results)
            )
            if not keys.api and config.host not in LOOPBACK:
                print(f"warning: others can reach {config.host}; see `--api-key-file`", file=sys.stderr)
            hint = f"serving on {server.url}; try: {_example(server.url, config)}"
        console = stack.enter_context(_console(config, look, prepared, system, hint))
        interrupts = stack.enter_context(Interrupts(system, console.say))
        if prepared.requests:
            for ticket in system.feed(prepared.requests):
                ticket.on_end(pictures.take)
            system.close_intake()
        ejections = EjectionFiles(config.out / "ejections", console.say)
        system.run((*observers, ejections, console), afterwards)
    return interrupts.count > 0


def _console(config: RunConfig, look: Look, prepared: Prepared, system: LiveSystem, hint: str) -> RunConsole:
    header = ConsoleHeader(
        model=prepared.model,
        policy=prepared.policy.name,
        policy_sha=prepared.policy.sha,
        ranks=system.workers,
        device=str(prepared.device),
        hint=hint,
        window_s=WINDOW_S * config.time_scale,
    )
    stream = sys.stderr if look.json else sys.stdout
    return make_console(
        header,
        scheduler=system.scheduler,
        now=system.clock.now,
        ascii=look.ascii,
        plain=True if look.json else look.plain,
        stream=stream,
        cancel=system.cancel,
    )


def _example(url: str, config: RunConfig) -> str:
    default = RunConfig(policy=config.policy)
    return EXAMPLE if url == f"http://{default.host}:{default.port}" else f"{EXAMPLE} --url {url}"


def _header(prepared: Prepared, config: RunConfig, system: LiveSystem) -> dict[str, object]:
    about = {
        "gfdit": __version__,
        "device": str(prepared.device),
        "workload": None if config.workload is None else config.workload.name,
        "time_scale": config.time_scale,
    }
    live = prepared.live
    recipe = recipe_of(
        prepared.policy, prepared.params, prepared.cost, system.workers, live.gpus_per_node, system.models, about
    )
    return recipe.to_json()


def _figures(prepared: Prepared, config: RunConfig, summary: Summary) -> Figures:
    return {
        "policy": prepared.policy.name,
        "policy_sha": prepared.policy.sha,
        "workload": None if config.workload is None else config.workload.name,
        "cost_model": prepared.cost.name,
        "device": str(prepared.device),
        "gpus": summary.gpus,
        "time_scale": config.time_scale,
        **summary.figures(),
        "resizes_by_kind": summary.resizes_by_kind(),
    }


def _leave_results(config: RunConfig, look: Look, figures: Figures, pictures: Pictures, terminal: Terminal) -> None:
    write_summary(config.out / "summary.json", figures)
    report = report_of_journal(config.out / "journal.sqlite", config.out / "report.html")
    if look.json:
        print((config.out / "summary.json").read_text("utf-8"), end="")
        return
    terminal.print()
    title = f"policy {figures['policy']} on {figures['gpus']} {figures['device']} ranks"
    terminal.print(summary_table(figures, title=title, ascii=look.ascii))
    terminal.print()
    if pictures.written:
        terminal.print(f"{pictures.written} pictures in {config.out}/")
    terminal.print(f"report   {report}\njournal  {config.out / 'journal.sqlite'}", soft_wrap=True)
