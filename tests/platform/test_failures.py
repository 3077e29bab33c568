import datetime
import email.utils

import pytest

from aligner.errors import EndpointError, GenerationError
from aligner.failures import Failure, failure_reason, of_status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 529])
def test_what_may_pass_may_pass(status: int) -> None:
    assert of_status(status, {}).may_pass


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404])
def test_what_concerns_every_request_says_so_and_what_to_do(status: int) -> None:
    failure = of_status(status, {})
    assert failure.concerns_all and failure.remedy and not failure.may_pass


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("3", 3.0, 3.0),
        ("0.25", 0.25, 0.25),
        ("-5", 0.0, 0.0),
        ("nan", 0.0, 0.0),
        (email.utils.format_datetime(datetime.datetime(2015, 10, 21)), 0.0, 0.0),
        (email.utils.formatdate(4102444800, usegmt=True), 1e8, 1e10),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, least: float, most: float) -> None:
    found = of_status(429, {"Retry-After": value}).retry_after_s
    assert found is not None and least <= found <= most


@pytest.mark.parametrize("value", ["", "soon", "Mon, 01 Jan 99999999999 00:00:00 GMT", "1;2"])
def test_retry_after_that_is_neither_is_none(value: str) -> None:
    assert of_status(429, {"Retry-After": value}).retry_after_s is None


def test_pauses_grow_with_the_attempts_and_have_an_end() -> None:
    pauses = [Failure("timeout", "", attempts=n).pause_s() for n in (1, 2, 3, 50)]
    for pause_s, longest_s in zip(pauses, (0.5, 1.0, 2.0, 30.0), strict=True):
        assert longest_s / 2 <= pause_s <= longest_s
    assert Failure("http_429", "", retry_after_s=7.0).pause_s() == 7.0


def test_a_reason_is_read_from_its_sentence() -> None:
    assert failure_reason(EndpointError("refused: http://h (model 'm') does not answer.")) == (
        "refused"
    )
    assert failure_reason(GenerationError("no colon here")) == "failed"
