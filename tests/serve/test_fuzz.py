"""A few hundred drawn requests against the API's own description.

``tests/bench/fuzz_api.py`` sends ten thousand.
"""

from fixed_engines import FixedGateway
from fuzzing import fuzz


def test_no_request_fails_the_gateway_or_gets_what_is_not_described() -> None:
    with FixedGateway() as gateway:
        fuzzed = fuzz(gateway.url, examples=30)
    assert fuzzed.clean, fuzzed.told
    assert fuzzed.cases > 300
