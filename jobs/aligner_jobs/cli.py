"""The ``aligner`` command: parse and validate first, import the heavy parts only then.

Commands of other packages (``serve``) are found through the entry point group
``aligner.commands``, so that jobs and serving need not know one another.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_PLUGINS = "aligner.commands"


class AlignerCommands(click.Group):
    """Adds installed commands, and turns errors made on purpose into one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of our own and of the installed commands."""
        return sorted({*super().list_commands(ctx), *_plugins()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Our own command, else the installed one of that name."""
        if (own := super().get_command(ctx, cmd_name)) is not None:
            return own
        entry = _plugins().get(cmd_name)
        return entry.load() if entry else None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an :class:`AlignerError` becomes a line on stderr and an exit code."""
        from aligner.errors import AlignerError

        try:
            return super().invoke(ctx)
        except AlignerError as exc:
            # Ray wraps what a worker raised and keeps the original as ``cause``.
            cause = getattr(exc, "cause", None)
            error = cause if isinstance(cause, AlignerError) else exc
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; run the same command again to go on.", err=True)
            sys.exit(130)


def _plugins() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=_PLUGINS)}


@click.group(cls=AlignerCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aligner-platform", prog_name="aligner")
def main() -> None:
    """Train, judge, register and serve Aligners: models that correct other models' answers.

    Every command reads one YAML file; --set changes single keys of it. To see the whole road
    once on this machine, run: aligner quickstart
    """


def _overridable(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one key of the file, for example --set seed=7; may be repeated.",
    )(command)


def _configured(command: Callable[..., None]) -> Callable[..., None]:
    """The two options that every job has."""
    command = _overridable(command)
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        required=True,
        help="YAML file; ready ones lie in jobs/configs/.",
    )(command)


def _run(job: str, config_class: str, path: Path, overrides: tuple[str, ...]) -> None:
    """Validate the config, then import ``aligner_jobs.<job>`` and run it."""
    from aligner.config import load
    from aligner.runtime_env import collect_rarely

    collect_rarely()
    settings = importlib.import_module(f"aligner_jobs.config.{job.split('.')[0]}")
    config = load(getattr(settings, config_class), path, overrides)
    importlib.import_module(f"aligner_jobs.{job}").run(config)


@main.command("build-dataset")
@_configured
def build_dataset(config: Path, overrides: tuple[str, ...]) -> None:
    """Questions -> answers -> corrections -> a filtered, split dataset."""
    _run("build_dataset", "BuildDatasetConfig", config, overrides)


@main.command()
@click.option(
    "--config", type=click.Path(path_type=Path), help="YAML file; ready ones lie in jobs/configs/."
)
@_overridable
@click.option(
    "--sizes",
    metavar="NAMES",
    help="Instead of --config, several at once: shipped configs (0.5b,2b,7b) or files of yours.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Say what it would take; start nothing.")
@click.option("--json", "as_json", is_flag=True, help="The plan for other programs.")
def train(
    config: Path | None,
    overrides: tuple[str, ...],
    sizes: str | None,
    only_plan: bool,
    as_json: bool,
) -> None:
    """Dataset -> Aligner: identity warm-up, then correction, exported and registered."""
    if (config is None) == (sizes is None):
        raise click.UsageError("Name either one --config or several --sizes.")
    if as_json and not only_plan:
        raise click.UsageError("--json goes with --plan.")
    if config is not None and not only_plan:
        _run("train.driver", "TrainConfig", config, overrides)
        return
    from aligner_jobs.train.size import folder_of, size_of, sizes_of

    found = [size_of(config, overrides)] if config else sizes_of(sizes or "", overrides)
    if only_plan:
        importlib.import_module("aligner_jobs.train.planner").run(found, as_json=as_json)
    else:
        importlib.import_module("aligner_jobs.train.sizes").run(found, folder_of(overrides))


@main.command()
@_configured
def evaluate(config: Path, overrides: tuple[str, ...]) -> None:
    """Correct held-out answers of every upstream and judge them: report and metrics."""
    _run("evaluate", "EvaluateConfig", config, overrides)


@main.command()
@_configured
def promote(config: Path, overrides: tuple[str, ...]) -> None:
    """Put a judged model version through the gate and point an alias to it."""
    _run("promote", "PromoteConfig", config, overrides)


@main.command()
@_configured
def cost(config: Path, overrides: tuple[str, ...]) -> None:
    """What correcting costs, from measured rates: tokens, device-seconds, money and replicas."""
    _run("cost", "CostConfig", config, overrides)


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("quickstart"),
    show_default=True,
    help="Folder for everything the run makes.",
)
@click.option("--seed", default=0, show_default=True, help="Another seed is another world.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a default.")
def quickstart(out: Path, seed: int, overrides: tuple[str, ...]) -> None:
    """The whole road on this machine, in a simulated world, ending with a served request."""
    from aligner.config import validate_overrides
    from aligner_jobs.config.quickstart import QuickstartConfig

    config = validate_overrides(QuickstartConfig, {"out": str(out), "seed": seed}, overrides)
    importlib.import_module("aligner_jobs.quickstart").run(config)


@main.command()
@click.option("--seed", default=0, show_default=True, help="Of the world.")
@click.option("--port", default=8100, show_default=True, help="On loopback.")
@click.option("--latency-s", default=0.0, show_default=True, help="Added to each reply.")
@click.option("--word-s", default=0.0, show_default=True, help="Added for each word of a stream.")
@click.option("--fault-rate", default=0.0, show_default=True, help="Share of replies that fail.")
def simworld(seed: int, port: int, latency_s: float, word_s: float, fault_rate: float) -> None:
    """Serve the simulated upstreams as an OpenAI-compatible API."""
    from aligner.adapters.simworld_http import serve

    serve(seed=seed, port=port, latency_s=latency_s, word_s=word_s, fault_rate=fault_rate)


if __name__ == "__main__":
    main()
