"""The served graph as one validated file. Free of ray, torch and fastapi."""

import ipaddress
from typing import Annotated, Self

from pydantic import Field, model_validator

from aligner.config import StrictModel
from aligner.generation import Endpoint
from aligner.tracking import TrackingConfig
from aligner_serve.config.access import AccessConfig
from aligner_serve.config.aligner import AlignerConfig, OwnEngine, SharedEngine
from aligner_serve.config.feedback import FeedbackConfig
from aligner_serve.config.names import Name
from aligner_serve.config.observing import ObservingConfig
from aligner_serve.config.release import Seat, challenger_of
from aligner_serve.config.scaling import Scaling
from aligner_serve.config.upstream import ApiUpstream, Upstream

Stack = Annotated[tuple[str, ...], Field(min_length=1)]
"""Names of aligners; each corrects what the one before it made."""


class GraphConfig(StrictModel):
    """``aligner serve``: a gateway, one or more upstreams and one or more correctors."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs ``access.keys``."""

    port: int = Field(default=8000, ge=1, le=65535)
    """Of the HTTP API."""

    base_url: str | None = None
    """For upstreams that name none of their own."""

    upstreams: dict[Name, Upstream] = Field(min_length=1)
    """Name to model; clients ask for ``<upstream>+<aligner>``."""

    aligners: dict[Name, AlignerConfig] = Field(min_length=1)
    """Name to the model that corrects."""

    stacks: tuple[Stack, ...] = ()
    """Aligners one after the other, asked for as ``<upstream>+<first>+<second>``."""

    deadline_s: float = Field(default=120.0, gt=0)
    """For a whole request, all models and their queues included."""

    correction_share: float = Field(default=0.25, ge=0.0, lt=1.0)
    """Part of the deadline that an upstream may not use up: it is kept for correcting."""

    heartbeat_s: float = Field(default=10.0, gt=0)
    """A stream that has nothing to send says after so long that it is alive."""

    start_timeout_s: float = Field(default=300.0, gt=0)
    """For all deployments to be up; large weights need longer."""

    shutdown_timeout_s: float | None = Field(default=None, ge=0)
    """Given to requests in flight where a replica is stopped or replaced; unset: a little more
    than ``deadline_s``, so that the longest answer is finished."""

    gateway: Scaling = Scaling(target_ongoing_requests=64, max_ongoing_requests=256)
    """Of the gateway's deployment."""

    watch_s: float | None = Field(default=10.0, gt=0)
    """How often ``aligner serve`` looks whether an alias has moved; ``null``: never."""

    access: AccessConfig = AccessConfig()
    """Who may ask, and how much."""

    observing: ObservingConfig = ObservingConfig()
    """Traces, log and prices."""

    feedback: FeedbackConfig | None = None
    """Where ``/v1/feedback`` keeps what users say; unset: it is not taken."""

    cache: str = "~/.cache/aligner/exports"
    """Folder for exports fetched from ``s3://``."""

    tracking: TrackingConfig = TrackingConfig()
    """The registry that the aligners' sources name models of."""

    @model_validator(mode="after")
    def _every_name_is_there(self) -> Self:
        for name, upstream in self.upstreams.items():
            if isinstance(upstream, ApiUpstream):
                self.endpoint(name)
            for fallback in upstream.fallbacks:
                if fallback not in self.upstreams or fallback == name:
                    raise ValueError(
                        f"upstreams.{name}.fallbacks: {fallback!r} is no other upstream; "
                        f"there are: {', '.join(self.upstreams)}"
                    )
        for stack in self.stacks:
            for name in stack:
                if name not in self.aligners:
                    raise ValueError(
                        f"stacks: {name!r} is no aligner; there are: {', '.join(self.aligners)}"
                    )
        for name in self.observing.prices:
            if name not in self.upstreams and name not in self.aligners:
                raise ValueError(
                    f"observing.prices: {name!r} is neither an upstream nor an aligner; there are: "
                    f"{', '.join([*self.upstreams, *self.aligners])}"
                )
        return self

    @model_validator(mode="after")
    def _engines_are_shared_by_adapters(self) -> Self:
        for name, aligner in self.aligners.items():
            if not isinstance(aligner.engine, SharedEngine):
                continue
            host = self.aligners.get(aligner.engine.aligner)
            if host is None or not isinstance(host.engine, OwnEngine) or host.engine.base is None:
                raise ValueError(
                    f"aligners.{name}.engine: {aligner.engine.aligner!r} is no aligner whose "
                    "engine can be shared; set engine.base there, or name another"
                )
        return self

    @model_validator(mode="after")
    def _readings_leave_room_for_corrections(self) -> Self:
        for name, aligner in self.aligners.items():
            if aligner.prefill_ahead is None:
                continue
            most, host = aligner.prefill_ahead.max_ongoing, self.host_of(name)
            places = self.aligners[host].scaling.max_queued_requests
            if most >= places:
                raise ValueError(
                    f"aligners.{name}.prefill_ahead.max_ongoing={most}: readings could take all "
                    f"{places} places of the queue that corrections wait in, too; lower it, or "
                    f"raise aligners.{host}.scaling.max_queued_requests"
                )
        return self

    @model_validator(mode="after")
    def _others_need_a_key(self) -> Self:
        if self.is_open_to_others and self.access.keys is None:
            raise ValueError(
                f"host={self.host} can be reached by other machines, and no key would be asked "
                "for; make one with `aligner keys new` and name its file in access.keys, or "
                "listen on 127.0.0.1"
            )
        return self

    def endpoint(self, name: str) -> Endpoint:
        """Where the upstream ``name``, one behind an API, is reached."""
        upstream = self.upstreams[name]
        assert isinstance(upstream, ApiUpstream)
        base_url = upstream.base_url or self.base_url
        if base_url is None:
            raise ValueError(
                f"upstream {name!r} has no base_url; give it one, or one to the whole graph"
            )
        return Endpoint(
            base_url=base_url,
            model=upstream.model or name,
            api_key_env=upstream.api_key_env,
            timeout_s=upstream.timeout_s,
            max_attempts=upstream.max_attempts,
            networks=self.access.networks,
        )

    @property
    def seats(self) -> dict[str, Seat]:
        """Whatever serves a release of its own: each aligner and each challenger, by name."""
        found: dict[str, Seat] = {}
        for name, aligner in self.aligners.items():
            found[name] = Seat(f"corrector-{self.host_of(name)}", name, aligner.source)
            if (other := aligner.challenger) is not None:
                found[challenger_of(name)] = Seat(f"challenger-{name}", name, other.source)
        return found

    @property
    def watched(self) -> tuple[str, ...]:
        """Seats whose source may come to mean another version, and is looked at."""
        if self.watch_s is None:
            return ()
        return tuple(name for name, seat in self.seats.items() if seat.source.moves)

    @property
    def drain_s(self) -> float:
        """How long a replica that is to end may take for the requests it has."""
        return self.deadline_s + 5.0 if self.shutdown_timeout_s is None else self.shutdown_timeout_s

    def engine_of(self, aligner: str) -> OwnEngine:
        """The engine that decodes for ``aligner``, its own or another's."""
        found = self.aligners[self.host_of(aligner)].engine
        assert isinstance(found, OwnEngine)
        return found

    def host_of(self, aligner: str) -> str:
        """The aligner whose engine decodes for ``aligner``."""
        engine = self.aligners[aligner].engine
        return engine.aligner if isinstance(engine, SharedEngine) else aligner

    def guests_of(self, aligner: str) -> list[str]:
        """The others that its engine decodes for."""
        return [name for name in self.aligners if name != aligner == self.host_of(name)]

    @property
    def served_aligners(self) -> dict[str, Stack]:
        """What ``/v1/corrections`` may be asked for -> the aligners that then correct, in order."""
        single: dict[str, Stack] = {name: (name,) for name in self.aligners}
        return single | {"+".join(stack): stack for stack in self.stacks}

    @property
    def served_models(self) -> dict[str, tuple[str, Stack]]:
        """What clients may ask for -> the upstream and the aligners; none for a raw model."""
        raw: dict[str, tuple[str, Stack]] = {
            name: (name, ()) for name, upstream in self.upstreams.items() if upstream.raw
        }
        return raw | {
            f"{name}+{corrected}": (name, stack)
            for name in self.upstreams
            for corrected, stack in self.served_aligners.items()
        }

    @property
    def is_open_to_others(self) -> bool:
        """Whether other machines can reach the port."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the gateway."""
        unspecified = self.host in ("0.0.0.0", "::")
        host = "127.0.0.1" if unspecified else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
