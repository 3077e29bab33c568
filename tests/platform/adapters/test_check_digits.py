import pytest

from aligner.adapters.check_digits import card_numbers, ibans, social_security_numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Card 4111 1111 1111 1111, please.", ["4111 1111 1111 1111"]),
        ("4111-1111-1111-1111", ["4111-1111-1111-1111"]),
        ("378282246310005.", ["378282246310005"]),
        ("4111 1111 1111 1112", []),
        ("Pi is 3.1415926535897932384.", []),
        ("Order A4111111111111111", []),
    ],
)
def test_a_card_number_has_the_right_check_digit(text: str, found: list[str]) -> None:
    assert card_numbers(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("To DE89 3704 0044 0532 0130 00.", ["DE89 3704 0044 0532 0130 00"]),
        ("To GB29NWBK60161331926819 AND SO ON", ["GB29NWBK60161331926819"]),
        ("DE88 3704 0044 0532 0130 00", []),
        ("ISO27001 CERTIFIED COMPANIES ONLY", []),
    ],
)
def test_an_account_number_ends_where_its_country_says(text: str, found: list[str]) -> None:
    assert ibans(text) == found


def test_a_social_security_number_is_in_a_range_that_is_given_out() -> None:
    assert social_security_numbers("536-90-4399, 000-12-3456, 666-12-3456") == ["536-90-4399"]


def test_long_texts_without_numbers_are_read_at_once() -> None:
    for text in ("A" * 1_000_000, "1 " * 500_000, "DE89" * 250_000):
        assert card_numbers(text) + ibans(text) + social_security_numbers(text) == []
