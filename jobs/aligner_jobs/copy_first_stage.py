"""The stage of ``ray.data.llm`` in whose engine rows are read first; importing it is slow.

A processor has one request for a row, and two processors would be two engines with the same
weights. So the stage's own class is replaced by one that puts both requests to its engine.
"""

import functools
from typing import Any

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

from aligner_jobs.copy_first import copy_first

_STAGE = "vLLMEngineStage"


class CopyFirst(vLLMEngineStageUDF):
    """The engine in its worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start it."""
        super().__init__(*args, **kwargs)
        engine: Any = self.llm
        engine.generate_async = functools.partial(copy_first, engine.generate_async)


def read_copies_first(processor: Any) -> None:
    """Let the engine of ``processor`` treat its rows as :func:`copy_first` says."""
    stage = processor.get_stage_by_name(_STAGE)
    # Setting the field would validate the stage again, which then asks for a GPU.
    processor.stages[_STAGE] = stage.model_copy(update={"fn": CopyFirst})
