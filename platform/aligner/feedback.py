"""What somebody said of a correction: the rows that the gateway keeps and build-dataset reads.

One line of JSON each. Of several rows of one caller about one request the latest counts: a client
may send its feedback again, or change its mind, and any replica of the gateway may have kept it.
"""

import hashlib
from typing import Literal, Self, assert_never

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner.records import Answered, Question, Role, Triple, Turn

Verdict = Literal["accept", "reject", "edit"]


class SaidTurn(StrictModel):
    """An earlier message of the conversation."""

    role: Role
    text: str


class FeedbackRow(StrictModel):
    """One verdict on one correction."""

    request_id: str = Field(min_length=1, max_length=200)
    """Of the reply that it speaks of."""

    at_ms: int
    """When it was given, Unix time."""

    model: str
    """What was asked for: ``<upstream>+<aligner>``, or an aligner alone."""

    caller: str = ""
    """Who gave it, by the name of the key; empty where the gateway asks for none."""

    verdict: Verdict
    question: str
    history: tuple[SaidTurn, ...] = ()
    answer: str
    """The upstream's own."""

    correction: str
    """What the Aligner made of it."""

    edit: str | None = None
    """What it should have been; of the verdict ``edit`` alone."""

    @model_validator(mode="after")
    def _only_edits_have_one(self) -> Self:
        if (self.edit is not None) is not (self.verdict == "edit"):
            raise ValueError("an edit belongs to the verdict 'edit', and to no other")
        return self

    @property
    def key(self) -> bytes:
        """What rows of one caller about one request share; small, however long the id is."""
        return hashlib.sha256(f"{self.caller}\0{self.request_id}".encode()).digest()[:16]

    def lesson(self, *, source: str) -> Triple | Answered:
        """What it brings: an answer and a good correction of it, or where the correction was
        rejected the answer alone."""
        history = tuple(Turn(turn.role, turn.text) for turn in self.history)
        upstream, joined, _ = self.model.partition("+")
        upstream = upstream if joined else ""
        match self.verdict:
            case "accept":
                good = self.correction
            case "edit":
                good = self.edit or ""
            case "reject":
                return Answered(upstream, Question(self.question, history), self.answer)
            case unreachable:
                assert_never(unreachable)
        return Triple(
            question=self.question,
            answer=self.answer,
            correction=good,
            upstream=upstream,
            source=source,
            history=history,
        )

    def line(self) -> bytes:
        """As it is kept."""
        return self.model_dump_json(exclude_none=True).encode() + b"\n"
