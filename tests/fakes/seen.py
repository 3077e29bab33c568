"""The real gateway over engines of no latency, and all that is told of its requests."""

from typing import Any

from fixed_engines import FixedCorrector, FixedUpstream, config
from starlette.testclient import TestClient

from aligner.feedback import FeedbackRow
from aligner_serve.feedback_store import FeedbackStore, Kept
from aligner_serve.gateway import Gateway
from aligner_serve.ingress import build_api
from aligner_serve.seeing import Seeing
from aligner_serve.telemetry import Answered, Ended, Silent
from aligner_serve.watching import Gathering


class Told:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.requests: list[Answered] = []

    def answered(self, record: Answered) -> None:
        """Remember it."""
        self.requests.append(record)

    @property
    def last(self) -> Answered:
        """The latest request."""
        return self.requests[-1]

    @property
    def choice(self) -> Ended:
        """The only choice of the latest request."""
        (choice,) = self.last.ends
        return choice


class FixedStore:
    """A store that says what it was made to say."""

    def __init__(self, says: Kept = "kept") -> None:
        self.says = says
        self.rows: list[FeedbackRow] = []

    async def keep(self, row: FeedbackRow) -> Kept:
        """Remember it."""
        self.rows.append(row)
        return self.says


class SeenGateway:
    """The API with a client to it."""

    def __init__(self, feedback: FeedbackStore | None = None) -> None:
        graph = config()
        self.told = Told()
        self.seeing = Seeing(watcher=self.told, feedback=feedback)
        gateway = Gateway(
            graph,
            upstreams={name: FixedUpstream(name, 0.0) for name in graph.upstreams},
            correctors={name: FixedCorrector(name, 0.0) for name in graph.aligners},
            telemetry=Gathering(Silent()),
        )
        self.api = build_api(gateway, self.seeing)
        self.client = TestClient(self.api, raise_server_exceptions=False)

    def chat(self, model: str = "iron+fixer", **changes: Any) -> Any:
        """One question."""
        body = {"model": model, "messages": [{"role": "user", "content": "Why?"}], **changes}
        return self.client.post("/v1/chat/completions", json=body)
