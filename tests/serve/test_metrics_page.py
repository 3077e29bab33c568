import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aligner.runtime_env import free_port
from aligner_serve.metrics_page import MetricsPage, page

AGENT = """\
# HELP ray_aligner_requests_total Choices.
# TYPE ray_aligner_requests_total counter
ray_aligner_requests_total{NodeAddress="10.0.0.1",WorkerId="a",model="m",outcome="corrected"} 10.0
ray_aligner_requests_total{NodeAddress="10.0.0.1",WorkerId="b",model="m",outcome="corrected"} 5.0
ray_aligner_requests_total{NodeAddress="10.0.0.1",WorkerId="b",model="m",outcome="blocked"} 1.0
# HELP ray_aligner_stage_seconds Seconds.
# TYPE ray_aligner_stage_seconds histogram
ray_aligner_stage_seconds_bucket{WorkerId="a",le="0.1",stage="upstream"} 1.0
ray_aligner_stage_seconds_bucket{WorkerId="a",le="+Inf",stage="upstream"} 4.0
ray_aligner_stage_seconds_count{WorkerId="a",stage="upstream"} 4.0
ray_aligner_stage_seconds_sum{WorkerId="a",stage="upstream"} 2.5
# HELP ray_serve_deployment_queued_queries Waiting.
# TYPE ray_serve_deployment_queued_queries gauge
ray_serve_deployment_queued_queries{WorkerId="a",deployment="gateway",handle="x",actor_id="y"} 2.0
# HELP ray_node_cpu_utilization Of a machine.
# TYPE ray_node_cpu_utilization gauge
ray_node_cpu_utilization{ip="10.0.0.1"} 50.0
"""


def values(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@contextmanager
def agent(text: str, *, status: int = 200) -> Iterator[tuple[str, int]]:
    """A machine's agent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield ("127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join()


def test_processes_and_machines_are_added_up() -> None:
    found = values(page([AGENT, AGENT]))
    corrected = ("aligner_requests_total", (("model", "m"), ("outcome", "corrected")))
    assert found[corrected] == 30
    assert found["aligner_stage_seconds_bucket", (("le", "+Inf"), ("stage", "upstream"))] == 8
    assert found["aligner_stage_seconds_sum", (("stage", "upstream"),)] == 5
    assert found["ray_serve_deployment_queued_queries", (("deployment", "gateway"),)] == 4


def test_nothing_tells_a_machine_a_process_or_what_ray_does_besides() -> None:
    text = page([AGENT])
    for word in (b"10.0.0.1", b"WorkerId", b"actor_id", b"ray_node"):
        assert word not in text


def test_a_cluster_that_has_counted_nothing_has_a_page() -> None:
    assert values(page([])) == {("aligner_silent_machines", ()): 0}


def test_every_machine_is_asked_and_those_that_are_away_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A proxy for the world outside is none for the cluster.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with agent(AGENT) as one, agent(AGENT) as two, agent("", status=500) as broken:
        away = ("127.0.0.1", free_port())
        told = asyncio.run(MetricsPage(lambda: [one, two, broken, away]).text())
    found = values(told)
    assert found["aligner_requests_total", (("model", "m"), ("outcome", "blocked"))] == 2
    assert found["aligner_silent_machines", ()] == 2


def test_a_machine_that_is_silent_for_a_moment_still_counts() -> None:
    """Prometheus takes a sum that falls for a new beginning, and adds all of it again."""
    blocked = ("aligner_requests_total", (("model", "m"), ("outcome", "blocked")))
    machines: list[tuple[str, int]] = []
    pages = MetricsPage(lambda: machines, fresh_s=0.0)
    with agent(AGENT) as one:
        with agent(AGENT) as two:
            machines += [one, two]
            assert values(asyncio.run(pages.text()))[blocked] == 2
        found = values(asyncio.run(pages.text()))
        assert (found[blocked], found["aligner_silent_machines", ()]) == (2, 1)
        # One that has left the cluster does not.
        machines.remove(two)
        found = values(asyncio.run(pages.text()))
        assert (found[blocked], found["aligner_silent_machines", ()]) == (1, 0)


def test_many_who_ask_at_once_cost_one_look() -> None:
    looks: list[int] = []

    def agents() -> list[tuple[str, int]]:
        looks.append(1)
        return []

    async def ask() -> None:
        pages = MetricsPage(agents)
        await asyncio.gather(*(pages.text() for _ in range(20)))

    asyncio.run(ask())
    assert len(looks) == 1
