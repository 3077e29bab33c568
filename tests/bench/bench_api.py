"""Asking over HTTP: requests/s, budgets, resuming, scaling; against an API that fails on purpose.

- ``api_requests_per_s_worker``: 10,000 questions through one worker of our stage inside Ray Data,
  against an API with 100 ms latency, 5 % 429 (Retry-After), 2 % 500, 1 % hangs and 0.5 % broken
  bodies. The rate is that of the requests that arrived. Beside it a plain asyncio loop over the
  ``openai`` client on the same API, which gives up after its own two retries. The bar is 300/s.
- ``api_ray_http_requests_per_s``: Ray's own HTTP stage on an API that only has the latency (it
  ends the whole job where ours writes an error row), beside ours on the same.
- ``api_most_in_a_minute``: the fullest minute of a job with two workers, beside its budget.
- ``api_paid_passes``: replies paid per question of a job that is killed three times and resumed.
- ``api_scaling_4_nodes``: four workers on four nodes of one simulated cluster, beside one.

    python tests/bench/bench_api.py [--only NAME ...]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pyarrow as pa
import ray
import ray.data

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

from flaky_api import TROUBLED, Faults, FlakyApi, most_in_a_minute
from killing import kill_at

from aligner import artefacts
from aligner.records import Question
from aligner_jobs import asking, programs, runtime
from aligner_jobs.config.asking import Upstream
from aligner_jobs.generate import AskUpstreams
from aligner_jobs.tables import WORK_SCHEMA, Row, question_row
from aligner_jobs.terminal import quiet_ray_data

QUESTIONS = 10_000
IN_FLIGHT = 96
TIMEOUT_S = 2.0
CALM = Faults(latency_s=0.1)


def figure(name: str, ours: float, theirs: float, bar: float, *, ok: bool) -> None:
    """One line of the bench."""
    ratio = ours / theirs if theirs else float("nan")
    verdict = "ok" if ok else "short"
    print(f"BENCH {name} {ours:.3g} {theirs:.3g} {ratio:.2f} {bar:g} {verdict}", flush=True)


def rate(arrivals: list[float]) -> float:
    """Requests per second between the first and the last one."""
    return len(arrivals) / (max(arrivals) - min(arrivals))


def steady_rate(arrivals: list[float]) -> float:
    """The same over the middle half: workers start and end one after the other."""
    ordered = sorted(arrivals)
    return rate(ordered[len(ordered) // 4 : 3 * len(ordered) // 4])


def upstream(api: FlakyApi, **changes: Any) -> dict[str, Any]:
    """An upstream at ``api``."""
    settings = {"max_in_flight": IN_FLIGHT, "timeout_s": TIMEOUT_S, "max_attempts": 8, **changes}
    one = Upstream.model_validate({"base_url": api.base_url, "model": "m", **settings})
    return one.model_dump(mode="json")


def blocks(questions: int) -> list[pa.Table]:
    """Questions as the stage takes them."""
    rows = [
        question_row(Question(f"Question {number}: {'why ' * 40}?"), source="s", where="", rows=1)
        for number in range(questions)
    ]
    size = asking.ROWS_PER_BLOCK
    return [
        pa.Table.from_pylist(rows[start : start + size], schema=WORK_SCHEMA)
        for start in range(0, questions, size)
    ]


def answered(api: FlakyApi, *, questions: int, workers: int = 1, **changes: Any) -> list[Row]:
    """Ask inside the Ray that is there."""
    model = upstream(api, **changes)
    models = {"upstreams.m": Upstream.model_validate(model)}
    with (
        tempfile.TemporaryDirectory() as folder,
        asking.desk(models, replies=folder, salt="", workers=workers) as desk,
    ):
        rows = ray.data.from_arrow(blocks(questions))
        result: list[Row] = desk.ask(rows, AskUpstreams, upstreams={"m": model}).take_all()
    return result


@contextmanager
def private_ray() -> Iterator[None]:
    """A Ray of our own."""
    quiet_ray_data()
    with runtime.ray_session():
        yield


# --- the figures ----------------------------------------------------------------------------------


def requests_per_s() -> None:
    """Ours beside a plain loop."""
    with FlakyApi(TROUBLED) as api:
        asyncio.run(by_hand(api, questions=QUESTIONS))
        plain = rate(api.seen().arrivals)
    with FlakyApi(TROUBLED) as api, private_ray():
        rows = answered(api, questions=QUESTIONS)
        seen = api.seen()
    lost = [row["reason"] for row in rows if row["reason"] is not None]
    print(f"{len(rows)} rows, {len(lost)} error rows; replies: {seen.outcomes}")
    ours = rate(seen.arrivals)
    whole = len(rows) == QUESTIONS and len({row["question"] for row in rows}) == QUESTIONS
    figure("api_requests_per_s_worker", ours, plain, 300, ok=ours >= 300 and whole)


async def by_hand(api: FlakyApi, *, questions: int) -> None:
    """What one would write: one client, a semaphore, the client's own retries."""
    free = asyncio.Semaphore(IN_FLIGHT)
    async with openai.AsyncOpenAI(
        base_url=api.base_url, api_key="none", timeout=TIMEOUT_S
    ) as client:

        async def one(row: Row) -> str | None:
            async with free:
                try:
                    reply = await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": row["question"]}]
                    )
                except (openai.OpenAIError, ValueError):
                    return None
            return reply.choices[0].message.content

        rows = [row for block in blocks(questions) for row in block.to_pylist()]
        texts = await asyncio.gather(*(one(row) for row in rows))
    print(f"by hand: {texts.count(None)} of {questions} lost")


