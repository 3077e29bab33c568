"""What correcting costs: tokens, seconds of devices and money, from the rates of each model.

One replica reads P tokens a second (prefill) and writes D (decode) when it has enough to do. For a
question of Q tokens, an answer of A and a correction prompt with M tokens of marks, seconds are

    asking       Q / P + A / D
    correcting   (1 + x) (Q + M + A) / P + [k w(0) + (1 - k) w(e)] / D        w(e) = (A + 1) / s(e)
    with KEEP    (1 + x) (Q + M + A) / P + (A + 1) / P + (1 - k) (1 - t) w(e / (1 - t)) / D

where k is the share of answers that need no correction, e the edit ratio of the others (the share
of a correction's tokens that are no copy), t the trusted share of those, which is given and not
written, and x what prefill ahead reads twice. With drafts of n tokens a step yields

    s(e) = max(1, (1 - (1 - e)^(n + 1)) / (e c))

tokens (Leviathan et al. 2023, equation 1, where a copy is accepted with the chance 1 - e); c is the
time of a step that checks drafts, in plain steps. Without speculation s is 1.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from aligner.config import StrictModel

ANSWERS: Final = 1000
"""Bills are for so many corrected answers."""


_SHORT: Final = {"keep": "keep", "copy_speculation": "drafts", "prefill_ahead": "ahead"}
"""Shortcuts in the order in which a ladder takes them, and their names in tables."""


class _Priced(StrictModel):
    """One replica's devices."""

    devices: int = Field(default=1, ge=1)
    """GPUs, or cores, of one replica."""

    usd_per_device_hour: float = Field(gt=0)
    """Price of each."""


class MeasuredRates(_Priced):
    """How fast one replica was seen to be."""

    kind: Literal["measured"] = "measured"

    prefill_tokens_per_s: float = Field(gt=0)
    """Read with enough to do, nothing of it cached."""

    decode_tokens_per_s: float = Field(gt=0)
    """Written by all requests in flight together, without speculation."""

    measured_on: str
    """Device, engine, requests in flight and date: what the figures hold for."""


class EstimatedRates(_Priced):
    """How fast one replica should be by its device's data sheet, until somebody measures it."""

    kind: Literal["estimated"]

    parameters: float = Field(gt=0)
    """Of the model."""

    bytes_per_parameter: float = Field(default=2.0, gt=0)
    """2 for bfloat16."""

    flops: float = Field(gt=0)
    """Peak arithmetic per second of one device, dense."""

    bytes_per_s: float = Field(gt=0)
    """Peak speed of one device's memory."""

    in_flight: int = Field(default=32, ge=1)
    """Requests that are written at the same time."""

    utilisation: float = Field(default=0.5, gt=0, le=1)
    """Share of both peaks that is reached."""

    @property
    def prefill_tokens_per_s(self) -> float:
        """Bound by arithmetic: two operations per parameter and token."""
        return self.utilisation * self.devices * self.flops / (2 * self.parameters)

    @property
    def decode_tokens_per_s(self) -> float:
        """Bound by reading all weights once a step, or by arithmetic; caches are left out."""
        weights = self.parameters * self.bytes_per_parameter
        step_s = weights / (self.utilisation * self.devices * self.bytes_per_s)
        return self.in_flight / max(step_s, self.in_flight / self.prefill_tokens_per_s)

    @property
    def measured_on(self) -> str:
        """Nothing: it says so."""
        return "estimated from the device's data sheet, not measured"


Rates = Annotated[MeasuredRates | EstimatedRates, Field(discriminator="kind")]


class Traffic(StrictModel):
    """What is asked, answered and corrected, on average."""

    question_tokens: float = Field(default=40.0, ge=0)
    """With the conversation before it."""

    answer_tokens: float = Field(default=300.0, gt=0)
    """Of the upstream; its correction is taken to be as long."""

    marks_tokens: float = Field(default=20.0, ge=0)
    """What the correction prompt adds to both."""

    trusted_share: float = Field(default=0.3, ge=0, lt=1)
    """Of an answer that is corrected: how much stands before the first doubt."""


class Shortcuts(StrictModel):
    """Which ways of saving work are on, and what they cost themselves."""

    keep: bool = True
    """A good answer is scored and goes out without decoding."""

    copy_speculation: bool = True
    """Drafts are copied from the answer."""

    prefill_ahead: bool = True
    """The pair is read while the upstream still writes."""

    draft_tokens: int = Field(default=16, ge=1)
    """Drafted at most for one step."""

    step_cost: float = Field(default=1.3, ge=1)
    """Time of a step that checks drafts, in plain steps."""

    ahead_extra_share: float = Field(default=0.05, ge=0)
    """Of the prompt: what reading it piece by piece reads twice."""

    ahead_tail_tokens: float = Field(default=32.0, ge=0)
    """Of the prompt: what is left to read when the answer ends."""

    def ladder(self) -> "dict[str, Shortcuts]":
        """From none of them to all that are on, one more at a time, by what is on."""
        off: dict[str, Any] = dict.fromkeys(_SHORT, False)
        steps, on = {"plain": self.model_copy(update=off)}, list[str]()
        for name, short in _SHORT.items():
            if getattr(self, name):
                del off[name]
                on.append(short)
                steps[", ".join(on)] = self.model_copy(update=off)
        return steps


