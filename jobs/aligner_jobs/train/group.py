"""Running the worker group: Ray Train, its failures as sentences, and news on the way."""

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import ray
from ray.exceptions import RayActorError
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import (
    ControllerError,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.v2.api.result import Result
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from aligner.errors import AlignerError, ConfigError, TrainingError
from aligner_jobs import runtime
from aligner_jobs.config.train import TrainConfig
from aligner_jobs.train.beside import validation
from aligner_jobs.train.checkpoints import SCORE
from aligner_jobs.train.material import Material
from aligner_jobs.train.progress import Board, News
from aligner_jobs.train.storage import forget_broken_list, open_storage
from aligner_jobs.train.worker import Outcome, train_loop

_POLL_S = 0.5


def run_group(
    config: TrainConfig, material: Material, *, on_news: Callable[[News], None]
) -> Outcome:
    """Train with ``config.num_workers`` processes; ``on_news`` is called in this thread.

    SIGTERM lets the workers write a checkpoint first, if they have begun; a second one does not.

    Raises:
        ConfigError: This machine has not what the workers ask for.
        TrainingError: Training cannot go on; the sentence says why.
        KeyboardInterrupt: After SIGTERM.
    """
    if not os.environ.get("RAY_ADDRESS"):
        require_resources(config, ray.cluster_resources())  # type: ignore[no-untyped-call]
    # On the driver's own machine: losing any other one must not end the run.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(num_cpus=0)(cast(Any, Board)).options(scheduling_strategy=here).remote()
    job = {
        "config": config.model_dump(mode="json"),
        "material": ray.put(material),
        "board": board,
    }
    fit = _Background(partial(_fit, config, material, job))
    running, begun = True, False
    with runtime.sigterm_noticed() as noticed:
        while running:
            running = fit.running(wait_s=_POLL_S)
            for news in ray.get(board.take.remote()):
                on_news(news)
                begun = True
            if noticed.is_set():
                if not begun:
                    raise KeyboardInterrupt
                board.stop.remote()
    outcome = _outcome(fit, config)
    if outcome.stopped:
        raise KeyboardInterrupt
    if outcome.failure is not None:
        raise outcome.failure
    return outcome


def _fit(config: TrainConfig, material: Material, job: dict[str, Any]) -> Result:
    """Train; Ray Train itself does not start again where a worker dies before all have started."""
    failures = 0
    while True:
        try:
            return cast(Result, _trainer(config, material, job).fit())
        except ControllerError as exc:
            failures += 1
            if failures > config.max_failures or not _lost_a_worker(exc):
                raise


def _lost_a_worker(error: ControllerError) -> bool:
    return isinstance(error.controller_failure, RayActorError)


def _trainer(config: TrainConfig, material: Material, job: dict[str, Any]) -> Any:
    filesystem, path = open_storage(f"{config.out}/checkpoints")
    forget_broken_list(filesystem, f"{path}/{material.run_name}")
    # Ray's stubs describe trainer and RunConfig as they were before V2.
    return cast(Any, TorchTrainer)(
        train_loop,
        train_loop_config=job,
        validation_config=validation(config, job),
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cast(Any, _workers(config)),
            use_gpu=config.use_gpu,
            resources_per_worker=_resources(config),
        ),
        run_config=cast(Any, RunConfig)(
            # A name that was used before continues that run from its last checkpoint.
            name=material.run_name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.checkpoints.keep,
                checkpoint_score_attribute=SCORE,
                checkpoint_score_order="min",
            ),
            # The driver tells what happens; Ray's own files keep every level all the same.
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _workers(config: TrainConfig) -> int | tuple[int, int]:
    """Ray Train takes a pair where their number may change."""
    if config.min_workers is None or config.min_workers == config.num_workers:
        return config.num_workers
    return (config.min_workers, config.num_workers)


def _resources(config: TrainConfig) -> dict[str, float]:
    gpu = {"GPU": 1.0} if config.use_gpu else {}
    return {"CPU": float(config.cpus_per_worker), **gpu}


def require_resources(config: TrainConfig, offered: Mapping[str, float]) -> None:
    """A private Ray never grows: say now what is lacking, instead of waiting for ever.

    Raises:
        ConfigError: The workers ask for more than ``offered``.
    """
    for name, each in _resources(config).items():
        fewest = config.min_workers or config.num_workers
        wanted, there = each * fewest, offered.get(name, 0.0)
        if wanted > there:
            raise ConfigError(
                f"num_workers={fewest}: they want {wanted:g} {name}, this machine "
                f"offers {there:g}; lower it, or set RAY_ADDRESS to a larger cluster."
            )


def _outcome(fit: "_Background", config: TrainConfig) -> Outcome:
    try:
        outcome = fit.result().return_value
    except TrainingFailedError as exc:
        raise _sentence(exc, config) from exc
    assert isinstance(outcome, Outcome)
    return outcome


def _sentence(error: TrainingFailedError, config: TrainConfig) -> AlignerError:
    """Our own error where a worker raised one, else what happened to the first worker."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for failure in failures.values():
        for candidate in (failure, getattr(failure, "cause", None)):
            if isinstance(candidate, AlignerError):
                return candidate
    if any(not isinstance(failure, RayActorError) for failure in failures.values()):
        # Nobody foresaw this one: its traceback is needed to mend it.
        Console(stderr=True).print(str(error), markup=False, highlight=False)
    unknown = error.controller_failure if isinstance(error, ControllerError) else error
    rank, first = next(iter(failures.items()), (0, unknown))
    what = str(first).strip().splitlines()[0] if str(first).strip() else type(first).__name__
    return TrainingError(
        f"{config.out}: training stopped after {config.max_failures} restarts, worker {rank} "
        f"failed ({what}); run the same command again to go on from the last checkpoint."
    )


class _Background:
    """A call in a thread that does not keep the program alive: an interrupt must not wait."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def running(self, *, wait_s: float) -> bool:
        """Whether the call is still running after at most ``wait_s``."""
        self._thread.join(wait_s)
        return self._thread.is_alive()

    def result(self) -> Result:
        """What the call returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as exc:
            self._error = exc
