"""When a deployment gets more replicas or fewer: by tokens, by first tokens, and by requests.

Ray Serve's own policy counts requests. One request may be a hundred times another, and an engine
that is busy for minutes with a few long ones looks idle. So an engine also tells how many tokens
it has still to read or write and how long first tokens are waited for, and the largest need counts.

Serve pickles this module by value and runs it in its controller: it imports nothing of ours.
"""

from typing import Any, Final

QUEUED_TOKENS: Final = "queued_tokens"
"""What ``record_autoscaling_stats`` of a replica calls its tokens."""

FIRST_TOKEN_S: Final = "first_token_s"
"""What it calls the seconds that first tokens are waited for, of late."""

PATH: Final = f"{__name__}:LoadOfEngines"
"""How Serve finds the policy."""

_MOST_AT_ONCE: Final = 2.0
"""Times as many replicas: waits grow faster than the load that makes them."""


def by_tokens(
    *,
    ongoing_requests: float,
    queued_requests: float,
    queued_tokens: float,
    target_queued_tokens: float,
) -> float:
    """How many replicas the tokens are worth; a part counts as a part.

    ``ongoing_requests`` are all of a deployment, ``queued_requests`` those among them that no
    replica has taken yet. The tokens of the latter are unknown; they count as many as the others
    do on average.
    """
    running = ongoing_requests - queued_requests
    each = queued_tokens / running if running > 0 else 0.0
    return (queued_tokens + each * queued_requests) / target_queued_tokens


def by_first_token(
    *, ongoing_requests: float, replicas: int, first_token_s: float, target_first_token_s: float
) -> float:
    """How many replicas the wait for first tokens is worth.

    As many as there are while it is between half the target and the target: one that goes would
    make it longer. None are added for requests that need not share a replica: what those wait for
    is no queue.
    """
    if first_token_s <= target_first_token_s / 2:
        return 0.0
    ratio = min(_MOST_AT_ONCE, max(1.0, first_token_s / target_first_token_s))
    return min(replicas * ratio, ongoing_requests)


class LoadOfEngines:
    """An autoscaling policy of Ray Serve, which adds the delays and the bounds itself."""

    def __init__(
        self,
        target_queued_tokens: float | None = None,
        target_first_token_s: float | None = None,
    ) -> None:
        """What is unset does not count."""
        self._target_queued_tokens = target_queued_tokens
        self._target_first_token_s = target_first_token_s

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """The replicas wanted, and no state; ``context`` is Serve's ``AutoscalingContext``."""
        replicas = context.current_num_replicas
        if replicas == 0:
            # Nobody counts anything yet; Serve starts the first one at the first request.
            return context.target_num_replicas, {}
        ongoing = context.total_num_requests
        told = context.aggregated_metrics or {}
        wanted = ongoing / context.config.target_ongoing_requests
        if self._target_queued_tokens is not None:
            tokens = by_tokens(
                ongoing_requests=ongoing,
                queued_requests=context.total_queued_requests or 0.0,
                queued_tokens=sum(told.get(QUEUED_TOKENS, {}).values()),
                target_queued_tokens=self._target_queued_tokens,
            )
            wanted = max(wanted, tokens)
        if self._target_first_token_s is not None:
            # Of those that are asked at all.
            waits = [seconds for seconds in told.get(FIRST_TOKEN_S, {}).values() if seconds > 0]
            first = by_first_token(
                ongoing_requests=ongoing,
                replicas=replicas,
                first_token_s=sum(waits) / len(waits) if waits else 0.0,
                target_first_token_s=self._target_first_token_s,
            )
            wanted = max(wanted, first)
        return wanted, {}
