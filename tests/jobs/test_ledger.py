from aligner_jobs.config.asking import ApiModel
from aligner_jobs.ledger import ledger_of, metrics_of

MODEL = ApiModel(
    base_url="http://127.0.0.1:1/v1",
    model="m",
    usd_per_1m_prompt_tokens=0.5,
    usd_per_1m_completion_tokens=2.0,
)
COUNTS = {
    "asked": 10,
    "kept": 3,
    "failed": 1,
    "sent": 14,
    "reply_ok": 9,
    "reply_http_429": 4,
    "reply_timeout": 1,
    "prompt_tokens": 1_000_000,
    "completion_tokens": 250_000,
}


def test_a_ledger_tells_what_was_sent_and_what_it_cost() -> None:
    ledger = ledger_of({"upstreams.one": COUNTS, "gone": {"sent": 1}}, {"upstreams.one": MODEL})
    assert ledger == {
        "upstreams.one": {
            "asked": 10,
            "kept": 3,
            "failed": 1,
            "sent": 14,
            "retries": 4,
            "cooldowns": 0,
            "replies": {"http_429": 4, "ok": 9, "timeout": 1},
            "prompt_tokens": 1_000_000,
            "completion_tokens": 250_000,
            "usd": 1.0,
        }
    }
    assert metrics_of(ledger)["upstreams.one.usd"] == 1.0


def test_a_model_that_was_not_asked_stands_in_it_with_nothing() -> None:
    entry = ledger_of({}, {"judge": MODEL})["judge"]
    assert (entry["sent"], entry["retries"], entry["usd"], entry["replies"]) == (0, 0, 0.0, {})
