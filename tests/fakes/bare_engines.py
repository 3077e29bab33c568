"""An upstream's and an Aligner's engine with nothing around them: what vLLM alone would do.

In a process of its own, prompts as token ids, replies as token ids. It drives both engines itself.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Self, TextIO

_READY = "engines are up"


class BareEngines:
    """Both engines, for the length of a ``with`` block."""

    def __init__(
        self,
        folder: Path,
        *,
        models: tuple[Path, Path],
        arguments: tuple[dict[str, Any], dict[str, Any]],
        asked: list[tuple[list[int], list[int]]],
    ) -> None:
        """Upstream first; ``arguments`` are vLLM's, ``asked`` each request's prompts for both."""
        self._spec = folder / "bare.json"
        self._spec.write_text(
            json.dumps(
                {
                    "models": [str(model) for model in models],
                    "arguments": arguments,
                    "asked": asked,
                }
            )
        )
        self._log = (folder / "bare.log").open("w")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        # As for a replica with one CPU.
        env = {
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._spec)],
            env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._line() == _READY
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None and self._process.stdin is not None
        # It ends when its input does, whatever happens here.
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._log.close()

    def run(self, begin: int, requests: int, *, in_flight: int) -> tuple[float, list[list[int]]]:
        """Seconds that so many requests took from number ``begin`` on, and what was written."""
        assert self._process is not None and self._process.stdin is not None
        print(json.dumps([begin, requests, in_flight]), file=self._process.stdin, flush=True)
        seconds, replies = json.loads(self._line())
        return seconds, replies

    def _line(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line.strip()
        log = Path(self._log.name).read_text()
        raise AssertionError(f"the engines have ended: {log[-3000:]}")


async def _drive(spec: dict[str, Any], told: TextIO) -> None:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    engines = [
        AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **arguments))
        for model, arguments in zip(spec["models"], spec["arguments"], strict=True)
    ]
    wanted = SamplingParams(
        max_tokens=1024,
        temperature=0.0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )

    async def ask(number: int) -> list[int]:
        found: list[int] = []
        for engine, prompt in zip(engines, spec["asked"][number], strict=True):
            items = engine.generate({"prompt_token_ids": prompt}, wanted, uuid.uuid4().hex)
            async for item in items:
                found = list(item.outputs[0].token_ids)
        return found

    print(_READY, file=told, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        begin, requests, in_flight = json.loads(line)
        left, replies = iter(range(begin, begin + requests)), list[list[int]]()

        async def one_after_the_other(left: Any = left, replies: list[list[int]] = replies) -> None:
            for number in left:
                replies.append(await ask(number))

        started = time.perf_counter()
        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
        seconds = time.perf_counter() - started
        print(json.dumps([seconds, replies]), file=told, flush=True)
    for engine in engines:
        engine.shutdown()


def main() -> None:
    """Called by :class:`BareEngines`."""
    # Ray's own for its workers: otherwise what else the machine does would slow only them.
    os.nice(15 - os.nice(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    spec = json.loads(parser.parse_args().spec.read_text())
    # vLLM's processes write to standard output, too, at any time and not always whole lines.
    with os.fdopen(os.dup(1), "w") as told:
        os.dup2(2, 1)
        asyncio.run(_drive(spec, told))


if __name__ == "__main__":
    main()
