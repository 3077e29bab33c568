"""The real gateway over engines that take a fixed time, in a process of its own.

What becomes of a request is in its model's name: who answers, and who corrects.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Self

import uvicorn
from fixed_corrector import FAILING
from unread import Unread

from aligner.feedback import FeedbackRow
from aligner.generation import Messages, Sampling
from aligner.records import Question
from aligner_serve.config.graph import GraphConfig
from aligner_serve.feedback_store import Kept
from aligner_serve.gateway import Gateway
from aligner_serve.ingress import build_api
from aligner_serve.pieces import Delta, Failed, Finished, Piece, Usage
from aligner_serve.seeing import Seeing
from aligner_serve.telemetry import Silent

CORRECTED = "iron+fixer"
UNCHANGED = "iron+content"
PASSED = "iron+broken"
BLOCKED = "iron+strict"
STACKED = "iron+fixer+polite"
RAW = "iron"
DEAD = "dead+fixer"
SLOW = "slow+fixer"

_SLOW_S = 300.0
_READY = "listening on "


def answer_to(question: str) -> str:
    """What every upstream here says."""
    return f"Some say <b>{question}</b> is old.\n\nThat is all & nothing else."


def correction_of(answer: str, aligner: str) -> str:
    """What ``aligner`` makes of it."""
    return {
        "fixer": answer.replace("Some say", "All know").replace(" old.", " rather new."),
        "polite": f"{answer} Thank you.",
    }.get(aligner, answer)


class FixedUpstream:
    """Answers after ``latency_s``, word by word where it is streamed."""

    def __init__(self, name: str, latency_s: float) -> None:
        self._name, self._latency_s = name, latency_s

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """One answer; the upstream ``dead`` has none."""
        await asyncio.sleep(_SLOW_S if self._name == "slow" else self._latency_s)
        if self._name == "dead":
            yield Failed("refused")
            return
        for text in _parts(answer_to(messages[-1]["content"]), stream=stream):
            yield Delta(text)
        yield Finished(Usage(5, 7), by=self._name)


class FixedCorrector(Unread):
    """Corrects after ``latency_s``, word by word where it is streamed."""

    def __init__(self, name: str, latency_s: float) -> None:
        self._name, self._latency_s = name, latency_s

    async def correct(
        self, question: Question, answer: str, *, deadline_s: float, stream: bool, session: str = ""
    ) -> AsyncGenerator[Piece]:
        """One correction."""
        await asyncio.sleep(self._latency_s)
        if self._name in FAILING:
            yield Failed("too_long")
            return
        for text in _parts(correction_of(answer, self._name), stream=stream):
            yield Delta(text)
            await asyncio.sleep(0)
        yield Finished(Usage(11, 7), by=f"models:/{self._name}/3")

    async def check_health(self) -> bool:
        """Always."""
        return True


def _parts(text: str, *, stream: bool) -> list[str]:
    return re.findall(r"\S*\s*", text) if stream else [text]


def config(**changes: Any) -> GraphConfig:
    """The graph that all these models belong to."""
    # Where they are deployments, nothing in them computes.
    source = {"source": {"kind": "path", "uri": "nowhere"}, "scaling": {"num_cpus": 0.1}}
    return GraphConfig.model_validate(
        {
            "base_url": "http://127.0.0.1:9/v1",
            "upstreams": {"iron": {"raw": True}, "dead": {}, "slow": {}},
            "aligners": {
                "fixer": source,
                "content": source,
                "broken": source,
                "strict": {**source, "on_failure": "block"},
                "polite": source,
            },
            "stacks": [["fixer", "polite"]],
            **changes,
        }
    )


def gateway(graph: GraphConfig, *, latency_s: float = 0.0) -> Gateway:
    """The real one, over engines of which each takes ``latency_s``."""
    return Gateway(
        graph,
        upstreams={name: FixedUpstream(name, latency_s) for name in graph.upstreams},
        correctors={name: FixedCorrector(name, latency_s) for name in graph.aligners},
        telemetry=Silent(),
    )


class Forgetful:
    """Takes feedback, and keeps none."""

    async def keep(self, row: FeedbackRow) -> Kept:
        """As if it were on the disk."""
        return "kept"


class FixedGateway:
    """The gateway in a child process on a free port, for the length of a ``with`` block."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self._latency_s = latency_s
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), f"--latency-s={self._latency_s}"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(_READY), "the gateway does not start; see the lines above"
        self.url = line.removeprefix(_READY).strip()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        # It ends when its input does: with this block, and with this process whatever happens.
        self._process.communicate(timeout=60)


async def _serve(latency_s: float) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            build_api(gateway(config(), latency_s=latency_s), Seeing(feedback=Forgetful())),
            port=0,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(f"{_READY}http://127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


def main() -> None:
    """Serve until the input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-s", type=float, default=0.0)
    asyncio.run(_serve(parser.parse_args().latency_s))


if __name__ == "__main__":
    main()
