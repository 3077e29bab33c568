"""What a running graph tells of its requests, and what becomes of feedback on them.

Two replicas of the gateway: whatever is told or kept must not depend on which one was asked.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import keep_reports
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Serving

from aligner import artefacts
from aligner.adapters.simworld_http import SimworldServer
from aligner.records import Triple
from aligner.runtime_env import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]
_PATIENCE_S = 60.0
_REQUESTS = 8


class Seen:
    """A running graph with a client to it."""

    def __init__(self, serving: Serving, folder: Path) -> None:
        self.serving = serving
        self.folder = folder
        self.client = httpx.Client(base_url=serving.state["url"], timeout=60, trust_env=False)

    def ask(self, row: Triple, **changes: Any) -> httpx.Response:
        messages = [{"role": "user", "content": row.question}]
        body = {"model": "iron+known", "messages": messages, **changes}
        return self.client.post("/v1/chat/completions", json=body)

    def feed(self, row: Triple, request_id: str, verdict: str, **changes: Any) -> httpx.Response:
        body = {
            "request_id": request_id,
            "model": "iron+known",
            "verdict": verdict,
            "question": row.question,
            "answer": row.answer,
            "correction": row.correction,
            **changes,
        }
        return self.client.post("/v1/feedback", json=body)

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        response = self.client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum over all labels that are not given."""
        return sum(
            value
            for (found, held), value in self.metrics().items()
            if found == name and held >= set(labels.items())
        )

    def logs(self) -> str:
        """All that Ray and its processes have written down."""
        roots = {
            word.split("=")[1]
            for child in psutil.Process(self.serving.process.pid).children(recursive=True)
            for word in child.cmdline()
            if word.startswith("--session_dir=") or word.startswith("--session-dir=")
        }
        assert roots
        files = [file for root in roots for file in Path(root, "logs").rglob("*")]
        return "\n".join(file.read_text(errors="replace") for file in files if file.is_file())


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.5)


def calibrated(known_export: Any, folder: Path) -> str:
    """A report by which the answer that needs no correction is kept."""
    keep = keep_reports.calibration(known_export.manifest, threshold=-0.5, dtype="float32")
    return keep_reports.write_report(str(folder / "report"), keep)


@pytest.fixture(scope="module")
def seen(known_export: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("seeing")
    # At a pace, so that there is time to read ahead.
    with SimworldServer(seed=known_export.seed, word_s=0.02) as simworld:
        config = {
            "port": free_port(),
            "base_url": simworld.base_url,
            "upstreams": {
                "iron": {"sampling": {"temperature": 0.0, "seed": 0}},
                "dead": {"base_url": "http://127.0.0.1:9/v1", "max_attempts": 1},
            },
            "aligners": {
                "known": {
                    "source": {"kind": "path", "uri": known_export.uri},
                    "engine": {"dtype": "float32"},
                    "keep": {"calibration": calibrated(known_export, folder)},
                    "prefill_ahead": {"min_new_chars": 1},
                }
            },
            "gateway": {
                "min_replicas": 2,
                "max_replicas": 2,
                "target_ongoing_requests": 64,
                "max_ongoing_requests": 256,
            },
            "tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}", "experiment": "served"},
            "feedback": {"uri": str(folder / "feedback")},
            "observing": {
                "trace_share": 1.0,
                "prices": {"iron": {"usd_per_1m_completion_tokens": 1e6}},
            },
        }
        with Serving(folder, config) as serving:
            found = Seen(serving, folder)
            with found.client:
                yield found


def test_requests_are_counted_once_whichever_replica_is_asked(
    seen: Seen, known_export: Any
) -> None:
    for number in range(_REQUESTS):
        row = known_export.corrected if number % 2 else known_export.unchanged
        assert seen.ask(row, stream=number % 4 < 2).status_code == 200
    assert seen.ask(known_export.corrected, model="dead+known").status_code >= 500

    def counted() -> bool:
        return seen.metric("aligner_requests_total") == _REQUESTS + 1

    # Each replica shows a page of up to a second ago.
    eventually(lambda: all(counted() for _ in range(6)))
    half = _REQUESTS // 2
    corrected = {"model": "iron+known", "outcome": "corrected"}
    assert seen.metric("aligner_requests_total", **corrected) == half
    assert seen.metric("aligner_requests_total", outcome="unchanged") == half
    assert seen.metric("aligner_requests_total", outcome="error") == 1
    assert seen.metric("aligner_edit_ratio_count", model="iron+known") == _REQUESTS
    assert seen.metric("aligner_edit_ratio_bucket", model="iron+known", le="0.01") == half
    assert seen.metric("aligner_stage_seconds_count", stage="corrector") == _REQUESTS
    assert seen.metric("aligner_stage_failures_total", name="dead") == 1
    written = seen.metric("aligner_tokens_total", name="iron", kind="completion")
    assert written > 0
    assert seen.metric("aligner_usd_total", name="iron") == pytest.approx(written)


