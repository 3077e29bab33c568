"""The simulation as an OpenAI-compatible HTTP API, so that the platform meets it like any model.

Everything served here is simulated: the profiles of :mod:`aligner.simworld` and its teacher. The
same request with the same ``seed`` has the same reply, whatever else the server is asked. Plain
Starlette and :mod:`json`: a run asks tens of thousands of times, and on a small machine the
server shares the cores with the one who asks.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import aligner
from aligner.errors import AlignerError, ConfigError, EndpointError
from aligner.generation import Messages
from aligner.simworld import chat
from aligner.simworld.world import World

_READY: Final = "simworld listens on port "
_MAX_N: Final = 128
_START_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Request:
    """The part of a chat completion request that the simulation heeds."""

    model: str
    messages: Messages
    n: int
    seed: int
    stream: bool
    counted: bool
    """Whether a stream is to tell its tokens."""


class _Refused(Exception):
    """A request that is answered with an OpenAI error object."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def build_app(
    seed: int, *, latency_s: float = 0.0, word_s: float = 0.0, fault_rate: float = 0.0
) -> Starlette:
    """The application: ``/v1/chat/completions``, ``/v1/models`` and ``/healthz``.

    A reply begins after ``latency_s``; a stream takes ``word_s`` more for each of its words.
    ``fault_rate`` of the chat requests fail on purpose, 429 with ``Retry-After`` and 500 by turns,
    so that a client's retries can be tried out.
    """
    world = World(seed)
    faults = random.Random(f"faults:{seed}")

    async def completions(request: Request) -> Response:
        if latency_s:
            await asyncio.sleep(latency_s)
        if fault_rate and faults.random() < fault_rate:
            return _fault(faults)
        try:
            asked = _parse(await request.body())
            texts = _replies(world, asked)
        except _Refused as refused:
            return _error(refused.status, refused.message, refused.code)
        except ClientDisconnect:
            # Whoever asked has been interrupted; nobody reads this.
            return Response(status_code=499)
        if asked.stream:
            return StreamingResponse(_events(asked, texts, word_s), media_type="text/event-stream")
        return _json(_completion(asked, texts))

    async def models(_: Request) -> Response:
        listed = [{"id": name, "object": "model", "owned_by": "simworld"} for name in chat.MODELS]
        return JSONResponse({"object": "list", "data": listed})

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "seed": seed})

    async def not_found(_: Request, exc: Exception) -> Response:
        return _error(getattr(exc, "status_code", 404), "no such route", "unknown_url")

    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        404: not_found,
        405: not_found,
    }
    return Starlette(
        routes=[
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/healthz", healthz),
        ],
        exception_handlers=handlers,
    )


def serve(
    seed: int,
    port: int,
    *,
    latency_s: float = 0.0,
    word_s: float = 0.0,
    fault_rate: float = 0.0,
    host: str = "127.0.0.1",
    until_stdin_closes: bool = False,
) -> None:
    """Serve until interrupted; port 0 takes a free one. One line on stdout names the port.

    Raises:
        ConfigError: The port cannot be had.
    """
    listener = _listen(host, port)
    app = build_app(seed, latency_s=latency_s, word_s=word_s, fault_rate=fault_rate)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    if until_stdin_closes:
        threading.Thread(target=_watch_stdin, args=(server,), daemon=True).start()
    print(f"{_READY}{listener.getsockname()[1]}", flush=True)
    # Uvicorn passes Ctrl-C on after its own shutdown; to whoever serves, that is a normal end.
    with listener, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


