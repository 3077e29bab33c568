"""Phone numbers in running text, by the numbering plans that Google's libphonenumber knows."""

from phonenumbers import PhoneNumberMatcher


def phone_numbers(text: str, *, region: str) -> list[str]:
    """All numbers that exist in the plan of their country, as they are written in ``text``.

    Numbers without a country code are read as numbers of ``region`` (``US``, ``DE``, ...).
    """
    return [match.raw_string for match in PhoneNumberMatcher(text, region)]
