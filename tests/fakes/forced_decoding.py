"""An engine made to write texts that are known beforehand, by vLLM's ``worker_extension_cls``.

What a trained model would write is put on top of the logits of any other of its size, so that the
engine does all of its work and the tokens are those of real corrections. No draft is favoured: one
is taken if it is what the text goes on with.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SURE: Final = 1e4
"""A logit beside which all others are nothing."""


class ForcedDecoding:
    """Mixed into vLLM's worker; its methods are called by ``collective_rpc``."""

    model_runner: Any

    def force(self, texts: list[tuple[list[int], list[int]]]) -> None:
        """From now on each of these prompts is gone on with as given."""
        if not hasattr(self, "_texts"):
            self._wrap()
        self._texts = {
            tuple(prompt): np.array([*prompt, *written], dtype=np.int64)
            for prompt, written in texts
        }
        self._rows_and_checked: list[tuple[int, int]] = []

    def steps(self) -> list[tuple[int, int]]:
        """Of each step since the last call, the requests and the tokens that were checked."""
        taken, self._rows_and_checked = self._rows_and_checked, []
        return taken

    def _wrap(self) -> None:
        runner = self.model_runner
        prepare, compute = runner._prepare_inputs, runner.model.compute_logits
        asked: list[Any] = [None]

        def prepared(*args: Any, **kwargs: Any) -> Any:
            result = prepare(*args, **kwargs)
            asked[0] = result[0]
            return result

        def computed(hidden: Any, *args: Any, **kwargs: Any) -> Any:
            logits = compute(hidden, *args, **kwargs)
            if asked[0] is not None and len(asked[0]) == len(logits):
                wanted = self._wanted(asked[0].cpu().numpy())
                rows = np.flatnonzero(wanted >= 0)
                logits[rows, wanted[rows]] = _SURE
            return logits

        runner._prepare_inputs, runner.model.compute_logits = prepared, computed

    def _wanted(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What is to come behind each of the step's tokens at ``places``; -1 where nobody says."""
        runner, batch = self.model_runner, self.model_runner.input_batch
        ends = np.asarray(runner.query_start_loc.np[1 : batch.num_reqs + 1])
        rows = np.searchsorted(ends, places, side="right")
        positions = runner.positions[: int(places.max()) + 1].cpu().numpy()[places]
        self._rows_and_checked.append((batch.num_reqs, len(places)))
        wanted = []
        for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
            prompt = runner.requests[batch.req_ids[row]].prompt_token_ids
            text = self._texts.get(tuple(prompt))
            wanted.append(-1 if text is None else int(text[min(position + 1, len(text) - 1)]))
        return np.array(wanted)
