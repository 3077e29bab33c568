"""The bytes of a chat completion as its text: whole, or as server-sent events while they come."""

import json
from typing import Any, Final

from aligner.failures import CUT, MALFORMED, NO_TEXT, REPORTED, Failure
from aligner.generation import Completion, completions_in, counts_in, finish_reason_of

_DONE: Final = b"[DONE]"


def completions_of(body: bytes) -> list[Completion] | Failure:
    """The completions in a reply that came as a whole."""
    try:
        found = completions_in(json.loads(body))
    except (ValueError, RecursionError):
        return MALFORMED
    match found:
        case "malformed":
            return MALFORMED
        case "no_text":
            return NO_TEXT
        case _:
            return found


class ChatEvents:
    """The state of one stream; lines and characters may be cut anywhere between two reads."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.begun = False
        """Whether there was an event; comments, which only keep a connection open, are none."""
        self._rest = b""
        self._data: list[bytes] = []
        self._texts: list[str] = []
        self._spoken = False
        self._finish: object = None
        self._usage: object = None
        self._done = False

    @property
    def done(self) -> bool:
        """Whether the API said that nothing follows."""
        return self._done

    def feed(self, data: bytes) -> str | Failure:
        """The text that ``data`` brings, perhaps none; after a failure feed no more."""
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            self._rest += data
            return ""
        lines = (self._rest + head).split(b"\n")
        self._rest = tail
        first = len(self._texts)
        for line in lines:
            failure = self._line(line.rstrip(b"\r"))
            if failure is not None:
                return failure
        return "".join(self._texts[first:])

    def end(self) -> Completion | Failure:
        """What all of it comes to, once the connection has no more to say."""
        if not self._done and self._finish is None:
            return CUT if self.begun else MALFORMED
        if not self._spoken:
            return NO_TEXT
        prompt_tokens, completion_tokens = counts_in(self._usage)
        return Completion(
            "".join(self._texts),
            finish_reason_of(self._finish),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )

    def _line(self, line: bytes) -> Failure | None:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            return None
        if not self._data or self._done:
            return None
        data, self._data = b"\n".join(self._data), []
        self.begun = True
        if data == _DONE:
            self._done = True
            return None
        return self._event(data)

    def _event(self, data: bytes) -> Failure | None:
        try:
            event: Any = json.loads(data)
            if event.get("error"):
                return REPORTED
            self._usage = event.get("usage") or self._usage
            for choice in event["choices"][:1]:
                text = (choice.get("delta") or {}).get("content")
                if isinstance(text, str):
                    self._spoken = True
                    self._texts.append(text)
                self._finish = choice.get("finish_reason") or self._finish
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return MALFORMED
        return None