@dataclass(frozen=True, slots=True)
class Work:
    """What one model has to do for one answer."""

    read_tokens: float
    written_tokens: float
    steps: float
    """Decoding steps, in plain ones; as many as tokens without speculation."""

    def seconds(self, rates: Rates) -> float:
        """That it takes of a busy replica."""
        read_s = self.read_tokens / rates.prefill_tokens_per_s
        return read_s + self.steps / rates.decode_tokens_per_s


@dataclass(frozen=True, slots=True)
class Bill:
    """What one model does for :data:`ANSWERS` answers."""

    read_tokens: float
    written_tokens: float
    replica_s: float
    device_s: float
    """Of all devices of a replica together: GPU-seconds on GPUs."""
    usd: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """What some requests a second take of one model."""

    replicas: int
    devices: int
    usd_per_hour: float


def asking(traffic: Traffic) -> Work:
    """The upstream's part."""
    answer = traffic.answer_tokens
    return Work(traffic.question_tokens, answer, answer)


def correcting(
    traffic: Traffic, shortcuts: Shortcuts, *, kept_share: float, edit_ratio: float
) -> Work:
    """The Aligner's part, on average over answers that need a correction and those that do not.

    ``kept_share`` need none: KEEP lets them go, without it they are written as they are.
    ``edit_ratio`` is of the others.
    """
    prompt = traffic.question_tokens + traffic.marks_tokens + traffic.answer_tokens
    read = prompt * (1 + (shortcuts.ahead_extra_share if shortcuts.prefill_ahead else 0.0))
    whole = traffic.answer_tokens + 1
    if not shortcuts.keep:
        kept = kept_share * whole / yielded(0.0, shortcuts)
        edited = (1 - kept_share) * whole / yielded(edit_ratio, shortcuts)
        return Work(read, whole, kept + edited)
    rest = 1 - traffic.trusted_share
    written = (1 - kept_share) * rest * whole
    # What is trusted holds no edit, so the rest holds all of them.
    steps = written / yielded(min(1.0, edit_ratio / rest), shortcuts)
    return Work(read + whole, written, steps)


def yielded(edit_ratio: float, shortcuts: Shortcuts) -> float:
    """Tokens that the time of one plain step gives; 1 where drafts would not pay."""
    if not shortcuts.copy_speculation:
        return 1.0
    return max(1.0, tokens_per_step(edit_ratio, shortcuts.draft_tokens) / shortcuts.step_cost)


def tokens_per_step(edit_ratio: float, draft_tokens: int) -> float:
    """That a step of ``draft_tokens`` drafts gives, the one of its own included."""
    # The sum of the geometric series, which is exact for ratios near 0, too.
    return sum((1 - edit_ratio) ** accepted for accepted in range(draft_tokens + 1))


def waiting_s(traffic: Traffic, shortcuts: Shortcuts, rates: Rates) -> float:
    """From the upstream's last token to the first corrected one, on an idle replica."""
    prompt = traffic.question_tokens + traffic.marks_tokens + traffic.answer_tokens
    left = min(prompt, shortcuts.ahead_tail_tokens) if shortcuts.prefill_ahead else prompt
    return (left + (traffic.answer_tokens + 1 if shortcuts.keep else 0)) / (
        rates.prefill_tokens_per_s
    )


def bill(work: Work, rates: Rates) -> Bill:
    """What ``work`` comes to for :data:`ANSWERS` answers."""
    replica_s = ANSWERS * work.seconds(rates)
    device_s = replica_s * rates.devices
    return Bill(
        ANSWERS * work.read_tokens,
        ANSWERS * work.written_tokens,
        replica_s,
        device_s,
        device_s / 3600 * rates.usd_per_device_hour,
    )


def capacity(work: Work, rates: Rates, *, requests_per_s: float, utilisation: float) -> Capacity:
    """Replicas that so many requests a second need, each busy for ``utilisation`` of its time."""
    replicas = max(1, math.ceil(requests_per_s * work.seconds(rates) / utilisation))
    devices = replicas * rates.devices
    return Capacity(replicas, devices, devices * rates.usd_per_device_hour)
