"""``aligner quickstart``: the whole road on one machine, in a simulated world.

Each stage is the very command that a user would run, as a child process with the shipped config
and a few ``--set``; this module only walks from one to the next and tells what came out.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.markup import escape

from aligner.adapters.simworld_http import SimworldServer
from aligner.errors import DataError
from aligner.judging import DIMENSIONS, is_perfect
from aligner.records import Question
from aligner.reports import EvaluationReport, read_report
from aligner.simworld import profiles
from aligner.simworld.judge import SimJudge
from aligner.simworld.questions import heldout_questions
from aligner.simworld.world import World
from aligner.worddiff import word_diff
from aligner_jobs import programs
from aligner_jobs.config.quickstart import QuickstartConfig
from aligner_jobs.report_table import show_report
from aligner_jobs.runtime import free_port, ray_session, sigterm_as_interrupt

_MODEL = "simworld-aligner"
_SERVE_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """The one real request at the end."""

    model: str
    question: str
    answer: str
    """What the upstream said."""
    reply: str
    """What the service returned."""
    outcome: str


@dataclass(frozen=True, slots=True)
class Summary:
    """``summary.json``."""

    seed: int
    seconds: dict[str, float]
    """Wall seconds per stage, and ``total``."""
    upstreams: dict[str, Any]
    """Name to counts and rates; omega, attainable, low and high in percent."""
    overall: dict[str, Any]
    model_version: str
    dataset_manifest: str
    report: str
    tracking_uri: str
    served: ServedRequest


class _Road:
    """Where things lie, and how long each stage took."""

    def __init__(self, config: QuickstartConfig, console: Console) -> None:
        self.config = config
        self.console = console
        self.out = Path(config.out).absolute()
        self.seconds: dict[str, float] = {}
        self.tracking = (
            f"tracking.uri=sqlite:///{self.out / 'mlflow.db'}",
            f"tracking.artifacts={self.out / 'mlartifacts'}",
            "tracking.experiment=quickstart",
        )

    @contextlib.contextmanager
    def stage(self, name: str, purpose: str) -> Iterator[None]:
        """Announce a stage and time it."""
        self.console.rule(f"[bold]{name}[/]  {purpose}", align="left")
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.console.print(f"[dim]{name}: {self.seconds[name]:.0f} s[/]")

    def job(self, name: str, file: str, *sets: str, env: dict[str, str]) -> None:
        """Run one of the jobs with its shipped config."""
        path = programs.shipped_config("jobs", f"{name}/{file}")
        programs.run(programs.command(name, path, (*sets, *self.tracking)), env)


def run(config: QuickstartConfig) -> Summary:
    """Walk the road and leave ``summary.json``; Ctrl-C and SIGTERM end every child."""
    console = Console()
    road = _Road(config, console)
    road.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with sigterm_as_interrupt(), contextlib.ExitStack() as stack:
        with road.stage("start", "Ray, and eleven simulated upstreams behind an HTTP API"):
            address = stack.enter_context(ray_session())
            simworld = stack.enter_context(SimworldServer(config.seed))
        env = {"RAY_ADDRESS": address}
        _make(road, simworld.base_url, env)
        _, report = read_report(str(road.out / "report"))
        with road.stage("serve", "gateway, upstream and corrector, and one request to them"):
            served, version = _serve_and_ask(road, simworld.base_url, env)
    road.seconds["total"] = round(time.monotonic() - start, 1)
    summary = Summary(
        seed=config.seed,
        seconds=road.seconds,
        upstreams={n: one.model_dump(mode="json") for n, one in report.upstreams.items()},
        overall=report.overall.model_dump(mode="json"),
        model_version=version,
        dataset_manifest=str(road.out / "dataset" / "manifest.json"),
        report=str(road.out / "report" / "report.html"),
        tracking_uri=f"sqlite:///{road.out / 'mlflow.db'}",
        served=served,
    )
    text = json.dumps(asdict(summary), indent=2, ensure_ascii=False) + "\n"
    (road.out / "summary.json").write_text(text, encoding="utf-8")
    _print_summary(road, summary, report)
    return summary


def _make(road: _Road, base_url: str, env: dict[str, str]) -> None:
    """Dataset, training, evaluation and promotion."""
    config, out = road.config, road.out
    with road.stage("build-dataset", "questions -> answers -> corrections -> rows"):
        road.job(
            "build-dataset",
            "simworld.yaml",
            f"out={out / 'dataset'}",
            f"seed={config.seed}",
            f"base_url={base_url}",
            *config.build_dataset,
            env=env,
        )
    with road.stage("train", "identity warm-up, then correction; export and registration"):
        road.job(
            "train",
            "tiny.yaml",
            f"dataset={out / 'dataset'}",
            f"out={out / 'train'}",
            f"register_as={_MODEL}",
            *config.train,
            env=env,
        )
    with road.stage("evaluate", "held-out questions to all eleven upstreams, corrected, judged"):
        road.job(
            "evaluate",
            "simworld.yaml",
            f"out={out / 'report'}",
            f"seed={config.seed}",
            f"base_url={base_url}",
            f"model={_MODEL}",
            *config.evaluate,
            env=env,
        )
    with road.stage("promote", "the gate, then the alias champion"):
        road.job("promote", "default.yaml", f"report={out / 'report'}", *config.promote, env=env)


def _serve_and_ask(road: _Road, base_url: str, env: dict[str, str]) -> tuple[ServedRequest, str]:
    """Serve the champion, send one request through the official client, and stop serving."""
    port = free_port()
    ready = road.out / "serve-ready.json"
    ready.unlink(missing_ok=True)
    arguments = programs.command(
        "serve",
        programs.shipped_config("serve", "quickstart.yaml"),
        (f"port={port}", f"base_url={base_url}", *road.tracking, *road.config.serve),
    )
    with programs.running([*arguments, "--ready-file", str(ready)], env) as process:
        deadline = time.monotonic() + _SERVE_PATIENCE_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise programs.ProgramFailed("aligner serve did not come up; see its message.")
            time.sleep(0.2)
        state = json.loads(ready.read_text(encoding="utf-8"))
        return _ask(road, str(state["url"])), ", ".join(state["versions"].values())


def _ask(road: _Road, url: str) -> ServedRequest:
    config = road.config
    question = flawed_question(config)
    client = OpenAI(base_url=f"{url}/v1", api_key="unused", timeout=120)
    models = [model.id for model in client.models.list() if model.id.startswith(config.upstream)]
    if not models:
        raise DataError(f"{url}: serves no model over {config.upstream!r}; check --set upstream.")
    reply = client.chat.completions.create(
        model=models[0],
        messages=[{"role": "user", "content": question}],
        extra_body={"aligner": {"include_original": True}},
    )
    told: dict[str, Any] = (reply.model_extra or {}).get("aligner", {})
    return ServedRequest(
        model=models[0],
        question=question,
        answer=str(told.get("original", "")),
        reply=reply.choices[0].message.content or "",
        outcome=str(told.get("outcome", "")),
    )


def flawed_question(config: QuickstartConfig) -> str:
    """A held-out question that the upstream answers badly but not at a loss for words."""
    world = World(config.seed)
    judge = SimJudge(world)

    def badness(question: Question) -> tuple[int, int]:
        answer = profiles.answer(world, config.upstream, question)
        scores = judge.scores(question, answer)
        flaws = sum(scores[dimension] < 1 for dimension in DIMENSIONS)
        return (flaws, len(answer)) if not is_perfect(scores) else (0, 0)

    return max(heldout_questions(world, 200), key=badness).question


def _print_summary(road: _Road, summary: Summary, report: EvaluationReport) -> None:
    console, out = road.console, road.out
    console.rule("[bold]What came out[/]", align="left")
    show_report(console, report, uri=str(out / "report"))
    served = summary.served
    console.print(f"\n[bold]One request to {escape(served.model)}[/] ({served.outcome})")
    console.print(f"question:   {escape(served.question)}")
    console.print(f"answer:     {escape(served.answer)}")
    console.print(f"correction: {escape(served.reply)}")
    console.print(f"diff:       {markup_diff(served.answer, served.reply)}\n")
    minutes, seconds = divmod(round(summary.seconds["total"]), 60)
    console.print(f"[bold]{summary.model_version}[/] is champion; {minutes} min {seconds} s.")
    console.print(f"report:     {out / 'report' / 'report.html'}")
    console.print(f"summary:    {out / 'summary.json'}")
    console.print("\nSee runs, lineage and the registry:")
    console.print(f"  mlflow ui --backend-store-uri {summary.tracking_uri}", soft_wrap=True)
    console.print("Serve it yourself (the simulated upstreams in a second terminal):")
    console.print(f"  aligner simworld --seed {summary.seed} --port 8100")
    console.print(
        f"  aligner serve --config {_short(programs.shipped_config('serve', 'quickstart.yaml'))}"
        f" --set tracking.uri={summary.tracking_uri}",
        soft_wrap=True,
    )


def markup_diff(answer: str, correction: str) -> str:
    """Words taken out in red, words put in in green, as rich markup that reads without colour."""
    marks = {"same": "{}", "removed": "[red strike]\\[-{}-][/]", "added": "[green]{{+{}+}}[/]"}
    return "".join(
        marks[piece.kind].format(escape(piece.text)) for piece in word_diff(answer, correction)
    )


def _short(path: Path) -> str:
    """``path`` relative to where the user stands, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
