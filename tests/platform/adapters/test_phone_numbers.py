import pytest

from aligner.adapters.phone_numbers import phone_numbers


@pytest.mark.parametrize(
    ("text", "region", "found"),
    [
        ("Call +49 30 901820 now.", "US", ["+49 30 901820"]),
        ("(212) 555-0199 or 415-555-2671", "US", ["(212) 555-0199", "415-555-2671"]),
        ("Ruf 030 901820 an.", "DE", ["030 901820"]),
        ("Ruf 030 901820 an.", "US", []),
        ("In 1998 there were 20,000 people, 12 * 34 = 408.", "US", []),
    ],
)
def test_numbers_are_those_of_a_numbering_plan(text: str, region: str, found: list[str]) -> None:
    assert phone_numbers(text, region=region) == found
