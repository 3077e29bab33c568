"""Numbers of cards, accounts and people, told from other numbers by python-stdnum's rules.

A pattern finds what looks like one; check digits and the issuers' ranges decide.
"""

import re
from typing import Final

from stdnum import iban, luhn
from stdnum.us import ssn

_CARD: Final = re.compile(r"(?<![\w.-])[3-6]\d{3}(?:[ -]?\d){9,15}(?![\w-])")
_IBAN: Final = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}(?!\w)")
_SSN: Final = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")


def card_numbers(text: str) -> list[str]:
    """Credit card numbers, by Luhn's check digit."""
    found = _CARD.findall(text)
    return [number for number in found if luhn.is_valid(re.sub(r"[ -]", "", number))]


def ibans(text: str) -> list[str]:
    """Account numbers, by check digits and the country's own form."""
    return [number for match in _IBAN.findall(text) if (number := _iban_at_the_start_of(match))]


def social_security_numbers(text: str) -> list[str]:
    """Those of the United States, by the ranges that are given out."""
    return [number for number in _SSN.findall(text) if ssn.is_valid(number)]


def _iban_at_the_start_of(text: str) -> str | None:
    """Capitals that follow a number may be words: the longest start that is one counts."""
    for end in range(len(text), 14, -1):
        if text[end - 1].isalnum() and iban.is_valid(text[:end], check_country=False):
            return text[:end]
    return None
