"""Load that does not wait for its answers: requests of real lengths come when they come.

A client that asks again only when it was answered slows down with the server and hides every queue.
Here arrivals are drawn beforehand, as a Poisson process whose rate follows ramps and bursts.
"""

import asyncio
import gzip
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

_WORD = re.compile(r"\s*(?:\w+|[^\w\s])")
_SETS = ("aligner2b_corrections", "selfee_revisions", "cai_revisions", "shepherd_critiques")
"""Questions with the answers of real models."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some seconds whose rate goes evenly from one value to another; the same twice is steady."""

    seconds: float
    per_s: float
    to_per_s: float

    def rate(self, at_s: float) -> float:
        """Requests per second, so long after it began."""
        return self.per_s + (self.to_per_s - self.per_s) * at_s / self.seconds


@dataclass(frozen=True, slots=True)
class Pair:
    """What is asked, and how long its answer is."""

    question: str
    answer: str

    @property
    def answer_words(self) -> int:
        """About as many as its tokens."""
        return max(1, words(self.answer))


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what became of it."""

    at_s: float
    """After the load began."""
    first_s: float | None
    """Until its first piece of text; ``None``: it never came."""
    whole_s: float
    trouble: str | None = None
    """Why it is lost."""


def words(text: str) -> int:
    """Words and marks: about as many as a tokenizer's tokens."""
    return len(_WORD.findall(text))


def pairs(data: Path) -> list[Pair]:
    """All of the real data sets' answered questions."""
    found = []
    for name in _SETS:
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        found += [Pair(row["question"], row["answer"]) for row in rows if row["answer"].strip()]
    return found


def arrivals(stretches: Sequence[Stretch], *, seed: int) -> Iterator[float]:
    """When requests come, in seconds after the beginning; the same for the same seed.

    Drawn by thinning (Lewis and Shedler 1979): candidates at the stretch's highest rate, each kept
    with the share that the rate of its moment has of that.
    """
    chance, began = random.Random(seed), 0.0
    for stretch in stretches:
        highest, at = max(stretch.per_s, stretch.to_per_s), 0.0
        while highest and (at := at + chance.expovariate(highest)) < stretch.seconds:
            if chance.random() * highest <= stretch.rate(at):
                yield began + at
        began += stretch.seconds


async def load(
    url: str, model: str, mix: Sequence[Pair], stretches: Sequence[Stretch], *, seed: int
) -> list[Asked]:
    """Ask ``model`` at the gateway ``url`` as the stretches say; returns when all have ended.

    The answer is as long as the pair's, by ``max_tokens``.
    """
    chance = random.Random(seed)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        began, asked = time.monotonic(), []
        for at_s in arrivals(stretches, seed=seed):
            await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
            asked.append(
                asyncio.create_task(_ask(session, url, model, chance.choice(mix), at_s=at_s))
            )
        return await asyncio.gather(*asked)


async def _ask(
    session: aiohttp.ClientSession, url: str, model: str, pair: Pair, *, at_s: float
) -> Asked:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": pair.question}],
        "max_tokens": pair.answer_words,
        "stream": True,
    }
    began, first_s = time.monotonic(), None
    trouble: str | None = "it broke off"
    try:
        async with session.post(f"{url}/chat/completions", json=body) as reply:
            if reply.status != 200:
                trouble = f"status {reply.status}"
                return Asked(at_s, None, time.monotonic() - began, trouble)
            async for line in reply.content:
                if first_s is None and b'"content":"' in line and b'"content":""' not in line:
                    first_s = time.monotonic() - began
                trouble = _trouble(line, trouble)
    except (aiohttp.ClientError, TimeoutError) as exc:
        trouble = type(exc).__name__
    return Asked(at_s, first_s, time.monotonic() - began, trouble)


def _trouble(line: bytes, before: str | None) -> str | None:
    """Why a stream is lost, as far as ``line`` and those ``before`` it tell."""
    if line.startswith(b"data: [DONE]"):
        return None if before == "it broke off" else before
    if b'"error":' in line:
        return "an error event"
    uncorrected = b'"outcome":"passthrough"' in line or b'"outcome":"blocked"' in line
    return "no correction" if uncorrected and b'"reason":"raw"' not in line else before
