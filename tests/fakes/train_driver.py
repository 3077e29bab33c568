"""A training driver in a process of its own, to be killed: ``python train_driver.py CONFIG.json``.

It writes a line of JSON for each loss that it hears of, and one when all is done.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aligner.adapters.memory_tracker import MemoryRun, MemoryTracker
from aligner.config import validate
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train import driver


@dataclass(slots=True)
class SpokenRun(MemoryRun):
    """Says each loss on standard output."""

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, at_ms: int | None = None
    ) -> None:
        MemoryRun.log_metrics(self, metrics, step=step)
        if (loss := metrics.get("correction/loss")) is not None:
            say(step=step, loss=loss)


class SpokenTracker(MemoryTracker):
    """Has one run."""

    @contextlib.contextmanager
    def run(
        self, name: str, *, parent_run_id: str | None = None, run_id: str | None = None
    ) -> Iterator[MemoryRun]:
        yield SpokenRun(run_id or "run-1", name)


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def main() -> None:
    raw = json.loads(Path(sys.argv[1]).read_text())
    config = validate(TrainConfig, raw, where=sys.argv[1])
    result = driver.run(config, tracker=SpokenTracker())
    say(resumed_at=result.resumed_at, epochs=result.manifest.facts["epochs"])


if __name__ == "__main__":
    main()