def beside_rays_own() -> None:
    """Ours beside Ray's HTTP stage, where nothing fails."""
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    questions = 1000
    with FlakyApi(CALM) as api, private_ray():
        config = HttpRequestProcessorConfig(
            url=f"{api.base_url}/chat/completions", concurrency=1, batch_size=32
        )
        processor = build_processor(
            config,
            preprocess=lambda row: {
                "payload": {
                    "model": "m",
                    "messages": [{"role": "user", "content": row["question"]}],
                }
            },
            postprocess=lambda row: {"text": row["http_response"]["choices"][0]["message"]},
        )
        processor(ray.data.from_arrow(blocks(questions)).select_columns(["question"])).take_all()
        theirs = rate(api.seen().arrivals)
    with FlakyApi(CALM) as api, private_ray():
        answered(api, questions=questions)
        ours = rate(api.seen().arrivals)
    figure("api_ray_http_requests_per_s", ours, theirs, 1.0, ok=ours >= theirs)


def most_asked_in_a_minute() -> None:
    """Two workers that could do far more than the budget."""
    budget = 4800
    with FlakyApi(TROUBLED) as api, private_ray():
        answered(api, questions=8000, workers=2, requests_per_min=budget)
        most = most_in_a_minute(api.seen().arrivals)
    figure("api_most_in_a_minute", most, budget, 1.02, ok=most <= 1.02 * budget)


def paid_passes() -> None:
    """Killed three times, then resumed; the output equal to that of a job that was let alone."""
    with tempfile.TemporaryDirectory() as folder:
        with FlakyApi(CALM) as api:
            whole = build(api, Path(folder) / "whole")
        out = Path(folder) / "killed"
        with FlakyApi(TROUBLED) as api:
            kill_at(command(api, out), api, paid=[1700, 4900, 8200], env=environment())
            resumed = build(api, out)
            paid = api.seen().paid / QUESTIONS
    ok = paid <= 1.02 and resumed == whole
    print(f"output equal: {resumed == whole}")
    figure("api_paid_passes", paid, 1.0, 1.02, ok=ok)


def scaling() -> None:
    """One worker beside four, each with as many requests in flight as its API permits."""
    from ray.cluster_utils import Cluster

    rates = {}
    quiet_ray_data()
    runtime.settle_ray()
    for nodes in (1, 4):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        os.environ["RAY_ADDRESS"] = cluster.address
        try:
            with FlakyApi(CALM) as api, private_ray():
                answered(api, questions=800 * nodes, workers=nodes, max_in_flight=4)
                rates[nodes] = steady_rate(api.seen().arrivals)
        finally:
            del os.environ["RAY_ADDRESS"]
            cluster.shutdown()  # type: ignore[no-untyped-call]
    ratio = rates[4] / rates[1]
    figure("api_scaling_4_nodes", rates[4], rates[1], 3.5, ok=ratio >= 3.5)


# --- the whole job --------------------------------------------------------------------------------


def environment() -> Mapping[str, str]:
    """For a job in a process of its own."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def command(api: FlakyApi, out: Path) -> list[str]:
    """The job over all questions; only the upstream is asked over HTTP."""
    asked = {"model": "m", "timeout_s": TIMEOUT_S, "max_attempts": 8}
    return programs.command(
        "build-dataset",
        programs.shipped_config("jobs", "build-dataset/simworld.yaml"),
        (
            f"out={out}",
            f"base_url={api.base_url}",
            f"sources.simworld.limit={QUESTIONS}",
            f"upstreams={json.dumps({'m': asked})}",
            f"tracking.uri=sqlite:///{out.parent}/mlflow.db",
            f"tracking.artifacts={out.parent}/mlartifacts",
        ),
    )


def build(api: FlakyApi, out: Path) -> str:
    """Run the job to its end; the hash of what it made."""
    started = time.perf_counter()
    subprocess.run(
        command(api, out), env=dict(environment()), check=True, stdout=subprocess.DEVNULL
    )
    print(f"{out.name}: {time.perf_counter() - started:.0f} s")
    return artefacts.read_manifest(str(out), kind="dataset").content_hash


FIGURES = {
    "requests": requests_per_s,
    "ray": beside_rays_own,
    "budget": most_asked_in_a_minute,
    "resume": paid_passes,
    "scaling": scaling,
}


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=sorted(FIGURES), default=sorted(FIGURES))
    for name in parser.parse_args().only:
        FIGURES[name]()


if __name__ == "__main__":
    main()
