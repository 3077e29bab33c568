"""The whole job as a user runs it: a child process, real Ray, real HTTP, real MLflow."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from killing import replies_kept

from aligner import artefacts
from aligner.adapters.memory_tracker import MemoryTracker
from aligner.adapters.simworld_http import SimworldServer
from aligner.config import load
from aligner.errors import DataError
from aligner.manifest import Manifest
from aligner.records import TRIPLE_SCHEMA, Question, from_columns
from aligner.simworld.judge import SimJudge
from aligner.simworld.teacher import correct
from aligner.simworld.world import World
from aligner_jobs import build_dataset, programs
from aligner_jobs.config.build_dataset import BuildDatasetConfig

CONFIGS = Path(__file__).parents[2] / "jobs/configs/build-dataset"
QUESTIONS = 60
UPSTREAMS = 3

_HOLD_RAY = """
from aligner_jobs.runtime import ray_session
with ray_session() as address:
    print(address, flush=True)
    input()
"""


@dataclass(frozen=True)
class Done:
    """A run that ended."""

    code: int
    out: str
    error: str


@dataclass(frozen=True)
class Bench:
    """Where the tests of this file work: one Ray and one tracking database for all of them."""

    folder: Path
    env: dict[str, str]

    def command(self, config: Path, *sets: str) -> list[str]:
        tracking = (
            f"tracking.uri=sqlite:///{self.folder}/mlflow.db",
            f"tracking.artifacts={self.folder}/mlartifacts",
        )
        return programs.command("build-dataset", config, (*tracking, *sets))

    def run(self, config: Path, *sets: str) -> Done:
        done = subprocess.run(
            self.command(config, *sets), env=self.env, capture_output=True, text=True, timeout=500
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def build(self, config: Path, *sets: str) -> Manifest:
        """The same in this process: the start of a program takes longer than a few rows."""
        settings = load(BuildDatasetConfig, config, sets)
        with pytest.MonkeyPatch.context() as patched:
            for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
                patched.setenv(name, self.env[name])
            return build_dataset.run(settings, tracker=MemoryTracker()).manifest

    def left_over(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if "partial" in path.name]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONWARNINGS": "default",
    }
    command = [sys.executable, "-c", _HOLD_RAY]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        address = holder.stdout.readline().strip()
        yield Bench(tmp_path_factory.mktemp("build"), {**env, "RAY_ADDRESS": address})
        holder.communicate("\n")


@pytest.fixture(scope="module")
def simworld() -> Iterator[SimworldServer]:
    # Rarely enough that no request meets one at each of its attempts.
    with SimworldServer(0, fault_rate=0.02) as server:
        yield server


def error_line(done: Done) -> str:
    """The one line that a failed run ends with."""
    assert done.code == 2, done.error
    assert "Traceback" not in done.error, done.error
    *_, last = done.error.strip().splitlines()
    assert last.startswith("error: ")
    return last


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / split).to_pylist()
    return found


def require_sound(folder: Path) -> Manifest:
    """Check what holds of every dataset, whatever went into it."""
    manifest = artefacts.read_manifest(str(folder), kind="dataset")
    artefacts.verify(folder, manifest)
    counts = manifest.counts
    assert {split: len(rows(folder, split)) for split in counts} == counts
    assert manifest.funnel[-1].rows_out == counts["train"] + counts["heldout"]
    dropped = sum(sum(step.dropped.values()) for step in manifest.funnel)
    assert dropped == sum(row["rows"] for row in rows(folder, "set_aside"))
    assert pq.read_schema(folder / "train" / "part-00000.parquet").equals(TRIPLE_SCHEMA)
    for row in rows(folder, "train"):
        assert from_columns(row).row_id == row["row_id"]
    return manifest


# --- without Ray ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (["sources.qac.pth=x"], ["qac.yaml", "'sources.qac.pth'", "did you mean 'path'"]),
        (["fliters.max_chars=5"], ["'fliters'", "did you mean 'filters'"]),
        (["sources.qac.path=missing.json"], ["missing.json", "no such file", "correct"]),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence(
    tmp_path: Path, sets: list[str], parts: list[str]
) -> None:
    bench = Bench(tmp_path, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    done = bench.run(CONFIGS / "qac.yaml", f"out={tmp_path}/d", *sets)
    assert all(part in error_line(done) for part in parts)
    assert not list(tmp_path.iterdir())


def test_an_upstream_that_does_not_answer_is_known_before_anything_starts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    done = bench.run(
        CONFIGS / "simworld.yaml", f"out={tmp_path}/d", "base_url=http://127.0.0.1:9/v1"
    )
    assert "http://127.0.0.1:9/v1" in error_line(done)
    assert not list(tmp_path.iterdir())


# --- with Ray -------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_questions_become_a_dataset_and_again_the_same(
    bench: Bench, simworld: SimworldServer
) -> None:
    config, first, second = CONFIGS / "simworld.yaml", bench.folder / "one", bench.folder / "two"
    sets = [f"base_url={simworld.base_url}", f"sources.simworld.limit={QUESTIONS}"]
    sets += ["heldout_share=0.2"]
    done = bench.run(config, f"out={first}", *sets)
    assert done.code == 0, done.error
    assert "where each row went" in done.out
    manifest = require_sound(first)
    assert [step.step for step in manifest.funnel] == [
        "read",
        "answers",
        "corrections",
        "filters",
        "duplicates",
    ]
    assert manifest.funnel[0].rows_in == QUESTIONS * UPSTREAMS
    # Every fault of the server was overcome; what may be lost are answers that two gave alike.
    assert [sum(step.dropped.values()) for step in manifest.funnel[:4]] == [0, 0, 0, 0]
    assert manifest.facts["sources"] == {"simworld": {"rows_read": QUESTIONS, "set_aside": {}}}
    judge = SimJudge(World(0))
    for row in map(from_columns, rows(first, "train")):
        assert set(judge.scores(Question(row.question), row.correction).values()) == {1.0}

    # The teacher over HTTP, other workers, another order of things: the same bytes.
    teacher = "{kind: openai, model: teacher}"
    done = bench.run(config, f"out={second}", *sets, "workers=1", f"teacher={teacher}")
    assert done.code == 0, done.error
    assert require_sound(second).content_hash == manifest.content_hash

    # What is there already is not made again, for which there is no Ray here, and not overwritten.
    idle = replace(bench, env={**bench.env, "RAY_ADDRESS": "127.0.0.1:9"})
    done = idle.run(config, f"out={first}", *sets)
    assert (done.code, "built already" in done.out) == (0, True)
    assert "other settings" in error_line(idle.run(config, f"out={first}", *sets, "seed=1"))
    assert bench.left_over() == []


@pytest.mark.e2e
def test_teachers_share_the_answers_and_a_judge_looks_at_their_corrections(
    bench: Bench, simworld: SimworldServer
) -> None:
    out = bench.folder / "taught"
    far = "kind: openai, model: teacher"
    done = bench.run(
        CONFIGS / "simworld.yaml",
        f"out={out}",
        f"base_url={simworld.base_url}",
        f"sources.simworld.limit={QUESTIONS}",
        "teacher=null",
        f"teachers={{near: {{kind: simworld}}, far: {{{far}}}, slow: {{{far}, critique: true}}}}",
        "judge={kind: openai, model: judge}",
        "pii={}",
    )
    assert done.code == 0, done.error
    manifest = require_sound(out)
    assert [step.step for step in manifest.funnel][3:5] == ["filters", "judge"]
    assert not any(step.dropped for step in manifest.funnel[:5])
    assert manifest.facts["pii"] == {"rows": 0, "places": {}}
    found = rows(out, "train") + rows(out, "heldout")
    assert {row["teacher"] for row in found} == {"near", "far", "slow"}
    world = World(0)
    for row in found:
        assert row["correction"] == correct(world, Question(row["question"]), row["answer"])
    # Some were left alone, which the teachers over HTTP say by their marker.
    kept = {row["teacher"] for row in found if row["correction"] == row["answer"]}
    assert {"far", "slow"} & kept


@pytest.mark.e2e
def test_personal_data_is_gone_from_the_dataset_and_counted(bench: Bench) -> None:
    file, out = bench.folder / "personal.jsonl", bench.folder / "redacted"
    told = {"question": "Who is jo@example.org?", "answer": "Call 212-555-0199."}
    lines = [{**told, "correction": f"Jo is number {number}."} for number in range(20)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    bench.build(
        CONFIGS / "qac.yaml", f"out={out}", f"sources.qac.path={file}", "pii={}", "heldout_share=0"
    )
    manifest = require_sound(out)
    places = {"EMAIL_ADDRESS": 20, "PHONE_NUMBER": 20}
    assert manifest.facts["pii"] == {"rows": 20, "places": places}
    assert {row["question"] for row in rows(out, "train")} == {"Who is <EMAIL_ADDRESS>?"}
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"jo@example" not in written and b"555-0199" not in written


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("config", "file", "rows_in", "dropped"),
    [
        ("preference-hh", "hh_harmless_test", 2312, {"role_repeated": 9, "empty_reply": 4}),
        ("revisions-selfee", "selfee_revisions", 469, {"duplicate": 5}),
        ("revisions-cai", "cai_revisions", 264, {}),
        ("qac-shepherd", "shepherd_critiques", 1317, {"duplicate": 1}),
        ("preference-messages", "dpo_en_demo_300", 300, {"duplicate": 5}),
    ],
)
def test_the_funnel_accounts_for_every_row_of_real_sets(
    bench: Bench, shared_data: Path, config: str, file: str, rows_in: int, dropped: dict[str, int]
) -> None:
    name, out = config.partition("-")[2], bench.folder / config
    path = f"sources.{name}.path={shared_data}/{file}.jsonl.gz"
    bench.build(CONFIGS / f"{config}.yaml", f"out={out}", path)
    manifest = require_sound(out)
    assert manifest.funnel[0].rows_in == rows_in
    found = {reason: n for step in manifest.funnel for reason, n in step.dropped.items()}
    assert found == dropped
    assert manifest.counts["train"] and manifest.counts["heldout"]
    assert manifest.counts["warmup"] == round(0.2 * manifest.counts["train"])


GOOD = json.dumps({"question": "q", "answer": "a", "correction": "c"})


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (f"{GOOD}\n{{oops\n", [":2", "broken_json", "1 of 2", "max_bad_share"]),
        ("", ["holds no rows", "check"]),
        ('{"question": "q", "answer": " ", "correction": "c"}\n', ["blank_answer", "no row"]),
    ],
    ids=["broken line", "empty", "nothing left"],
)
def test_bad_files_are_one_sentence_and_leave_nothing(
    bench: Bench, tmp_path: Path, content: str, parts: list[str]
) -> None:
    file, out = tmp_path / "rows.json", bench.folder / "bad"
    file.write_text(content)
    with pytest.raises(DataError) as caught:
        bench.build(CONFIGS / "qac.yaml", f"out={out}", f"sources.qac.path={file}")
    assert all(part in str(caught.value) for part in parts)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert bench.left_over() == []


@pytest.mark.e2e
def test_an_upstream_that_goes_away_ends_the_job_with_its_name(bench: Bench) -> None:
    out = bench.folder / "gone"
    with contextlib.ExitStack() as running:
        server = running.enter_context(SimworldServer(0, latency_s=0.3))
        command = bench.command(
            CONFIGS / "simworld.yaml",
            f"out={out}",
            f"base_url={server.base_url}",
            "upstreams.amber.max_attempts=1",
            "upstreams.basalt.max_attempts=1",
            "upstreams.copper.max_attempts=1",
        )
        with _started(bench, command) as process:
            _wait_for_replies(out)
            running.close()
            output, error = process.communicate(timeout=300)
    sentence = error_line(Done(process.returncode, output, error))
    assert server.base_url in sentence
    assert "upstream" in sentence
    assert not out.exists()
    assert bench.left_over() == []


@pytest.mark.e2e
def test_ctrl_c_leaves_nothing_half_written(bench: Bench) -> None:
    out = bench.folder / "stopped"
    with SimworldServer(0, latency_s=0.3) as server:
        command = bench.command(
            CONFIGS / "simworld.yaml", f"out={out}", f"base_url={server.base_url}"
        )
        with _started(bench, command) as process:
            _wait_for_replies(out)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert not out.exists()
    assert bench.left_over() == []


@contextlib.contextmanager
def _started(bench: Bench, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The job as a child process, which does not outlive the block."""
    with subprocess.Popen(
        command, env=bench.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_for_replies(out: Path) -> None:
    """Until a job that writes to ``out`` is in the midst of asking."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if replies_kept(out) > 50:
            return
        time.sleep(0.2)
    pytest.fail("nothing was replied in time")
