"""Whom build-dataset asks over HTTP, and when too many of their replies are missing."""

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from aligner.errors import EndpointError, GenerationError
from aligner.generation import Endpoint
from aligner_jobs.config.asking import ApiModel, LocalUpstream, Upstream
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.config.teaching import AlignerTeacher, OpenAITeacher
from aligner_jobs.generate import GAVE_UP
from aligner_jobs.judging import VERDICTS
from aligner_jobs.sources import listed
from aligner_jobs.tables import Row, Step, Tally

_THE_JUDGE: Final = "the judge"


def endpoints(config: BuildDatasetConfig) -> dict[str, ApiModel]:
    """All that the job will ask over HTTP, by their places in the config."""
    found: dict[str, ApiModel] = {
        f"upstreams.{name}": upstream
        for name, upstream in config.upstreams.items()
        if isinstance(upstream, Upstream)
    }
    for name, teacher in config.teachers.items():
        if isinstance(teacher, OpenAITeacher):
            found[f"teachers.{name}"] = teacher
    if config.judge is not None:
        found["judge"] = config.judge
    return found


def local_upstreams(config: BuildDatasetConfig) -> dict[str, LocalUpstream]:
    """The upstreams that the job runs itself, by name."""
    return {
        name: upstream
        for name, upstream in config.upstreams.items()
        if isinstance(upstream, LocalUpstream)
    }


def aligners(config: BuildDatasetConfig) -> dict[str, AlignerTeacher]:
    """The teachers that the job runs itself, by name."""
    return {
        name: teacher
        for name, teacher in config.teachers.items()
        if isinstance(teacher, AlignerTeacher)
    }


def require_alive(config: BuildDatasetConfig, table: pa.Table) -> None:
    """See that no worker found nobody behind an endpoint, again and again.

    Raises:
        EndpointError: One did; its rows are in ``table``.
    """
    gone = table.filter(pc.starts_with(table["reason"], GAVE_UP))
    if not gone.num_rows:
        return
    row = gone.slice(0, 1).to_pylist()[0]
    whose, endpoint = _asked_for(config, row)
    reason = row["reason"].removeprefix(GAVE_UP)
    raise EndpointError(
        f"{endpoint.base_url}: {whose} refused one request after the other ({reason}); nothing "
        "was written, see to it and run the same command again."
    )


def require_replies(config: BuildDatasetConfig, tally: Tally) -> None:
    """See that no more than ``max_failed_share`` of anybody's replies failed.

    Raises:
        GenerationError: More did; the reasons are counted.
    """
    for whose, step, upstream in _asked(config):
        reasons = tally.dropped(step, upstream=upstream)
        reasons = {name: rows for name, rows in reasons.items() if name not in VERDICTS}
        failed, total = sum(reasons.values()), tally.reached(step, upstream=upstream)
        if failed > config.max_failed_share * total:
            raise GenerationError(
                f"{config.out}: {failed} of {total} replies of {whose} failed "
                f"({listed(reasons)}), more than "
                f"max_failed_share={config.max_failed_share:g} permits; nothing was written, "
                "see to the endpoint or raise the limit."
            )


def _asked(config: BuildDatasetConfig) -> Iterator[tuple[str, Step, str | None]]:
    """Whom, at which step, and of which upstream the rows are."""
    for name in config.upstreams:
        yield f"upstream {name!r}", "answers", name
    yield _teachers(config), "corrections", None
    yield _THE_JUDGE, "judge", None


def _asked_for(config: BuildDatasetConfig, row: Row) -> tuple[str, Endpoint]:
    """Who was asked when ``row`` was dropped."""
    match row["step"]:
        case "judge" if config.judge is not None:
            return _THE_JUDGE, config.judge
        case "corrections" if isinstance(teacher := config.teachers[row["teacher"]], OpenAITeacher):
            return f"teacher {row['teacher']!r}", teacher
        case _:
            name = row["upstream"]
            return f"upstream {name!r}", endpoints(config)[f"upstreams.{name}"]


def _teachers(config: BuildDatasetConfig) -> str:
    return "the teacher" if len(config.teachers) == 1 else "the teachers"
