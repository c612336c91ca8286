"""`gfdit submit`: one request to a running server, with a progress bar, to a file: a picture, or a video as `.mp4`."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import sys
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from gfdit.cli.server_client import authorization, delete, get
from gfdit.config import Environment, parse_size
from gfdit.errors import GfditError, InputError, UsageError

CONNECT_S = 10.0
SILENCE_S = 60.0  # the server says something at least every ten
LOOK_S = 0.25
MAX_LINE = 64 << 20


def submit(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the picture; `.mp4`: ask for a video.")],
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Width x height in pixels; default: the model's.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The server; default: GFDIT_URL, or http://127.0.0.1:8000.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same picture.")] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="Class of service, such as interactive or batch.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="When it should be there, from now.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Higher is sooner.")] = None,
    model: Annotated[str | None, typer.Option(help="Which of the server's models.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to draw.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0.0, help="Guidance scale; 1 turns guidance off.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="How long a video plays.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print how it went as JSON.")] = False,
) -> None:
    """Send one request to a running `gfdit run`, wait for it and keep the picture or the video."""
    film = out.suffix.lower() == ".mp4"
    if seconds is not None and not film:
        raise UsageError(f"`--seconds` is for videos, and `{out}` is none", hint="end the file's name in .mp4")
    if size is not None:
        parse_size(size)
    if not out.parent.is_dir():
        raise UsageError(f"no folder `{out.parent}` for `{out.name}`")
    asked = {
        "prompt": prompt,
        "stream": None if film else True,
        "seconds": seconds,
        "size": size,
        "num_inference_steps": steps,
        "seed": seed,
        "class": class_,
        "deadline_ms": None if deadline is None else deadline * 1000,
        "priority": priority,
        "model": model,
        "negative_prompt": negative_prompt,
        "true_cfg_scale": guidance,
    }
    body = {name: value for name, value in asked.items() if value is not None}
    server = url or Environment.read().url
    if film:
        went = _film(server, body, out)
        print(json.dumps(went, indent=1) if json_ else f"{out}: {_how_it_went(went)}")
        return
    answer = _wait(server, body)
    try:
        picture = base64.b64decode(answer["b64_json"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        raise GfditError("the server's answer holds no picture") from None
    out.write_bytes(picture)
    if json_:
        print(json.dumps(answer["gfdit"], indent=1))
        return
    print(f"{out}: {_how_it_went(answer['gfdit'])}")


def _how_it_went(how: dict[str, Any]) -> str:
    groups = ", ".join(f"{degree} from step {step}" for step, degree in how["degrees"])
    met = {True: ", on time", False: ", late", None: ""}[how["deadline_met"]]
    waited, ran = how["queue_ms"] / 1000, how["run_ms"] / 1000
    return f"{how['steps']} steps, seed {how['seed']}; waited {waited:.2f} s, ran {ran:.2f} s{met}; ranks: {groups}"


def _wait(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send, show the steps, and return the completed event. Raises GfditError with the server's words."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        _connect(url) as connection,
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar,
    ):
        task = bar.add_task("waiting", total=None)
        for kind, text in _events(_post(connection, url, body)):
            match kind:
                case "":
                    if step := _step(text):
                        bar.update(task, description="denoising", completed=step[0], total=step[1])
                case "image_generation.completed":
                    return dict(json.loads(text))
                case _:
                    raise _refused(json.loads(text), 500)
    raise GfditError(f"{url} closed the connection before the picture was there")


def _film(url: str, body: dict[str, Any], out: Path) -> dict[str, Any]:
    """Ask for a video, look at it until it has ended, fetch it; returns how it went. Ctrl-C cancels it."""
    from rich.console import Console
    from rich.progress import Progress

    with _connect(url) as connection:
        job = json.loads(_post(connection, url, body, "/v1/videos").read(MAX_LINE))
    path = f"/v1/videos/{job['id']}"
    try:
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("waiting", total=100)
            while job["status"] in ("queued", "in_progress"):
                time.sleep(LOOK_S)
                job = json.loads(get(url, path))
                bar.update(task, description=job["status"].replace("_", " "), completed=job["progress"])
    except KeyboardInterrupt:
        delete(url, path)
        raise
    if job["status"] == "failed":
        raise GfditError(f"the server failed: {job['error']['message']}")
    out.write_bytes(get(url, f"{path}/content"))
    return dict(job["gfdit"])


def _connect(url: str) -> closing[http.client.HTTPConnection]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"`{url}` is no server's address", hint="such as http://127.0.0.1:8000")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return closing(kind(parts.hostname, parts.port, timeout=CONNECT_S))


def _post(
    connection: http.client.HTTPConnection, url: str, body: dict[str, Any], path: str = "/v1/images/generations"
) -> IO[bytes]:
    prefix = urllib.parse.urlsplit(url).path.rstrip("/")
    try:
        connection.connect()
        assert connection.sock is not None
        connection.sock.settimeout(SILENCE_S)
        headers = {"Content-Type": "application/json", **authorization()}
        connection.request("POST", f"{prefix}{path}", json.dumps(body), headers)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise GfditError(
            f"cannot reach {url}: {error}", hint="start a server with `gfdit run --policy slo.pol`"
        ) from None
    if response.status != 200:
        text = response.read(1 << 20)
        try:
            raise _refused(json.loads(text), response.status)
        except json.JSONDecodeError:
            raise GfditError(f"{url} answered {response.status} {response.reason}") from None
    return response


def _refused(body: dict[str, Any], status: int) -> GfditError:
    """The server's error in its own words: a bad input, unless the fault is the server's."""
    error = body.get("error") or {}
    message = str(error.get("message", f"the server answered {status}"))
    return InputError(message) if status < 500 else GfditError(f"the server failed: {message}")


def _events(stream: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Server-sent events as (event, data); a comment has the event ""."""
    kind = ""
    try:
        while line := stream.readline(MAX_LINE):
            text = line.decode("utf-8").rstrip("\r\n")
            if text.startswith(":"):
                yield "", text[1:].strip()
            elif text.startswith("event:"):
                kind = text[6:].strip()
            elif text.startswith("data:"):
                yield kind, text[5:].strip()
    except OSError as error:
        raise GfditError(f"lost the connection to the server: {error}") from None


def _step(comment: str) -> tuple[int, int] | None:
    """`step 3/16` as numbers."""
    word, _, counts = comment.partition(" ")
    done, slash, total = counts.partition("/")
    if word != "step" or not slash or not done.isdigit() or not total.isdigit():
        return None
    return int(done), int(total)
