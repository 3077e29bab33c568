import ipaddress
import socket

import pytest

from aligner.networks import ForbiddenAddress, Reach, reach_of

PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "224.0.0.1"),
    *("255.255.255.255", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1"),
    *("64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:a:b::1", "ff02::1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not Reach().allows(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_what_is_public_is_allowed(address: str) -> None:
    assert Reach().allows(address)


def test_a_network_that_is_named_is_allowed_and_no_other() -> None:
    reach = Reach((ipaddress.ip_network("10.0.0.0/8"),))
    assert reach.allows("10.1.2.3") and reach.allows("::ffff:10.1.2.3")
    assert not reach.allows("192.168.1.1") and not reach.allows("127.0.0.1")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:8100/v1", True),
        ("http://localhost:8100/v1", True),
        ("http://[::1]:8100/v1", True),
        ("http://localhost.example.org/v1", False),
        ("https://llm.example.org/v1", False),
        # Not a literal address: the system resolves it to 127.0.0.1.
        ("http://2130706433/v1", False),
    ],
)
def test_loopback_is_for_those_who_say_so(url: str, allowed: bool) -> None:
    assert reach_of(url, ()).allows("127.0.0.1") is allowed
    assert not reach_of(url, ()).allows("169.254.169.254")


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "[fd00::1]", "0.0.0.0"])
def test_a_literal_private_address_is_told_at_once(host: str) -> None:
    with pytest.raises(ValueError, match=r"access\.networks"):
        reach_of(f"http://{host}/v1", ())


def test_a_socket_is_opened_only_where_it_may_lead() -> None:
    place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))
    Reach(loopback=True).open_socket(place).close()
    with pytest.raises(ForbiddenAddress):
        Reach().open_socket(place)
