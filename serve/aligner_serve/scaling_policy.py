"""When a deployment gets more replicas or fewer: by requests, and by the tokens they come to.

Ray Serve's own policy counts requests. One request may be a hundred times another, and an engine
that is busy for minutes with a few long ones looks idle. So an engine also tells how many tokens
it has still to read or write, and the larger need counts.

Serve pickles this module by value and runs it in its controller: it imports nothing of ours.
"""

from typing import Any, Final

QUEUED_TOKENS: Final = "queued_tokens"
"""What ``record_autoscaling_stats`` of a replica calls its tokens."""

PATH: Final = f"{__name__}:RequestsAndTokens"
"""How Serve finds the policy."""


def wanted_replicas(
    *,
    ongoing_requests: float,
    queued_requests: float,
    queued_tokens: float,
    target_ongoing_requests: float,
    target_queued_tokens: float | None,
) -> float:
    """How many replicas the load is worth, between 0 and any number; a part counts as a part.

    ``ongoing_requests`` are all of a deployment, ``queued_requests`` those among them that no
    replica has taken yet. The tokens of the latter are unknown; they count as many as the others
    do on average.
    """
    by_requests = ongoing_requests / target_ongoing_requests
    if target_queued_tokens is None:
        return by_requests
    running = ongoing_requests - queued_requests
    each = queued_tokens / running if running > 0 else 0.0
    return max(by_requests, (queued_tokens + each * queued_requests) / target_queued_tokens)


class RequestsAndTokens:
    """An autoscaling policy of Ray Serve, which adds the delays and the bounds itself."""

    def __init__(self, target_queued_tokens: float | None = None) -> None:
        """Unset: tokens do not count."""
        self._target_queued_tokens = target_queued_tokens

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """The replicas wanted, and no state; ``context`` is Serve's ``AutoscalingContext``."""
        if context.current_num_replicas == 0:
            # Nobody counts anything yet; Serve starts the first one at the first request.
            return context.target_num_replicas, {}
        tokens = (context.aggregated_metrics or {}).get(QUEUED_TOKENS, {})
        wanted = wanted_replicas(
            ongoing_requests=context.total_num_requests,
            queued_requests=context.total_queued_requests or 0.0,
            queued_tokens=sum(tokens.values()),
            target_ongoing_requests=context.config.target_ongoing_requests,
            target_queued_tokens=self._target_queued_tokens,
        )
        return wanted, {}
