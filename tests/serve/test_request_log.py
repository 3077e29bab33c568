import json
import logging
from typing import Any

import pytest
from seen import SeenGateway

from aligner_serve.config.observing import ObservingConfig
from aligner_serve.request_log import LOGGER, RequestLog, is_drawn
from aligner_serve.telemetry import Answered

PRICES = {"iron": {"usd_per_1m_prompt_tokens": 2, "usd_per_1m_completion_tokens": 10}}


class Lines(logging.Handler):
    """What is logged, as Serve's JSON formatter would find it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        ours = vars(record).keys() - vars(logging.makeLogRecord({})).keys()
        self.lines.append({"message": record.getMessage()} | {k: vars(record)[k] for k in ours})


def logged(*records: Answered, **settings: Any) -> list[dict[str, Any]]:
    logger, lines = logging.getLogger(LOGGER), Lines()
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(lines)
    try:
        log = RequestLog(ObservingConfig(prices=PRICES, **settings))
        for record in records:
            log.answered(record)
    finally:
        logger.removeHandler(lines)
        logger.level, logger.propagate = before
    return lines.lines


def test_a_line_tells_who_did_what_and_what_it_took() -> None:
    seen = SeenGateway()
    seen.chat("iron+fixer+polite")
    (line,) = logged(seen.told.last)
    assert line["message"] == line["event"] == "request"
    assert line["request_id"] == seen.told.last.request_id
    assert (line["route"], line["status"]) == ("/v1/chat/completions", 200)
    (choice,) = line["choices"]
    assert (choice["model"], choice["outcome"]) == ("iron+fixer+polite", "corrected")
    assert [(one["stage"], one["name"]) for one in choice["stages"]] == [
        ("upstream", "iron"),
        ("corrector", "fixer"),
        ("corrector", "polite"),
    ]
    upstream, fixer, _ = choice["stages"]
    assert upstream["usd"] == pytest.approx((5 * 2 + 7 * 10) / 1e6)
    assert (fixer["version"], fixer["prompt_tokens"]) == ("models:/fixer/3", 11)
    assert "usd" not in fixer
    json.dumps(line)


@pytest.mark.parametrize("model", ["iron+fixer", "iron+broken", "iron+strict", "dead+fixer"])
def test_no_line_holds_a_text_unless_that_is_asked_for(model: str) -> None:
    seen = SeenGateway()
    seen.chat(model, messages=[{"role": "user", "content": "CANARY"}])
    assert "CANARY" not in json.dumps(logged(seen.told.last))
    assert "CANARY" in json.dumps(logged(seen.told.last, log_text_share=1.0))


def test_health_is_not_worth_a_line_while_it_is_good() -> None:
    seen = SeenGateway()
    for path in ("/healthz", "/readyz", "/metrics", "/nothing"):
        seen.client.get(path)
    assert [line["route"] for line in logged(*seen.told.requests)] == ["other"]


def test_a_share_of_requests_is_drawn_by_their_ids() -> None:
    ids = [f"request-{number}" for number in range(2000)]
    drawn = {one for one in ids if is_drawn(one, 0.25, salt="log")}
    assert 400 < len(drawn) < 600
    assert drawn == {one for one in ids if is_drawn(one, 0.25, salt="log")}
    assert drawn != {one for one in ids if is_drawn(one, 0.25, salt="trace")}
    assert not any(is_drawn(one, 0.0, salt="log") for one in ids)
    assert all(is_drawn(one, 1.0, salt="log") for one in ids)
