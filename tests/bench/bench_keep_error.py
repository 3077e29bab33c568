"""How many flawed answers KEEP lets through at its stored threshold, in other worlds.

The quickstart's Aligner (its recipe, seed 0) is trained once and kept under ``~/.cache``. Its
threshold is found by ``aligner evaluate`` on held-out questions of its world. Then answers are
scored that had no part in it: to other questions of that world, and in worlds with other seeds.
The Aligner knows none of the facts of these, so few good answers are kept there, either.

    python tests/bench/bench_keep_error.py [--worlds 5] [--questions 100]
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aligner.adapters.memory_tracker import MemoryTracker
from aligner.adapters.simworld_http import SimworldServer
from aligner.config import load
from aligner.judging import is_perfect
from aligner.keeping import KeepCalibration, upper_bound
from aligner.records import Question
from aligner.simworld import profiles
from aligner.simworld.judge import SimJudge
from aligner.simworld.questions import heldout_questions
from aligner.simworld.world import World
from aligner_jobs import evaluate, programs
from aligner_jobs.config.evaluate import EvaluateConfig
from aligner_jobs.correct import Correction, Job, correct, job_of
from aligner_jobs.runtime import ray_session
from aligner_jobs.subject import Subject, open_subject

SEED = 0
CACHE = Path.home() / ".cache" / "aligner" / "bench" / f"quickstart-{SEED}"
CALIBRATED_ON = 150
"""Questions, each put to all upstreams."""
ERROR = 0.005
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Answer:
    """An upstream's answer, and whether the judge finds nothing to mend."""

    seed: int
    question: Question
    text: str
    good: bool


def trained() -> Path:
    """The export of the quickstart's Aligner; trained in about ten minutes if it is not there."""
    export = CACHE / "train" / "export"
    if (export / "manifest.json").is_file():
        return export
    CACHE.mkdir(parents=True, exist_ok=True)
    dataset = f"{CACHE / 'dataset'}"
    with ray_session() as address, SimworldServer(SEED) as simworld:
        of_the_dataset = (f"out={dataset}", f"seed={SEED}", f"base_url={simworld.base_url}")
        for job, file, sets in (
            ("build-dataset", "simworld.yaml", of_the_dataset),
            ("train", "tiny.yaml", (f"dataset={dataset}", f"out={CACHE / 'train'}")),
        ):
            path = programs.shipped_config("jobs", f"{job}/{file}")
            tracking = (
                f"tracking.uri=sqlite:///{CACHE / 'mlflow.db'}",
                f"tracking.artifacts={CACHE / 'mlartifacts'}",
            )
            programs.run(programs.command(job, path, (*sets, *tracking)), {"RAY_ADDRESS": address})
    return export


@contextmanager
def calibrated(export: Path) -> Iterator[tuple[EvaluateConfig, Subject, KeepCalibration]]:
    """The Aligner, how it is run, and what ``aligner evaluate`` finds out about KEEP."""
    with tempfile.TemporaryDirectory(prefix="bench-keep-") as folder:
        with SimworldServer(SEED) as simworld:
            config = load(
                EvaluateConfig,
                programs.shipped_config("jobs", "evaluate/simworld.yaml"),
                (
                    f"out={folder}/report",
                    "model=null",
                    f"export={export}",
                    f"seed={SEED}",
                    f"base_url={simworld.base_url}",
                    f"questions.limit={CALIBRATED_ON}",
                    f"keep={{wanted_error: {ERROR}, confidence: {CONFIDENCE}}}",
                ),
            )
            report = evaluate.run(config, tracker=MemoryTracker()).report
        assert report.keep is not None
        with open_subject(config, MemoryTracker()) as subject:
            yield config, subject, report.keep


def answers(seed: int, count: int, *, without: frozenset[str] = frozenset()) -> list[Answer]:
    """Of all upstreams to the held-out questions of a world, except to some."""
    world = World(seed)
    judge = SimJudge(world)
    made = [
        (question, profiles.answer(world, name, question))
        for question in heldout_questions(world, count)
        if question.question not in without
        for name in profiles.PROFILES
    ]
    return [
        Answer(seed, question, text, is_perfect(judge.scores(question, text)))
        for question, text in made
    ]


def corrected(
    given: list[Answer], config: EvaluateConfig, subject: Subject, *, keep_from: float | None
) -> list[Correction]:
    """A correction for each."""
    jobs: list[Job] = [
        job_of(
            one.question,
            one.text,
            template=subject.template,
            tokenizer=subject.tokenizer,
            config=config,
            context_tokens=subject.context_tokens,
        )
        for one in given
    ]
    done = dict(
        correct(
            jobs,
            model=subject.folder,
            template=subject.template,
            tokenizer=subject.tokenizer,
            engine=config.engine,
            context_tokens=subject.context_tokens,
            keep_from=keep_from,
        )
    )
    return [done[index] for index in range(len(jobs))]


def share_kept(given: list[Answer], made: list[Correction], *, good: bool) -> tuple[int, int]:
    """How many good or flawed answers were kept, of how many."""
    kept = [one.kept for answer, one in zip(given, made, strict=True) if answer.good == good]
    return sum(kept), len(kept)


def told(where: str, given: list[Answer], made: list[Correction]) -> float:
    """Print what was kept of ``given``; the share of the flawed ones."""
    good, flawed = (share_kept(given, made, good=one) for one in (True, False))
    decoded, tokens = sum(o.decoded_tokens for o in made), sum(o.tokens for o in made)
    print(
        f"{where}: kept {flawed[0]} of {flawed[1]} flawed answers (with {CONFIDENCE:.0%} "
        f"confidence at most {upper_bound(*flawed, confidence=CONFIDENCE):.3%}), "
        f"{good[0]} of {good[1]} good ones ({good[0] / good[1]:.1%}); decoded "
        f"{decoded:,} of {tokens:,} tokens",
        flush=True,
    )
    return flawed[0] / flawed[1]


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=100, help="of each world")
    arguments = parser.parse_args()
    export = trained()
    with calibrated(export) as (config, subject, keep):
        print(f"threshold {keep.threshold}: {keep.sentence}", flush=True)
        asked = frozenset(one.question for one in heldout_questions(World(SEED), CALIBRATED_ON))
        here = answers(SEED, 2 * CALIBRATED_ON, without=asked)
        seeds = range(SEED + 1, SEED + 1 + arguments.worlds)
        there = [one for seed in seeds for one in answers(seed, arguments.questions)]
        with ray_session():
            made = corrected([*here, *there], config, subject, keep_from=keep.threshold)
        told("other questions of the same world", here, made[: len(here)])
        for place, seed in enumerate(seeds):
            begin, size = len(here) + place * len(there) // len(seeds), len(there) // len(seeds)
            told(f"world {seed}", answers(seed, arguments.questions), made[begin : begin + size])
        error = told("all other worlds", there, made[len(here) :])
    verdict = "ok" if error <= ERROR else "short"
    print(f"BENCH keep_error {error:.5f} {ERROR} {error / ERROR:.2f} {ERROR} {verdict}", flush=True)


if __name__ == "__main__":
    main()
