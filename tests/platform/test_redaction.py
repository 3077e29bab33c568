import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner.records import Triple, Turn
from aligner.redaction import Entity, emails, ip_addresses, redact


def find(text: str) -> Mapping[str, Entity]:
    """Mail addresses that stand between spaces, as a strict finder would see them."""
    return {match[0]: "EMAIL_ADDRESS" for match in re.finditer(r"(?<!\S)\w+@\w+(?!\S)", text)}


def test_a_row_without_finds_is_the_row() -> None:
    row = Triple("q", "a", "c")
    assert redact(row, find).row is row


def test_what_is_found_once_is_replaced_everywhere() -> None:
    row = Triple("Is it a@b ?", "It is a@b.", "(a@b)", history=(Turn("user", "a@b"),))
    clean = redact(row, find)
    assert clean.row == Triple(
        "Is it <EMAIL_ADDRESS> ?",
        "It is <EMAIL_ADDRESS>.",
        "(<EMAIL_ADDRESS>)",
        history=(Turn("user", "<EMAIL_ADDRESS>"),),
    )
    assert clean.entities == ("EMAIL_ADDRESS",) * 4


def test_an_address_within_another_is_part_of_it() -> None:
    row = Triple("a@b and xa@b", "a", "c")
    assert redact(row, find).row.question == "<EMAIL_ADDRESS> and <EMAIL_ADDRESS>"


def test_thousands_of_different_finds_are_replaced_in_seconds() -> None:
    text = " ".join(f"{number}@b" for number in range(5_000))
    clean = redact(Triple(text, text, "c"), find)
    assert clean.row.answer == " ".join(["<EMAIL_ADDRESS>"] * 5_000)
    assert len(clean.entities) == 10_000


@given(st.text("ab@ .", max_size=30), st.text("ab@ .", max_size=30))
def test_nothing_that_was_found_is_left_and_identity_rows_stay_so(one: str, two: str) -> None:
    clean = redact(Triple(one, two, two), find).row
    assert clean.is_identity
    assert not any(
        piece in clean.question + "\n" + clean.answer for piece in {**find(one), **find(two)}
    )
    assert redact(clean, find).row == clean


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write to jane.doe+x@mail.example.org.", ["jane.doe+x@mail.example.org"]),
        ("(jörg@müller.de)", ["jörg@müller.de"]),
        ("@someone and a@b and x@1.2", []),
        ("a" * 1_000_000 + "@", []),
        ("a.b@" * 250_000, []),
    ],
)
def test_mail_addresses_have_a_domain(text: str, found: list[str]) -> None:
    assert emails(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ping 8.8.8.8.", ["8.8.8.8"]),
        ("2001:db8::8a2e:370:7334 it is", ["2001:db8::8a2e:370:7334"]),
        ("127.0.0.1, ::1 and 0.0.0.0", []),
        ("999.1.1.1 or 1.2.3 or 1.2.3.4.5", []),
        ("At 12:30:45 std::vector and dead::beef", []),
        ("1." * 500_000, []),
        (":" * 1_000_000, []),
    ],
)
def test_addresses_of_machines_are_those_of_others(text: str, found: list[str]) -> None:
    assert ip_addresses(text) == found