class SimworldServer:
    """The simulation in a child process on a free port, for the length of a ``with`` block.

    The child ends with the block, and also when this process dies without leaving it.
    """

    def __init__(
        self, seed: int, *, latency_s: float = 0.0, word_s: float = 0.0, fault_rate: float = 0.0
    ) -> None:
        self._options = [
            f"--seed={seed}",
            f"--latency-s={latency_s}",
            f"--word-s={word_s}",
            f"--fault-rate={fault_rate}",
        ]
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes, ``/v1`` included."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        return self._port

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "aligner.adapters.simworld_http", "--port=0"]
        root = str(Path(aligner.__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [*command, "--until-stdin-closes", *self._options],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal reaches a whole group: this one is ended by its owner, in order.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(_READY):
            self._stop()
            raise EndpointError("refused: the simulation did not start; see the lines above.")
        self._port = int(line.removeprefix(_READY))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        self._process = None


def main(arguments: list[str] | None = None) -> int:
    """``python -m aligner.adapters.simworld_http --seed S --port P``."""
    parser = argparse.ArgumentParser(description=serve.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--word-s", type=float, default=0.0)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    parser.add_argument("--until-stdin-closes", action="store_true")
    try:
        serve(**vars(parser.parse_args(arguments)))
    except AlignerError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    return 0


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as exc:
        listener.close()
        reason = getattr(exc, "strerror", None) or "no such port"
        raise ConfigError(
            f"port {port} on {host} cannot be had ({reason}); choose another port."
        ) from None
    return listener


def _watch_stdin(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


def _parse(body: bytes) -> _Request:
    try:
        raw = json.loads(body)
    except ValueError:
        raise _Refused(400, "the body is not JSON", "invalid_json") from None
    if not isinstance(raw, dict):
        raise _Refused(400, "the body is not an object", "invalid_request")
    model, messages = raw.get("model"), raw.get("messages")
    n, seed = raw.get("n") or 1, raw.get("seed") or 0
    if not isinstance(model, str):
        raise _Refused(400, "'model' must be a string", "invalid_request")
    if not isinstance(messages, list) or not all(
        isinstance(item, dict) and isinstance(item.get("content"), str) for item in messages
    ):
        raise _Refused(
            400, "'messages' must be a list of {role, content: string}", "invalid_request"
        )
    if type(n) is not int or not 1 <= n <= _MAX_N or type(seed) is not int:
        raise _Refused(400, f"'n' must be 1 to {_MAX_N} and 'seed' an integer", "invalid_request")
    options = raw.get("stream_options")
    counted = isinstance(options, dict) and bool(options.get("include_usage"))
    return _Request(model, messages, n, seed, stream=bool(raw.get("stream")), counted=counted)


def _replies(world: World, asked: _Request) -> list[str]:
    if asked.model not in chat.MODELS:
        raise _Refused(404, f"the model {asked.model!r} does not exist", "model_not_found")
    try:
        return [
            chat.reply(world, asked.model, asked.messages, asked.seed + i) for i in range(asked.n)
        ]
    except ValueError as exc:
        raise _Refused(400, str(exc), "invalid_request") from None


def _completion(asked: _Request, texts: list[str]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-simworld",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
            for index, text in enumerate(texts)
        ],
        "usage": _usage(asked, texts),
    }


def _usage(asked: _Request, texts: list[str]) -> dict[str, int]:
    """In words: the simulation has no tokens."""
    prompt = sum(len(message["content"].split()) for message in asked.messages)
    completion = sum(len(text.split()) for text in texts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def _events(asked: _Request, texts: list[str], word_s: float) -> AsyncIterator[bytes]:
    head = {
        "id": "chatcmpl-simworld",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": asked.model,
    }
    for index, text in enumerate(texts):
        pieces = [word if at == 0 else f" {word}" for at, word in enumerate(text.split(" "))]
        deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in pieces]
        for delta in deltas:
            if word_s and delta.get("content"):
                await asyncio.sleep(word_s)
            choice = {"index": index, "delta": delta, "finish_reason": None}
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode()
        last = {"index": index, "delta": {}, "finish_reason": "stop"}
        yield f"data: {json.dumps({**head, 'choices': [last]})}\n\n".encode()
    if asked.counted:
        usage = {**head, "choices": [], "usage": _usage(asked, texts)}
        yield f"data: {json.dumps(usage)}\n\n".encode()
    yield b"data: [DONE]\n\n"


def _fault(faults: random.Random) -> Response:
    if faults.random() < 0.5:
        response = _error(429, "too many requests (on purpose)", "rate_limit_exceeded")
        response.headers["Retry-After"] = "0.05"
        return response
    return _error(500, "internal error (on purpose)", "internal_error")


def _error(status: int, message: str, code: str) -> Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return JSONResponse(body, status_code=status)


def _json(body: dict[str, Any]) -> Response:
    return Response(json.dumps(body), media_type="application/json")


if __name__ == "__main__":
    sys.exit(main())
