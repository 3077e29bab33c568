"""build-dataset rows/s: the whole job against a plain asyncio loop over the same work.

The work is the quickstart's: questions of the simulated world to three upstreams over HTTP on
loopback, the teacher in memory, Parquet. Ours is ``build_dataset.run`` with everything that it
does, the start of a private Ray included (tracking alone is left out). The other side is what one
would write by hand: one process, one ``openai`` client, a semaphore, ``pyarrow`` at the end; no
filters, no splits, no retries beyond the client's own, no account of what was lost.

The bar is 0.6: at 20,000 rows Ray's start-up is a good part of the time, and on two cores the
second worker has only what the server leaves. With more rows or slower upstreams it weighs less.

    python tests/bench/bench_build_dataset.py [--questions 6800]
"""

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
import pyarrow as pa
import pyarrow.parquet as pq

from aligner.adapters.simworld_http import SimworldServer
from aligner.config import load
from aligner.manifest import Manifest
from aligner.records import TRIPLE_SCHEMA, Question, Triple, to_columns
from aligner.simworld.questions import training_questions
from aligner.simworld.teacher import correct
from aligner.simworld.world import World
from aligner.tracking import ModelVersion, Run
from aligner_jobs import build_dataset, programs
from aligner_jobs.config.build_dataset import BuildDatasetConfig

BAR = 0.6
IN_FLIGHT = 48


class NoRun:
    """A run that records nothing."""

    run_id = "none"

    def log_params(self, params: Mapping[str, Any]) -> None: ...
    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, at_ms: int | None = None
    ) -> None: ...
    def log_table(self, name: str, rows: Sequence[Mapping[str, str | float]]) -> None: ...
    def log_artifact(self, path: Path, *, folder: str | None = None) -> None: ...
    def log_dataset(self, manifest: Manifest, uri: str, *, context: str) -> None: ...
    def set_tags(self, tags: Mapping[str, str]) -> None: ...
    def history(self) -> Mapping[str, Mapping[int, float]]:
        return {}


class NoTracker:
    """Tracking costs the same on either side, so neither has it."""

    def require_answer(self) -> None: ...

    @contextlib.contextmanager
    def run(self, name: str, **_: Any) -> Iterator[Run]:
        yield NoRun()

    def register(self, name: str, **_: Any) -> ModelVersion:
        raise NotImplementedError

    def version(self, name: str, version_or_alias: str) -> ModelVersion:
        raise NotImplementedError

    def set_alias(self, name: str, alias: str, version: str) -> None: ...
    def set_version_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None: ...


def ours(config: BuildDatasetConfig) -> float:
    """Rows per second of the job."""
    start = time.perf_counter()
    result = build_dataset.run(config, tracker=NoTracker())
    seconds = time.perf_counter() - start
    return result.manifest.funnel[0].rows_in / seconds


async def by_hand(config: BuildDatasetConfig, *, questions: int, out: Path) -> int:
    """Ask, correct and write; the number of rows."""
    world = World(config.seed)
    free = asyncio.Semaphore(IN_FLIGHT)
    async with openai.AsyncOpenAI(base_url=config.base_url, api_key="none") as client:

        async def row(question: Question, upstream: str) -> Triple:
            async with free:
                reply = await client.chat.completions.create(
                    model=config.upstreams[upstream].model,
                    messages=[{"role": "user", "content": question.question}],
                    temperature=0.0,
                    max_tokens=512,
                )
            answer = reply.choices[0].message.content or ""
            correction = correct(world, question, answer)
            return Triple(question.question, answer, correction, upstream=upstream)

        asked = training_questions(world, questions)
        rows = await asyncio.gather(*(row(q, name) for q in asked for name in config.upstreams))
    table = pa.Table.from_pylist([to_columns(each) for each in rows], schema=TRIPLE_SCHEMA)
    pq.write_table(table, out, compression="zstd")
    return len(rows)


def theirs(config: BuildDatasetConfig, *, questions: int, out: Path) -> float:
    """Rows per second of the loop."""
    start = time.perf_counter()
    rows = asyncio.run(by_hand(config, questions=questions, out=out))
    return rows / (time.perf_counter() - start)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=6800)
    questions = parser.parse_args().questions
    with tempfile.TemporaryDirectory() as folder, SimworldServer(0) as server:
        config = load(
            BuildDatasetConfig,
            programs.shipped_config("jobs", "build-dataset/simworld.yaml"),
            [
                f"out={folder}/dataset",
                f"base_url={server.base_url}",
                f"sources.simworld.limit={questions}",
            ],
        )
        plain = theirs(config, questions=questions, out=Path(folder) / "by_hand.parquet")
        job = ours(config)
    ratio = job / plain
    verdict = "ok" if ratio >= BAR else "short"
    print(f"BENCH build_dataset_rows_per_s {job:.0f} {plain:.0f} {ratio:.2f} {BAR} {verdict}")


if __name__ == "__main__":
    main()
