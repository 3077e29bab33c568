"""Scores of a prompt's tokens at the price of those that are wanted, inside vLLM's worker.

vLLM 0.29 scores all tokens of a prompt or none, and its runner without Triton holds a row of the
vocabulary for each of them, several times over: for 4,000 tokens and 256,000 words gigabytes, which
on a GPU nobody has set aside. Here a few rows at a time are scored, and only from the token on that
the request names. The scores are the same.
"""

from types import MethodType
from typing import Any, Final

_SCORED_FROM: Final = "scored_from"
"""Key of a request's ``extra_args``: index of the first token that is to be scored, 1 or more."""

_OWN: Final = "_get_prompt_logprobs_dict"
"""The method of vLLM's runner that is replaced; its newer runner scores in pieces by itself."""

_ROWS: Final = 128
"""Scored at once: enough for a matrix product, and few enough for a CPU's cache."""


class Scoring:
    """What vLLM adds to its worker."""

    model_runner: Any

    def score_in_pieces(self) -> None:
        """Do so from now on."""
        if hasattr(self.model_runner, _OWN):
            setattr(self.model_runner, _OWN, MethodType(_scores_by_request, self.model_runner))


def engine_arguments() -> dict[str, Any]:
    """vLLM's engine arguments for an engine that is then told :meth:`Scoring.score_in_pieces`."""
    return {"worker_extension_cls": f"{Scoring.__module__}.{Scoring.__qualname__}"}


def request_arguments(scored_from: int) -> dict[str, Any]:
    """vLLM's sampling parameters for the scores of a prompt's tokens from that index on."""
    return {
        "prompt_logprobs": 0,
        "flat_logprobs": True,
        "extra_args": {_SCORED_FROM: scored_from},
    }


def _scores_by_request(
    runner: Any, hidden_states_TH: Any, scheduled: dict[str, int]
) -> dict[str, Any]:
    """The scores of each prompt that has been read to its end.

    T are the tokens of this step, those of a request side by side; H is the model's width.
    """
    from vllm.v1.outputs import LogprobsTensors

    finished = {}
    for name in list(runner.num_prompt_logprobs):
        # One that was preempted has no tokens in this step.
        if (tokens := scheduled.get(name)) is None:
            continue
        request = runner.requests[name]
        ids, done = request.prompt_token_ids, request.num_computed_tokens
        scores = request.in_progress_prompt_logprobs_cpu
        if scores is None:
            scores = LogprobsTensors.empty_cpu(len(ids) - 1, 1)
            request.in_progress_prompt_logprobs_cpu = scores
        begin = max(done, (request.sampling_params.extra_args or {}).get(_SCORED_FROM, 1) - 1)
        # Behind the prompt's last token stands none of it.
        end = min(done + tokens, len(ids) - 1)
        row = runner.input_batch.req_id_to_index[name]
        first = int(runner.query_start_loc.np[row]) - done
        for at in range(begin, end, _ROWS):
            rows = slice(at, min(at + _ROWS, end))
            logits_RV = runner.model.compute_logits(
                hidden_states_TH[first + rows.start : first + rows.stop]
            )
            _score(logits_RV, ids[rows.start + 1 : rows.stop + 1], scores, rows)
        if done + tokens >= len(ids):
            del runner.num_prompt_logprobs[name]
            request.in_progress_prompt_logprobs_cpu = None
            finished[name] = scores
    if finished:
        # The copies to the CPU need not have come to their end.
        runner._sync_device()
    return finished


def _score(logits_RV: Any, next_ids: list[int], scores: Any, rows: slice) -> None:
    """Log-probability and rank of the token behind each of R rows; V is the vocabulary's size."""
    logits_RV = logits_RV.float()
    held = scores.logprob_token_ids
    next_ids_R1 = held.new_tensor(next_ids, device=logits_RV.device).long()[:, None]
    chosen_R1 = logits_RV.gather(1, next_ids_R1)
    held[rows].copy_(next_ids_R1, non_blocking=True)
    scores.logprobs[rows].copy_(chosen_R1 - logits_RV.logsumexp(1, keepdim=True), non_blocking=True)
    # As many as are at least as likely, the token itself among them.
    scores.selected_token_ranks[rows].copy_((logits_RV >= chosen_R1).sum(1), non_blocking=True)