def test_what_was_saved_is_counted(seen: Seen) -> None:
    half = _REQUESTS // 2

    def saved(kind: str) -> float:
        return seen.metric("aligner_savings_total", name="known", kind=kind)

    assert (saved("kept_answers"), saved("doubted_answers")) == (half, half)
    assert saved("trusted_tokens") > 0
    assert saved("decoded_tokens") >= saved("decode_steps") > 0
    assert seen.metric("aligner_first_token_seconds_count", name="known") == _REQUESTS
    assert seen.metric("aligner_readings_ahead_total", name="known") > 0


def test_gauges_are_the_sum_over_the_replicas(seen: Seen) -> None:
    eventually(lambda: seen.metric("aligner_breaker", upstream="iron", state="closed") == 2)
    assert seen.metric("aligner_breaker", upstream="iron", state="open") == 0
    # Each looks at itself every second; nothing is going on any more.
    eventually(lambda: seen.metric("aligner_in_flight", route="/v1/chat/completions") == 0)
    eventually(
        lambda: seen.metric("ray_serve_autoscaling_target_replicas", deployment="gateway") == 2
    )


def test_mlflow_shows_a_trace_of_each_request(seen: Seen) -> None:
    from mlflow import MlflowClient
    from mlflow.tracing.client import TracingClient

    uri = f"sqlite:///{seen.folder / 'mlflow.db'}"
    eventually(lambda: seen.metric("aligner_traces_total", result="sent") == _REQUESTS + 1)
    experiment = MlflowClient(uri).get_experiment_by_name("served")
    traces = TracingClient(uri).search_traces(locations=[experiment.experiment_id])
    assert len(traces) == _REQUESTS + 1
    named = sorted(tuple(span.name for span in trace.data.spans) for trace in traces)
    whole = ("chat iron+known", "upstream iron", "corrector known")
    assert named == sorted([whole] * _REQUESTS + [("chat dead+known", "upstream dead")])
    assert seen.metric("aligner_traces_total", result="lost") == 0


def test_the_log_has_a_line_of_json_for_each_request_and_no_text(
    seen: Seen, known_export: Any
) -> None:
    request_id = "told-by-the-client.1"
    row = known_export.corrected
    response = seen.client.post(
        "/v1/corrections",
        json={"question": row.question, "answer": row.answer},
        headers={"x-request-id": request_id},
    )
    assert response.headers["x-request-id"] == request_id
    eventually(lambda: request_id in seen.logs())
    logs = seen.logs()
    (line,) = [json.loads(one) for one in logs.splitlines() if request_id in one]
    assert (line["event"], line["route"], line["status"]) == ("request", "/v1/corrections", 200)
    (choice,) = line["choices"]
    assert (choice["outcome"], choice["stages"][0]["name"]) == ("corrected", "known")
    for text in (row.question, row.answer, row.correction):
        assert text not in logs


def test_feedback_becomes_rows_of_a_dataset(seen: Seen, known_export: Any, tmp_path: Path) -> None:
    corrected, unchanged = known_export.corrected, known_export.unchanged
    given = [
        *[seen.feed(corrected, "r-1", "accept") for _ in range(4)],
        seen.feed(unchanged, "r-2", "accept"),
        seen.feed(unchanged, "r-2", "edit", edit="Mine is better."),
        seen.feed(known_export.multi_turn, "r-3", "reject"),
    ]
    assert [one.status_code for one in given] == [200] * 7
    config = Path(__file__).parents[2] / "jobs" / "configs" / "build-dataset" / "feedback.yaml"
    command = [sys.executable, "-m", "aligner_jobs.cli", "build-dataset", "--config", str(config)]
    settings = [
        f"out={tmp_path / 'dataset'}",
        f"sources.feedback.path={seen.folder / 'feedback'}",
        f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}",
    ]
    changes = [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run([*command, *changes], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row.question: row for row in dataset_rows(tmp_path / "dataset")}
    assert {row.correction for row in rows.values()} == {corrected.correction, "Mine is better."}
    assert rows[corrected.question].upstream == "iron"
    assert rows[corrected.question].answer == corrected.answer


def dataset_rows(folder: Path) -> list[Triple]:
    import pyarrow.parquet as pq

    from aligner.records import from_columns

    artefacts.read_manifest(str(folder), kind="dataset")
    files = [file for split in ("train", "heldout") for file in (folder / split).glob("*.parquet")]
    return [from_columns(row) for file in files for row in pq.read_table(file).to_pylist()]


def test_counts_outlive_the_replica_that_counted(seen: Seen, known_export: Any) -> None:
    before = seen.metric("aligner_requests_total")
    seen.serving.kill("gateway")

    def answers() -> bool:
        try:
            return seen.ask(known_export.corrected).status_code == 200
        except httpx.TransportError:
            return False

    eventually(answers)
    eventually(lambda: seen.metric("aligner_requests_total") > before)
