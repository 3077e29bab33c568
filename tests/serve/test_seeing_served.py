"""What a running graph tells of its requests, and what becomes of feedback on them.

Two replicas of the gateway: whatever is told or kept must not depend on which one was asked.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import keep_reports
import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import files_below, processes_below
from serving import Serving

from aligner import artefacts
from aligner.adapters.mlflow_tracker import MlflowTracker
from aligner.adapters.simworld_http import SimworldServer
from aligner.records import Triple
from aligner.runtime_env import free_port
from aligner.tracking import TrackingConfig

pytestmark = pytest.mark.e2e
_PATIENCE_S = 120.0
_REQUESTS = 8


class Page:
    """What ``/metrics`` told at one moment."""

    def __init__(self, text: str) -> None:
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def sum(self, name: str, /, **labels: str) -> float:
        """Over all labels that are not given."""
        return sum(
            value
            for (found, held), value in self._samples.items()
            if found == name and held >= set(labels.items())
        )


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

    def page(self) -> Page:
        response = self.client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return Page(response.text)

    def metric(self, name: str, /, **labels: str) -> float:
        return self.page().sum(name, **labels)

    def logs(self) -> str:
        """All that Ray and its processes have written down."""
        roots = {
            word.split("=")[1]
            for command in processes_below(self.serving.process.pid).values()
            for word in command.split()
            if word.startswith("--session_dir=") or word.startswith("--session-dir=")
        }
        assert roots
        files = [content for root in roots for content in files_below(Path(root, "logs")).values()]
        return "\n".join(content.decode(errors="replace") for content in files)


def eventually(found: Callable[[], object], expected: object = True) -> None:
    """Return when ``found()`` is what is expected.

    Counts reach a page one by one, and each replica shows a page of up to a second ago.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while (last := found()) != expected:
        assert time.monotonic() < deadline, f"{last} instead of {expected}"
        time.sleep(0.5)


def calibrated(known_export: Any, folder: Path) -> str:
    """A report by which the answer that needs no correction is kept."""
    keep = keep_reports.calibration(known_export.manifest, threshold=-0.5, dtype="float32")
    return keep_reports.write_report(str(folder / "report"), keep)


@pytest.fixture(scope="module")
def seen(known_export: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("seeing")
    tracking = TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="served")
    # Nobody has that much time while it is in use: making a database takes seconds.
    MlflowTracker(tracking)
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
            "tracking": tracking.model_dump(),
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

    half = _REQUESTS // 2
    model = "iron+known"

    def counted() -> dict[str, object]:
        total = seen.page().sum
        written = total("aligner_tokens_total", name="iron", kind="completion")
        usd = total("aligner_usd_total", name="iron")
        return {
            "requests": total("aligner_requests_total"),
            "corrected": total("aligner_requests_total", model=model, outcome="corrected"),
            "unchanged": total("aligner_requests_total", outcome="unchanged"),
            "errors": total("aligner_requests_total", outcome="error"),
            "edits": total("aligner_edit_ratio_count", model=model),
            "copies": total("aligner_edit_ratio_bucket", model=model, le="0.01"),
            "corrector": total("aligner_stage_seconds_count", stage="corrector"),
            "dead": total("aligner_stage_failures_total", name="dead"),
            "paid": usd > 0 and usd == pytest.approx(written),
        }

    expected = {
        "requests": _REQUESTS + 1,
        "corrected": half,
        "unchanged": half,
        "errors": 1,
        "edits": _REQUESTS,
        "copies": half,
        "corrector": _REQUESTS,
        "dead": 1,
        "paid": True,
    }
    eventually(lambda: [counted() for _ in range(6)], [expected] * 6)


def test_what_was_saved_is_counted(seen: Seen) -> None:
    half = _REQUESTS // 2

    def counted() -> dict[str, object]:
        total = seen.page().sum
        saved = partial(total, "aligner_savings_total", name="known")
        return {
            "kept": saved(kind="kept_answers"),
            "doubted": saved(kind="doubted_answers"),
            "trusted": saved(kind="trusted_tokens") > 0,
            "decoded": saved(kind="decoded_tokens") >= saved(kind="decode_steps") > 0,
            "begun": total("aligner_first_token_seconds_count", name="known"),
            "read ahead": total("aligner_readings_ahead_total", name="known") > 0,
        }

    expected = {
        "kept": half,
        "doubted": half,
        "trusted": True,
        "decoded": True,
        "begun": _REQUESTS,
        "read ahead": True,
    }
    eventually(counted, expected)


def test_gauges_are_the_sum_over_the_replicas(seen: Seen) -> None:
    def told() -> dict[str, float]:
        total = seen.page().sum
        return {
            "closed": total("aligner_breaker", upstream="iron", state="closed"),
            "open": total("aligner_breaker", upstream="iron", state="open"),
            # Nothing is going on any more.
            "in flight": total("aligner_in_flight", route="/v1/chat/completions"),
            "gateways": total("ray_serve_autoscaling_target_replicas", deployment="gateway"),
        }

    eventually(told, {"closed": 2, "open": 0, "in flight": 0, "gateways": 2})


def test_mlflow_shows_a_trace_of_each_request(seen: Seen, known_export: Any) -> None:
    from mlflow import MlflowClient
    from mlflow.tracing.client import TracingClient

    uri = f"sqlite:///{seen.folder / 'mlflow.db'}"
    # The first ones are lost where importing MLflow takes longer than a gateway waits.
    eventually(lambda: seen.metric("aligner_traces_total"), _REQUESTS + 1)
    lost = seen.metric("aligner_traces_total", result="lost")
    models = ["iron+known"] * 3 + ["dead+known"]
    asked = [seen.ask(known_export.corrected, model=model) for model in models]
    eventually(lambda: seen.metric("aligner_traces_total"), _REQUESTS + 1 + len(asked))
    assert seen.metric("aligner_traces_total", result="lost") == lost
    experiment = MlflowClient(uri).get_experiment_by_name("served")
    traces = TracingClient(uri).search_traces(locations=[experiment.experiment_id])
    named = {
        trace.info.client_request_id: [span.name for span in trace.data.spans] for trace in traces
    }
    whole = ["chat iron+known", "upstream iron", "corrector known"]
    expected = [whole] * 3 + [["chat dead+known", "upstream dead"]]
    assert [named[one.headers["x-request-id"]] for one in asked] == expected


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
    done = subprocess.run([*command, *changes], capture_output=True, text=True)
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
