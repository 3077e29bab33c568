"""Server-sent events: a reply piece by piece, as OpenAI's clients read it."""

import json
from typing import Any, Final

from aligner_serve.pieces import Usage
from aligner_serve.replies import AlignerReport, FinishReason, new_id, now, usage_report
from aligner_serve.wire import ChatRequest, CompletionRequest

DONE: Final = b"data: [DONE]\n\n"
HEARTBEAT: Final = b": keep-alive\n\n"
"""A comment of the event stream; clients pass over it."""


def event(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class Chunks:
    """The events of one streamed reply."""

    def __init__(self, request: ChatRequest | CompletionRequest) -> None:
        self._chat = isinstance(request, ChatRequest)
        self._head = {
            "id": new_id("chatcmpl" if self._chat else "cmpl"),
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": now(),
            "model": request.model,
        }
        self._counts = request.includes_usage

    def role(self, index: int) -> bytes:
        """The first of a choice: who speaks. Plain text has none."""
        return self._chunk(index, {"role": "assistant", "content": ""}) if self._chat else b""

    def text(self, index: int, text: str) -> bytes:
        """A piece of the text."""
        return self._chunk(index, {"content": text})

    def refusal(self, index: int, text: str) -> bytes:
        """In place of a text that is withheld."""
        return self._chunk(index, {"refusal": text}) if self._chat else b""

    def last(self, index: int, finish: FinishReason, report: AlignerReport) -> bytes:
        """Why a choice ended, and what was done to it."""
        tail = {"aligner": report.model_dump(mode="json", exclude_none=True)}
        return self._chunk(index, {}, finish, tail)

    def usage(self, usage: Usage) -> bytes:
        """Token counts, where they were asked for; in an event without choices, as OpenAI does."""
        if not self._counts:
            return b""
        return event({**self._head, "choices": [], "usage": usage_report(usage).model_dump()})

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        finish: FinishReason | None = None,
        tail: dict[str, Any] | None = None,
    ) -> bytes:
        said = {"delta": delta} if self._chat else {"text": delta.get("content", "")}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._counts else {}
        return event({**self._head, "choices": [choice], **usage, **(tail or {})})
