"""``aligner promote``: hold a report against the gate, then point an alias to its version."""

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aligner.errors import ConfigError, ContractMismatch, GateRefused
from aligner.exports import HASH_TAG
from aligner.gates import Check, run_gate
from aligner.reports import EvaluationReport, read_report
from aligner.tracking import ModelVersion, Tracker
from aligner_jobs.config.promote import PromoteConfig


@dataclass(frozen=True, slots=True)
class PromoteResult:
    """What was promoted, and the checks that it passed."""

    version: ModelVersion
    alias: str
    checks: tuple[Check, ...]


def run(config: PromoteConfig, *, tracker: Tracker | None = None) -> PromoteResult:
    """Promote the judged version if the report passes every check of the gate.

    The version is tagged with the outcome either way.

    Raises:
        GateRefused: A check failed; the sentence names each with its numbers.
        ContractMismatch: The report judged other weights than those that are registered.
        ConfigError: The report is of an export that is not registered.
        DataError: There is no such report, model or version.
    """
    _, report = read_report(config.report)
    name, number = _wanted(config, report)
    tracker = tracker or _tracker(config)
    version = tracker.version(name, number)
    _require_judged(version, report, config)
    checks = run_gate(report, config.gate)
    _show(Console(), checks, version)
    failed = [check for check in checks if not check.passed]
    tracker.set_version_tags(name, version.version, _tags(config, failed))
    if failed:
        reasons = "; ".join(check.sentence for check in failed)
        raise GateRefused(
            f"{version.uri}: not promoted to {config.alias}, {len(failed)} of {len(checks)} "
            f"checks failed: {reasons}; train a better one, or change the gate knowingly."
        )
    tracker.set_alias(name, config.alias, version.version)
    Console().print(f"[bold]{escape(version.uri)}[/] is {config.alias} now.")
    return PromoteResult(version, config.alias, checks)


def _wanted(config: PromoteConfig, report: EvaluationReport) -> tuple[str, str]:
    name = config.model or report.model.name
    number = config.version or report.model.version
    if name is None or number is None:
        raise ConfigError(
            f"{config.report}: judged an export that was given by its path; register it, then "
            "name it by model and version, or evaluate the registered version."
        )
    return name, number


def _require_judged(version: ModelVersion, report: EvaluationReport, config: PromoteConfig) -> None:
    registered = version.tags.get(HASH_TAG)
    if registered != report.model.export_hash:
        raise ContractMismatch(
            f"{config.report}: judged the export {report.model.export_hash[:12]}, "
            f"{version.uri} is {registered[:12] if registered else 'registered without a hash'}; "
            "evaluate that version and promote it with its own report."
        )


def _tags(config: PromoteConfig, failed: list[Check]) -> dict[str, str]:
    return {
        "gate": "refused" if failed else "passed",
        "gate_failed": ", ".join(check.name for check in failed),
        "gate_report": config.report,
    }


def _show(console: Console, checks: tuple[Check, ...], version: ModelVersion) -> None:
    table = Table(title=f"the gate for {escape(version.uri)}")
    table.add_column("check")
    table.add_column("measured", justify="right")
    table.add_column("threshold", justify="right")
    table.add_column("")
    for check in checks:
        place = f" [dim]({escape(check.where)})[/]" if check.where else ""
        verdict = "[green]passed[/]" if check.passed else "[bold red]FAILED[/]"
        table.add_row(
            f"{check.name}{place}", f"{check.measured:.4g}", f"{check.threshold:.4g}", verdict
        )
    console.print(table)


def _tracker(config: PromoteConfig) -> Tracker:
    # Seconds to import; a missing report must not wait for it.
    from aligner.adapters.mlflow_tracker import MlflowTracker

    return MlflowTracker(config.tracking)
