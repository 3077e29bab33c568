"""What follows when the rows of a dataset are written: gates, packs and the page for people."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from aligner import artefacts
from aligner.adapters.hf_tokenizer import TokenizerFiles
from aligner.dataset_gates import DatasetNumbers, hold
from aligner.errors import DataError, GateRefused
from aligner.manifest import PAGE_FILE, FunnelStep
from aligner.tracking import Run
from aligner_jobs.config.build_dataset import BuildDatasetConfig
from aligner_jobs.dataset_files import HELDOUT, TRAIN, WARMUP
from aligner_jobs.dataset_html import DatasetReport, mean_similarity, render
from aligner_jobs.dataset_profile import Profile
from aligner_jobs.packed_files import on_all_cores, tokenizer_files, write_packs
from aligner_jobs.tables import Tally

_NOT_QUALITY: Final = ("read", "answers", "corrections", "mix")
"""Steps whose losses have limits of their own, or are wanted."""


@dataclass(frozen=True, slots=True)
class Output:
    """What the end of the job needs; made before anything starts, so that mistakes show early."""

    config: BuildDatasetConfig
    tokenizer: TokenizerFiles | None
    profile: Profile = field(default_factory=Profile)

    @classmethod
    def prepare(cls, config: BuildDatasetConfig) -> Self:
        """Read the tokenizer, where one is wanted.

        Raises:
            DataError: There is no such tokenizer, or it has no EOS.
        """
        return cls(config, tokenizer_files(config.packing) if config.packing else None)

    def require_mixed(self, tally: Tally) -> None:
        """Raise :class:`DataError` where the mix asks for rows of a source that has none left."""
        for source in self.config.mix:
            left = [(None, None), ("mix", "over_share")]
            if not any(key[0] == source and key[2:] in left for key in tally.counts):
                raise DataError(
                    f"{self.config.out}: no row of source {source!r} is left, so the shares of mix "
                    "leave none of the others; take it out of mix and sources, or mend it."
                )

    def finish(
        self,
        folder: Path,
        record: Run,
        *,
        tally: Tally,
        counts: Mapping[str, int],
        funnel: Sequence[FunnelStep],
        facts: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Complete the dataset in ``folder`` and return ``facts`` with those of the packs.

        It runs inside a Ray session, since all cores tokenise.

        Raises:
            GateRefused: The rows as a whole are not fit to train on; the page stays beside ``out``.
        """
        report = self._report(folder, tally, counts, funnel, facts)
        record.log_metrics(
            {check.name.partition("_")[2]: check.measured for check in report.checks}
        )
        if report.failed:
            self._refuse(report, folder, record)
        if (packing := self.config.packing) is not None and self.tokenizer is not None:
            template = self.config.prompt.template
            packs = write_packs(
                folder,
                config=packing,
                files=self.tokenizer,
                template=template,
                spread=on_all_cores,
            )
            report = replace(report, facts={**facts, "packing": packs})
        _write_page(report, folder, record)
        return dict(report.facts)

    def _report(
        self,
        folder: Path,
        tally: Tally,
        counts: Mapping[str, int],
        funnel: Sequence[FunnelStep],
        facts: Mapping[str, Any],
    ) -> DatasetReport:
        compared = self.profile.compared()
        numbers = DatasetNumbers(
            copy_rate=self.profile.copy_rate,
            mean_similarity=mean_similarity(compared),
            dropped_share=dropped_share(funnel),
        )
        return DatasetReport(
            name=self.config.name,
            prompt=self.config.prompt.template,
            counts=counts,
            by_source={split: _sources(folder / split) for split in (TRAIN, HELDOUT, WARMUP)},
            funnel=funnel,
            tally=tally,
            profile=self.profile,
            compared=compared,
            checks=hold(numbers, self.config.gates),
            facts=facts,
        )

    def forget_refusal(self) -> None:
        """Remove the page beside ``out`` that tells why an earlier run was refused."""
        filesystem, path = artefacts.resolve(self._refusal_page)
        # The dataset is published by now; a page that cannot be removed is no reason to fail.
        with contextlib.suppress(OSError):
            filesystem.delete_file(path)

    @property
    def _refusal_page(self) -> str:
        return f"{self.config.out.rstrip('/')}.{PAGE_FILE}"

    def _refuse(self, report: DatasetReport, folder: Path, record: Run) -> None:
        _write_page(report, folder, record)
        page = self._refusal_page
        filesystem, path = artefacts.resolve(page)
        pafs.copy_files(str(folder / PAGE_FILE), path, pafs.LocalFileSystem(), filesystem)
        reasons = "; ".join(check.sentence for check in report.failed)
        raise GateRefused(
            f"{self.config.out}: not published, {len(report.failed)} of {len(report.checks)} gates "
            f"failed: {reasons}; see {page}, then mend the data or change gates knowingly."
        )


def dropped_share(funnel: Sequence[FunnelStep]) -> float:
    """Share of the finished rows that filters, duplicates and their like took; 0 for no rows."""
    steps = [step for step in funnel if step.step not in _NOT_QUALITY]
    rows_in = steps[0].rows_in if steps else 0
    return sum(step.rows_in - step.rows_out for step in steps) / max(1, rows_in)


def _write_page(report: DatasetReport, folder: Path, record: Run) -> None:
    (folder / PAGE_FILE).write_text(render(report), encoding="utf-8")
    record.log_artifact(folder / PAGE_FILE, folder="dataset")


def _sources(folder: Path) -> Counter[str]:
    """Rows of each source in one split; only that column is read."""
    column = pq.read_table(folder, columns=["source"], read_dictionary=["source"])["source"]
    return Counter(
        {one["values"] or "": one["counts"] for one in column.value_counts().to_pylist()}
    )
