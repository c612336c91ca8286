"""`gfdit run`: a live system under a policy, for a workload or for clients over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfdit.cli.check import parse_settings
from gfdit.config import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_QUEUE, Device, Dtype, RunConfig, parse_workers


def run(
    policy: Annotated[
        str, typer.Option("--policy", "-p", help="A .pol, .py or .polb file, or a shipped policy's name.")
    ],
    workload: Annotated[
        Path | None, typer.Option(help="Serve this workload file, then stop. Without it: serve HTTP.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for pictures, journal, report and summary.")] = Path("out"),
    workers: Annotated[str, typer.Option(metavar="auto|N", help="How many workers, one a rank.")] = "auto",
    device: Annotated[Device, typer.Option(help="What they compute on.")] = Device.AUTO,
    model: Annotated[
        Path | None,
        typer.Option(help="A saved diffusers pipeline: a folder, or a hub id in the local cache; default: embedded."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id; default: main.")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="What to compute in; default: float32 on a CPU, bfloat16 on a GPU.")
    ] = None,
    cost: Annotated[str | None, typer.Option(help="Cost model: a file or a shipped name.")] = None,
    time_scale: Annotated[float, typer.Option(help="Seconds of the table in one of ours (emulated devices).")] = 1.0,
    host: Annotated[str, typer.Option(help="Address to serve HTTP on.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(help="Port to serve HTTP on; 0 takes a free one.")] = DEFAULT_PORT,
    max_queue: Annotated[
        int, typer.Option(help="Requests over HTTP that may wait for ranks; more are told to come back later.")
    ] = DEFAULT_QUEUE,
    api_key_file: Annotated[
        Path | None, typer.Option(help="API keys, one a line; HTTP clients must send one of them.")
    ] = None,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(help="Tokens, one a line, for `gfdit policy` from anywhere; default: from this machine alone."),
    ] = None,
    policy_key: Annotated[
        Path | None, typer.Option(help="Public key; policies that are pushed must be signed with its private half.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PARAM=VALUE", help="A value for a policy param.")
    ] = None,
    console: Annotated[
        bool | None,
        typer.Option("--console/--no-console", help="Full screen or plain lines; default: as the terminal allows."),
    ] = None,
    ascii_: Annotated[bool, typer.Option("--ascii", help="Draw the console with ASCII characters only.")] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, everything else on stderr.")
    ] = False,
) -> None:
    """Start workers and serve requests under a policy, resizing groups between denoising steps."""
    config = RunConfig(
        policy=policy,
        params=parse_settings(set_ or []),
        workload=workload,
        out=out,
        device=device,
        workers=parse_workers(workers),
        model=model,
        revision=revision,
        dtype=dtype,
        cost=cost,
        time_scale=time_scale,
        host=host,
        port=port,
        max_queue=max_queue,
        api_key_file=api_key_file,
        admin_token_file=admin_token_file,
        policy_key=policy_key,
    )
    from gfdit.cli.live_run import Look, execute

    look = Look(plain=None if console is None else not console, ascii=ascii_, json=json_)
    if code := execute(config, look):
        raise typer.Exit(code)
