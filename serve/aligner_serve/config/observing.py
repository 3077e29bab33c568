"""What the graph tells of its requests. Free of ray, torch and fastapi."""

from pydantic import Field

from aligner.config import StrictModel


class Price(StrictModel):
    """What a model's tokens cost."""

    usd_per_1m_prompt_tokens: float = Field(default=0.0, ge=0.0)
    """Of a million that it reads."""

    usd_per_1m_completion_tokens: float = Field(default=0.0, ge=0.0)
    """Of a million that it writes."""

    def usd(self, *, prompt_tokens: int, completion_tokens: int) -> float:
        """Of one request."""
        prompt = prompt_tokens * self.usd_per_1m_prompt_tokens
        return (prompt + completion_tokens * self.usd_per_1m_completion_tokens) / 1e6


class ObservingConfig(StrictModel):
    """Log, traces and prices. What users and models say is in none of them unless asked for."""

    trace_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of requests that become traces in MLflow (``tracking``), drawn by request id; above 0
    a process of its own sends them."""

    trace_texts: bool = False
    """Whether traces hold question, answer and correction."""

    log_text_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of requests whose line in the log holds question, answer and correction."""

    prices: dict[str, Price] = Field(default_factory=dict)
    """Name of an upstream or an aligner to what it costs, for the metric ``aligner_usd``."""
