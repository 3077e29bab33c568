"""``/metrics``: what all processes of the graph have counted, whichever gateway is asked.

Ray's agent on each machine adds up what the processes there report, also those that are gone. The
page asks every agent and adds again, so that it is the same from any replica of the gateway; it
lags behind by what Ray takes to report, seconds. No label tells a replica, a machine or a user.
"""

import asyncio
import http.client
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from prometheus_client import Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_OURS: Final = "ray_aligner_"
_RAY: Final = "ray_"
_SERVES: Final = (
    "ray_serve_autoscaling_target_replicas",
    "ray_serve_deployment_queued_queries",
    "ray_serve_deployment_replica_starts",
    "ray_serve_health_check_failures_total",
    "ray_serve_num_http_error_requests",
    "ray_serve_num_http_requests",
    "ray_serve_num_ongoing_requests_at_replicas",
    "ray_serve_replica_processing_queries",
)
"""Of Ray Serve's own metrics those that tell of queues and replicas, and of requests that its proxy
answered without any gateway."""
_LABELS: Final = frozenset(
    {
        *("aligner", "application", "deployment", "error_code", "kind", "le", "model", "name"),
        *(
            "outcome",
            "reason",
            "result",
            "route",
            "stage",
            "state",
            "status",
            "upstream",
            "verdict",
        ),
    }
)
"""Whatever else a sample is labelled with is added up."""

_TIMEOUT_S: Final = 2.0
_FRESH_S: Final = 1.0
_MAX_BYTES: Final = 64 * 2**20

Agent = tuple[str, int]
"""Host and port of one machine's agent."""


class MetricsPage:
    """The page; several who ask at once are told the same."""

    def __init__(self, agents: Callable[[], Sequence[Agent]], *, fresh_s: float = _FRESH_S) -> None:
        """``agents`` looks up the machines of the cluster; it may block."""
        self._agents = agents
        self._fresh_s = fresh_s
        self._lock = asyncio.Lock()
        self._page, self._made_at = b"", float("-inf")
        self._told: dict[Agent, str] = {}
        """Last by each machine: a sum that fell and rose again would be counted twice."""

    async def text(self) -> bytes:
        """In Prometheus' text format."""
        async with self._lock:
            if time.monotonic() - self._made_at > self._fresh_s:
                self._page = await asyncio.to_thread(self._made)
                self._made_at = time.monotonic()
            return self._page

    def _made(self) -> bytes:
        agents = self._agents()
        with ThreadPoolExecutor(min(16, len(agents) or 1)) as pool:
            told = dict(zip(agents, pool.map(_ask, agents), strict=True))
        silent = [agent for agent, text in told.items() if text is None]
        before = {agent: self._told[agent] for agent in silent if agent in self._told}
        now = {agent: text for agent, text in told.items() if text is not None}
        self._told = before | now
        return page(self._told.values(), silent=len(silent))


def page(told: Iterable[str], *, silent: int = 0) -> bytes:
    """The sum of what agents have ``told``; ``silent`` are those that told nothing now."""
    summed: dict[str, Metric] = {}
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    owners: dict[str, str] = {}
    for text in told:
        for family in text_string_to_metric_families(_relevant(text)):
            summed.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {name: said for name, said in sample.labels.items() if name in _LABELS}
                key = (sample.name, tuple(sorted(labels.items())))
                values[key] = values.get(key, 0.0) + sample.value
                owners[sample.name] = family.name
    for (name, pairs), value in values.items():
        summed[owners[name]].samples.append(Sample(_short(name), dict(pairs), value))
    for family in summed.values():
        family.name = _short(family.name)
    away = GaugeMetricFamily(
        "aligner_silent_machines", "Machines whose counts are old or missing.", value=silent
    )
    return generate_latest(_Families([*summed.values(), away]))


class _Families:
    """What ``prometheus_client`` writes down."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _relevant(text: str) -> str:
    """The lines to parse: an agent tells thousands of others about Ray itself."""
    starts = (_OURS, *_SERVES)
    return "".join(
        f"{line}\n"
        for line in text.split("\n")
        if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(starts)
    )


def _short(name: str) -> str:
    return name.removeprefix(_RAY) if name.startswith(_OURS) else name


def _ask(agent: Agent) -> str | None:
    """What ``agent`` has; no proxy of the environment stands between us and it."""
    connection = http.client.HTTPConnection(*agent, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        return response.read(_MAX_BYTES).decode() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def ray_agents() -> list[Agent]:
    """Those of the cluster that this process is connected to."""
    import ray

    return [
        (str(node["NodeManagerAddress"]), int(node["MetricsExportPort"]))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
