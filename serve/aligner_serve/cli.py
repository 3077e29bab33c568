"""``aligner serve``: parse and check first, import Ray only then, end all that was started."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aligner_serve.config.graph import GraphConfig
    from aligner_serve.release import Release
    from aligner_serve.rollout import Rollout

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@click.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    help="YAML file; ready ones lie in serve/configs/.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one key of the file, for example --set deadline_s=60; may be repeated.",
)
@click.option("--port", type=int, help="Listen there instead; the same as --set port=PORT.")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    help="Write url, version and models there (JSON) once requests are answered.",
)
def serve(
    path: Path, overrides: tuple[str, ...], port: int | None, ready_file: Path | None
) -> None:
    """Serve upstreams whose answers the Aligner corrects, behind OpenAI's API."""
    from aligner.config import load
    from aligner.errors import AlignerError, ConfigError
    from aligner_serve.config.graph import GraphConfig
    from aligner_serve.keys import read as read_keys
    from aligner_serve.runtime import require_free_port

    try:
        if port is not None:
            overrides = (*overrides, f"port={port}")
        config = load(GraphConfig, path, overrides)
        if config.access.keys is not None:
            read_keys(Path(config.access.keys))
        require_free_port(config.host, config.port)
        if ready_file is not None and not ready_file.parent.is_dir():
            raise ConfigError(f"--ready-file: the folder {ready_file.parent} does not exist.")
        _serve(config, ready_file)
    except AlignerError as exc:
        # Here and not only in the `aligner` group: the command also runs by itself.
        click.echo(f"error: {exc}", err=True)
        sys.exit(exc.exit_code)


def _serve(config: "GraphConfig", ready_file: Path | None) -> None:
    """Check the releases, start everything, follow their aliases until a signal, end all."""
    from rich.console import Console

    from aligner_serve import counting, probe, release, runtime
    from aligner_serve.rollout import Rollout

    console = Console(stderr=True)
    started = time.monotonic()
    with _signals() as stop, contextlib.ExitStack() as stack:
        try:
            with console.status("looking up the release"):
                registry = release.Registry(config)
                released = registry.resolve_all()
                for seat, one in released.items():
                    registry.fetch(seat, one)
                probes = probe.load_all(config)
            with console.status("starting Ray and Serve"):
                stack.enter_context(runtime.ray_and_serve(config))
                # Ray has put its own handler in place, which ends this process on the spot.
                stop.listen()
            with console.status("starting gateway, upstreams and correctors"):
                cluster = runtime.cluster(config, probes, stopped=stop.asked)
                cluster.deploy(released)
        except KeyboardInterrupt:
            console.print("stopped before it was up")
            sys.exit(130)
        console.print(f"up after {time.monotonic() - started:.0f} s")
        click.echo(_welcome(config, released))
        if ready_file is not None:
            _write_ready(ready_file, config, released)
            stack.callback(ready_file.unlink, missing_ok=True)
        rollout = Rollout(
            released,
            watched=config.watched,
            registry=registry,
            cluster=cluster,
            say=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
            told=counting.RolloutCounts(),
        )
        for serving in _follow(rollout, stop, every_s=config.watch_s if config.watched else None):
            if ready_file is not None:
                _write_ready(ready_file, config, serving)
        console.print("ending; requests in flight are finished first")


def _follow(
    rollout: "Rollout", stop: "_Stop", *, every_s: float | None
) -> "Iterator[Mapping[str, Release]]":
    """What serves whenever that has changed, until a signal comes."""
    # A signal breaks off the waiting for a rollout.
    with contextlib.suppress(KeyboardInterrupt):
        while not stop.wait(every_s):
            if rollout.look():
                yield rollout.serving


class _Stop:
    """Somebody wants the command to end: an interruption until it waits for just that."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._waiting = False

    def on_signal(self, number: int, frame: object) -> None:
        """Only the first signal counts: a second must not break off the cleaning up."""
        first = not self._asked.is_set()
        self._asked.set()
        if first and not self._waiting:
            raise KeyboardInterrupt

    def wait(self, timeout_s: float | None) -> bool:
        """Whether a signal has come; return once it has, or after ``timeout_s``."""
        self._waiting = True
        return self._asked.wait(timeout_s)

    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._asked.is_set()

    def listen(self) -> None:
        """Take the signals that mean an end."""
        for number in _SIGNALS:
            signal.signal(number, self.on_signal)


@contextlib.contextmanager
def _signals() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    stop.listen()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_ready(path: Path, config: "GraphConfig", released: "Mapping[str, Release]") -> None:
    """Appears whole, so that whoever waits for it never reads half of it."""
    state = {
        "url": config.url,
        "versions": {name: one.version for name, one in released.items()},
        "models": list(config.served_models),
        "pid": os.getpid(),
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(state) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _welcome(config: "GraphConfig", released: "Mapping[str, Release]") -> str:
    model = next(iter(config.served_models))
    key = "KEY" if config.access.keys else "unused"
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "..."}]})
    versions = ", ".join(f"{name} ({one.version})" for name, one in released.items())
    lines = [
        f"{versions} at {config.url}/v1 as {', '.join(config.served_models)}",
        "",
        f"  curl {config.url}/v1/chat/completions -H 'Content-Type: application/json' \\",
        *(["    -H 'Authorization: Bearer KEY' \\"] if config.access.keys else []),
        f"    -d '{body}'",
        "",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="{config.url}/v1", api_key="{key}")',
        f'  client.chat.completions.create(model="{model}", messages=[...])',
        "",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    serve()
