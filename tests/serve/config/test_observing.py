import pytest
from fixed_engines import config
from pydantic import ValidationError

from aligner_serve.config.observing import ObservingConfig, Price


def test_nothing_that_anybody_says_is_written_down_by_default() -> None:
    plain = ObservingConfig()
    assert (plain.trace_share, plain.trace_texts, plain.log_text_share) == (0.0, False, 0.0)


def test_a_price_is_of_a_million_tokens() -> None:
    price = Price(usd_per_1m_prompt_tokens=2.0, usd_per_1m_completion_tokens=10.0)
    assert price.usd(prompt_tokens=500_000, completion_tokens=100_000) == pytest.approx(2.0)


def test_prices_are_of_upstreams_and_aligners_that_are_there() -> None:
    prices: dict[str, dict[str, float]] = {"iron": {}, "fixer": {}}
    assert config(observing={"prices": prices}).observing.prices.keys() == prices.keys()
    with pytest.raises(ValidationError, match=r"'gold' is neither an upstream nor an aligner"):
        config(observing={"prices": {"gold": {}}})
