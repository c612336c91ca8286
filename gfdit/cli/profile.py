"""`gfdit profile`: what a model's stages and steps take on this machine, as a cost model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfdit.config import Device, Dtype, Environment, parse_workers
from gfdit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gfdit.cli.measure import Sizes, Stopwatch
    from gfdit.core.cost import CostModel
    from gfdit.core.work import Request
    from gfdit.live.system import LiveSystem


def profile(
    model: Annotated[
        Path | None,
        typer.Option(help="A saved diffusers pipeline: a folder, or a hub id in the local cache; default: embedded."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id; default: main.")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="What to compute in; default: float32 on a CPU, bfloat16 on a GPU.")
    ] = None,
    device: Annotated[Device, typer.Option(help="What to measure on.")] = Device.AUTO,
    workers: Annotated[
        str, typer.Option(metavar="auto|N", help="Measure groups of 1, 2, 4, ... up to this many.")
    ] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File; default: where `gfdit run` looks.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes and steps.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the file's text, too.")] = False,
) -> None:
    """Measure the model on this machine and write the cost model that `gfdit run` uses from then on."""
    from gfdit.cli.measure import FULL, QUICK, OneAtATime, bootstrap, cost_from, requests_for
    from gfdit.cli.prepare import pick_device, profile_path
    from gfdit.live.system import LiveConfig, default_workers, start_live
    from gfdit.models.folders import model_folder, model_name
    from gfdit.runtime.costfile import cost_model_to_json

    picked = pick_device(device)
    if picked is Device.EMULATED:
        raise UsageError("an emulated device takes the time that a cost table says: there is nothing to measure")
    folder = model_folder(model, revision)
    name = model_name(folder)
    path = out or profile_path(Environment.read(), name, picked)
    count = parse_workers(workers) or default_workers(str(picked))
    degrees = [1 << power for power in range(count.bit_length()) if 1 << power <= count]
    sizes = QUICK if quick else FULL
    live = LiveConfig(OneAtATime(), bootstrap(name, degrees, guided=True), str(picked), folder, count, dtype=dtype)
    with start_live(live) as system:
        assert system.facts is not None
        token = (system.facts.token_height, system.facts.token_width)
        requests = requests_for(name, sizes, degrees, system.facts.supports_cfg, token)
        watch = _measure(system, requests)
    cost = cost_from(watch.samples, requests, sizes, _device_name(picked), f"{name}-{picked}")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = cost_model_to_json(cost)
    path.write_text(text, encoding="utf-8")
    if json_:
        print(text, end="")
    else:
        _show(cost, name, requests, sizes)
    typer.echo(f"written to {path}", err=json_)


def _measure(system: LiveSystem, requests: Sequence[Request]) -> Stopwatch:
    from rich.console import Console
    from rich.progress import Progress

    from gfdit.cli.measure import Stopwatch

    watch = Stopwatch()
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("measuring", total=len(requests))
        for ticket in system.feed(requests):
            ticket.on_end(lambda _: bar.advance(task))
        system.close_intake()
        system.run((watch,))
    return watch


def _device_name(device: Device) -> str:
    from gfdit.cli.measure import cpu_name
    from gfdit.worker.devices import cuda_name

    return cuda_name() if device is Device.CUDA else f"{cpu_name()}, one thread a rank"


def _show(cost: CostModel, model: str, requests: Sequence[Request], sizes: Sizes) -> None:
    """Step times by size and degree."""
    from rich.console import Console
    from rich.table import Table

    from gfdit.core.work import Stage
    from gfdit.units import human_s

    degrees = cost.degrees(model)
    table = Table(title=f"{model} on {cost.device}", title_justify="left")
    table.add_column("size")
    table.add_column("guided")
    for degree in degrees:
        table.add_column(f"step, {degree} rank{'s' if degree > 1 else ''}", justify="right")
    seen: dict[tuple[int, bool], Request] = {}
    for request in requests:
        if request.width in sizes.fitted:
            seen.setdefault((request.width, request.cfg), request)
    for (side, cfg), request in sorted(seen.items()):
        times = [human_s(cost.seconds(request, Stage.DENOISE, degree)) for degree in degrees]
        table.add_row(f"{side}x{side}", "yes" if cfg else "no", *times)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"dispatch {human_s(cost.dispatch_s)}, reshard {human_s(cost.reshard_s)}, fit {cost.extra['fit_error']}"
    )
