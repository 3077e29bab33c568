"""Ray's server around vLLM: it starts the engine, places it and ends it."""

import os
import tempfile
from pathlib import Path
from typing import Any, Final

MODEL: Final = "model"
"""What the engine calls its own weights."""

_LONGEST_SOCKET: Final = 107 - len("/01234567-89ab-cdef-0123-456789abcdef")
"""Characters of the folder of a Unix socket that vLLM names."""


def of(folder: Path, arguments: dict[str, Any], reserved: list[dict[str, float]]) -> Any:
    """The server of the model in ``folder``, not started yet."""
    on_cpu = not any("GPU" in bundle for bundle in reserved)
    if on_cpu:
        # vLLM reads these while it is imported. It would pin the threads of every engine of a
        # machine to the same cores; Ray says how many threads a replica may have.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if (sockets := _socket_folder()) is not None:
        os.environ.setdefault("VLLM_RPC_BASE_PATH", sockets)
    from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackConfig
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

    class WeightsAreHere(CallbackBase):
        """Without it a task on this node imports vLLM once more, to download nothing."""

        async def on_before_node_init(self) -> None:
            self.ctx.run_init_node = False

    class InOneProcess(VLLMEngine):
        """On a CPU Ray would have the model in a process of its own behind the engine's.

        It starts as slowly as the engine itself, and the two of them spin while they wait for one
        another: each would take a core of its own.
        """

        def _start_async_llm_engine(self, arguments: Any, config: Any, group: Any) -> Any:
            config.parallel_config.distributed_executor_backend = "uni"
            return super()._start_async_llm_engine(arguments, config, group)

    class Unreported(LLMServer):
        """Else an actor that counts who uses what imports all of this once more, and is waited for,
        even where Ray reports nothing."""

        async def _start_engine(self) -> None:
            assert self.engine is not None
            await self.engine.start()  # type: ignore[no-untyped-call]

    return Unreported.sync_init(
        LLMConfig(
            model_loading_config={"model_id": MODEL, "model_source": str(folder)},
            engine_kwargs=arguments,
            # Reserved by the deployment already; here it tells Ray what kind of machine it is.
            placement_group_config={"bundles": reserved},
            log_engine_metrics=False,
            callback_config=CallbackConfig(callback_class=WeightsAreHere),
        ),
        engine_cls=InOneProcess if on_cpu else None,
    )


def _socket_folder() -> str | None:
    """Where vLLM's sockets may lie, so that those of an engine that was killed go with Ray's files.

    ``None``: Ray does not run here, or its folder's name is too long for a socket.
    """
    import ray

    if not ray.is_initialized():
        return None
    root = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
    folder = Path(root) / "ray" / ray.get_runtime_context().get_session_name() / "sockets"
    return str(folder) if folder.is_dir() and len(str(folder)) <= _LONGEST_SOCKET else None
