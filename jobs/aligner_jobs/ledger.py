"""What asking models took: requests, replies by outcome, tokens, money."""

from collections.abc import Mapping
from typing import Any, Final

from aligner_jobs.config.asking import ApiModel
from aligner_jobs.config.teaching import LocalModel

_REPLY: Final = "reply_"

Ledger = dict[str, dict[str, Any]]
"""By the name of the model; see :func:`ledger_of` for what is in it."""


def ledger_of(
    counts: Mapping[str, Mapping[str, int]], models: Mapping[str, ApiModel | LocalModel]
) -> Ledger:
    """The ledger of ``models`` as the manifest holds it.

    ``kept`` rows had their reply from an earlier run; the model was ``asked`` for others, and
    ``failed`` of these got none. ``sent`` requests had ``replies`` by outcome; those beyond one per
    row that was asked for are ``retries``. All of it since the folder of replies is there, over
    every job that used it.
    """
    return {name: _entry(counts.get(name, {}), model) for name, model in models.items()}


def metrics_of(ledger: Ledger) -> dict[str, float]:
    """The numbers of ``ledger`` as metrics of a run."""
    wanted = ("sent", "retries", "kept", "failed", "prompt_tokens", "completion_tokens", "usd")
    return {
        f"{name}.{item}": float(entry[item]) for name, entry in ledger.items() for item in wanted
    }


def _entry(counts: Mapping[str, int], model: ApiModel | LocalModel) -> dict[str, Any]:
    prompt, completion = counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0)
    usd = 0.0
    if isinstance(model, ApiModel):
        usd += prompt * model.usd_per_1m_prompt_tokens / 1e6
        usd += completion * model.usd_per_1m_completion_tokens / 1e6
    return {
        "asked": counts.get("asked", 0),
        "kept": counts.get("kept", 0),
        "failed": counts.get("failed", 0),
        "sent": counts.get("sent", 0),
        "retries": counts.get("sent", 0) - counts.get("asked", 0),
        "cooldowns": counts.get("cooldowns", 0),
        "replies": {
            item.removeprefix(_REPLY): amount
            for item, amount in sorted(counts.items())
            if item.startswith(_REPLY)
        },
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "usd": round(usd, 6),
    }
