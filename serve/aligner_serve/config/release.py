"""How a version comes into serving: where from, what it must pass, and who is tried beside it.

Free of ray, torch and fastapi.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from aligner.config import StrictModel


class FromRegistry(StrictModel):
    """The version that a registry's alias names."""

    kind: Literal["registry"] = "registry"

    model: str
    """Registered name."""

    version: str = Field(default="@champion", coerce_numbers_to_str=True)
    """An alias (``@champion``), a number or ``latest``."""

    @property
    def moves(self) -> bool:
        """Whether it may come to mean another version."""
        return not self.version.isdecimal()


class FromPath(StrictModel):
    """An export by its place, without a registry."""

    kind: Literal["path"] = "path"

    uri: str
    """Local folder or ``s3://``."""

    @property
    def moves(self) -> bool:
        """Never: another export in its place is refused."""
        return False


Source = Annotated[FromRegistry | FromPath, Field(discriminator="kind")]


class ProbeConfig(StrictModel):
    """What a version has to show in each new replica before that corrects for anybody."""

    pairs: str | None = None
    """JSONL file, local or ``s3://``, whose rows have ``question``, ``answer``, the expected
    ``correction`` and perhaps ``history``; unset: one pair that only has to come to an end."""

    min_similarity: float = Field(default=0.9, ge=0.0, le=1.0)
    """Of a correction to the expected one, over words; 1 asks for the same words."""

    min_share: float = Field(default=1.0, ge=0.0, le=1.0)
    """Part of the pairs that must come out so."""

    timeout_s: float = Field(default=60.0, gt=0)
    """For all pairs together."""


class Canary(StrictModel):
    """A second version corrects a share of the conversations, and its corrections are given."""

    kind: Literal["canary"] = "canary"

    source: Source
    """Where its weights come from; the champion's settings hold for it."""

    share: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Of all conversations. One is with the same version from its first turn to its last."""


class Shadow(StrictModel):
    """A second version corrects the same answers; only the first one's corrections are given."""

    kind: Literal["shadow"] = "shadow"

    source: Source
    """Where its weights come from; the champion's settings hold for it."""

    share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Of all requests; each takes the time of a second correction, though nobody waits for it."""

    max_ongoing_requests: int = Field(default=4, ge=1)
    """At once for each replica of the gateway; what comes meanwhile is not compared."""


Challenger = Annotated[Canary | Shadow, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Seat:
    """A deployment that serves a release of its own."""

    deployment: str
    """Its name in Serve."""
    aligner: str
    """Whose settings hold for it."""
    source: FromRegistry | FromPath
    """Where its release comes from."""


def challenger_of(aligner: str) -> str:
    """Name of the seat of an aligner's challenger; no aligner can be called so."""
    return f"{aligner} (challenger)"
