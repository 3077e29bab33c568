"""Who may ask, how much, and where the graph itself may go. Free of ray, torch and fastapi."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from pydantic import Field, field_validator

from aligner.config import StrictModel


class AccessConfig(StrictModel):
    """Keys, limits, and the networks that upstreams may lie in."""

    keys: str | None = None
    """File of ``aligner keys``, which holds hashes alone; every gateway replica must see it. Unset:
    no key is asked for, and only programs on this machine are answered."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Of one key that names no limit of its own, and of all who ask without a key together."""

    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Read and written by all stages, for the same. What a request used is known at its end: who
    has used more than this waits until it is worked off."""

    max_body_bytes: int = Field(default=1_000_000, ge=1)
    """Of a request; a longer one is turned away before it is read."""

    body_timeout_s: float = Field(default=30.0, gt=0)
    """For the whole body of a request to arrive."""

    max_messages: int = Field(default=256, ge=1)
    """Of a conversation; also prompts, and pairs to correct, of one request."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Private networks that upstreams may lie in, such as ``10.0.0.0/8``. All others that are not
    public are refused when a connection is made, whatever name led there; an upstream whose
    ``base_url`` says ``localhost`` or a loopback address may go there."""

    @property
    def may_limit(self) -> bool:
        """Whether anybody may have a limit per minute."""
        return bool(self.keys or self.requests_per_minute or self.tokens_per_minute)

    @field_validator("keys")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # The replicas that read it need not run in the folder that the command was started in.
        return None if value is None else str(Path(value).expanduser().absolute())
