"""A graph in this process: the real plans and correctors, over engines that only count.

It begins behind the gateway's routes, and has handles of its own in the place of Ray Serve's.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import counting_engine
import keep_reports
import weightless_exports
from counting_engine import CountingEngine

from aligner import artefacts
from aligner.generation import Messages, Sampling, chat_messages
from aligner.records import Question
from aligner_serve import app, probe, release, replica
from aligner_serve.config.graph import GraphConfig
from aligner_serve.config.release import challenger_of
from aligner_serve.corrector import Corrector
from aligner_serve.gateway import Gateway
from aligner_serve.pieces import Delta, Failed, Finished, Piece, Reading
from aligner_serve.pipeline import Reply
from aligner_serve.plans import Asked, Plan, Plans
from aligner_serve.telemetry import Silent

QUESTION = "Is it so, and why is it so?"
GOOD = "It is so because it always was, and nobody has ever seen it otherwise."
FLAWED = GOOD.replace("always", "bad")
FIRST, SECOND, OTHER = "first", "second", "other"


def corrects(answer: str) -> str:
    """The model of all aligners here."""
    return answer.replace("bad", "always")


async def settled() -> None:
    """Let others have their turns: nothing here takes any time."""
    for _ in range(50):
        await asyncio.sleep(0)


class Upstream:
    """Writes ``answer`` word by word."""

    def __init__(self) -> None:
        """It will say what is good."""
        self.answer = GOOD
        self.breaks_off = False
        """Whether streams end before their last word."""
        self.closed = 0

    async def ask(
        self, messages: Messages, sampling: Sampling, *, deadline_s: float, stream: bool
    ) -> AsyncGenerator[Piece]:
        """One answer."""
        try:
            for text in re.findall(r"\S+\s*", self.answer) if stream else [self.answer]:
                await settled()
                if stream and self.breaks_off and self.answer.endswith(text):
                    yield Failed("cut")
                    return
                yield Delta(text)
            yield Finished(by="up")
        finally:
            self.closed += 1


@dataclass
class Graph:
    """What the gateway would ask, in this process."""

    config: GraphConfig
    correctors: dict[str, Corrector]
    """By seat."""
    upstream: Upstream = field(default_factory=Upstream)
    readings: list[tuple[str, Reading]] = field(default_factory=list)
    plans: Plans = field(init=False)
    gateway: Gateway = field(init=False)

    def __post_init__(self) -> None:
        """Put the rest together."""
        handles = {seat: Handle(one) for seat, one in self.correctors.items()}
        asked: dict[str, Any] = {
            "upstreams": {"up": self.upstream},
            "correctors": replica._routed(self.config, handles),
            "read_ahead": lambda name, reading: self.readings.append((name, reading)),
        }
        self.plans = Plans(self.config, **asked)
        self.gateway = Gateway(self.config, **asked, telemetry=Silent())

    def engine(self, seat: str = FIRST) -> CountingEngine:
        """That of ``seat``."""
        return counting_engine.engine_of(self.correctors[seat])

    @property
    def engines(self) -> list[CountingEngine]:
        """All of them."""
        found = [counting_engine.engine_of(one) for one in self.correctors.values()]
        return list(dict.fromkeys(found))

    def forget(self, answer: str) -> None:
        """The upstream will say ``answer``, and nothing was counted or read before."""
        self.upstream.answer = answer
        self.readings.clear()
        for engine in self.engines:
            engine.count_from_here()

    def plan(self, stack: Sequence[str] = (FIRST,), *, stream: bool = False) -> Plan:
        """A request that nobody has begun with."""
        asked = Asked(Question(QUESTION), chat_messages(QUESTION))
        return self.plans.answer(asked, "up", stack, Sampling(), stream=stream)

    async def answer(self, stack: Sequence[str] = (FIRST,), *, stream: bool = False) -> Reply:
        """What comes of a request, with all that it leaves behind."""
        plan, end = self.plan(stack, stream=stream), None
        if not stream:
            end = await plan.respond()
        else:
            sent = ""
            async for event in plan.stream():
                sent, end = (sent + event.text, end) if isinstance(event, Delta) else (sent, event)
            # Of several rounds only the last is streamed.
            assert isinstance(end, Reply) and sent in ("", end.text)
        assert isinstance(end, Reply)
        # Readings that were dropped, and shadows, come to their end.
        await settled()
        return end


def settings(folder: Path, **first: Any) -> GraphConfig:
    """Two aligners, of which the first is set up as a test says."""
    return GraphConfig.model_validate(
        {
            "base_url": "http://127.0.0.1:9/v1",
            "upstreams": {"up": {}},
            "aligners": {
                SECOND: {
                    "source": {"kind": "path", "uri": str(folder / SECOND)},
                    "engine": {"base": str(folder / "base")},
                },
                FIRST: {"source": {"kind": "path", "uri": str(folder / FIRST)}, **first},
            },
        }
    )


def write_exports(folder: Path) -> None:
    """Two exports with adapters to one model, and one to take the place of the first."""
    base = weightless_exports.write_base(folder / "base")
    for name in (FIRST, SECOND, OTHER):
        weightless_exports.write_export(str(folder / name), base=base)


async def started(config: GraphConfig, *, keep: bool = False) -> Graph:
    """``config``'s graph; with ``keep`` the seats of the first aligner keep answers."""
    released = release.Registry(config).resolve_all()
    if keep:
        for name in {FIRST, challenger_of(FIRST)} & released.keys():
            manifest = artefacts.read_manifest(released[name].uri, kind="export")
            # Only a copy without any doubt reaches it.
            calibration = keep_reports.calibration(manifest, threshold=-1.0)
            released[name] = released[name].model_copy(update={"keep": calibration})
    probes = dict.fromkeys(config.aligners, probe.Probe())
    replicas: dict[int, Corrector] = {}
    correctors = {}
    for seat, bound in app._correctors(config, released, probes, Corrector).items():
        deployment: Any = bound._bound_deployment
        if id(bound) not in replicas:
            served = deployment.init_args[0]
            replicas[id(bound)] = await counting_engine.corrector(served, corrects=corrects)
        correctors[seat] = replicas[id(bound)]
    return Graph(config, correctors)


class Handle:
    """A Ray Serve handle of a replica in this process."""

    def __init__(self, replica: Corrector, *, stream: bool = False) -> None:
        """``stream`` is what :meth:`options` has set."""
        self._replica, self._stream = replica, stream

    def options(self, *, session_id: str = "", stream: bool | None = None) -> "Handle":
        """As the real one; of one replica every session is at home."""
        return Handle(self._replica, stream=self._stream if stream is None else stream)

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self._replica, name), stream=self._stream)


class _Method:
    """Of a replica."""

    def __init__(self, method: Callable[..., Any], *, stream: bool) -> None:
        self._method, self._stream = method, stream

    def remote(self, *args: Any, **named: Any) -> Any:
        """Call it."""
        if self._stream:
            return _Response(self._method(*args, **named))
        return asyncio.ensure_future(self._method(*args, **named))


class _Response:
    """What a method streams."""

    def __init__(self, pieces: AsyncGenerator[Any]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncGenerator[Any]:
        return self._pieces

    def cancel(self) -> None:
        """End it, as soon as there is time."""
        self._ending = asyncio.ensure_future(self._pieces.aclose())
