"""A chat completion request as bytes, what it may cost, and what comes of sending it."""

import json
from dataclasses import dataclass
from typing import Final

from aligner.failures import Failure
from aligner.generation import Attempt, Completion, Messages, Sampling, openai_parameters

_TOKENS_PER_MESSAGE: Final = 16
"""More than any chat template spends on one, apart from its text."""

_REPLY_BYTES: Final = 1 << 20
_REPLY_BYTES_PER_TOKEN: Final = 1 << 10
"""A streamed token is an event of 200 to 400 bytes."""

Piece = str | list[Completion] | Failure
"""Of a reply: a text, or one of its two ends."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent, as often as it takes."""

    body: bytes
    tokens: int
    """That it may use at most, both ways."""
    reply_bytes: int
    """That a reply may have at most."""


def chat_call(
    model: str, messages: Messages, sampling: Sampling, *, n: int, stream: bool = False
) -> Call:
    """The request for ``n`` completions of ``messages``."""
    parameters = openai_parameters(sampling)
    extensions = parameters.pop("extra_body", {})
    if n > 1:
        extensions["n"] = n
    if stream:
        extensions |= {"stream": True, "stream_options": {"include_usage": True}}
    body = {"model": model, "messages": messages, **parameters, **extensions}
    # No tokenizer makes more tokens of a text than it has bytes.
    asked = sum(len(message["content"].encode(errors="replace")) for message in messages)
    tokens = n * sampling.max_tokens
    return Call(
        body=json.dumps(body).encode(),
        tokens=asked + _TOKENS_PER_MESSAGE * len(messages) + tokens,
        reply_bytes=_REPLY_BYTES + _REPLY_BYTES_PER_TOKEN * tokens,
    )


def told_of(end: Piece) -> Attempt:
    """What a reply that ended so is to whoever keeps count."""
    if isinstance(end, Failure):
        return Attempt(end.reason, retry_after_s=end.retry_after_s)
    assert not isinstance(end, str)
    return Attempt(
        "ok",
        prompt_tokens=sum(one.prompt_tokens for one in end),
        completion_tokens=sum(one.completion_tokens for one in end),
    )
