"""Where a connection may lead: decided for the address itself, whatever name led to it.

A name that is public today may point into a private network tomorrow, and the services there
trust whoever reaches them: a cloud's metadata at 169.254.169.254 hands out credentials.
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""How a network without IPv4 reaches it; the last 32 bits are the address."""


class ForbiddenAddress(OSError):
    """A name leads where no connection may be made."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Public addresses, and what is allowed besides."""

    networks: tuple[Network, ...] = ()
    loopback: bool = False

    def allows(self, address: str) -> bool:
        """Whether a connection to the literal ``address`` may be made."""
        found = _carried(ipaddress.ip_address(address))
        if any(found in network for network in self.networks):
            return True
        if found.is_loopback:
            return self.loopback
        tunnelled = isinstance(found, IPv6Address) and (found.sixtofour or found.teredo)
        return found.is_global and not found.is_multicast and not tunnelled

    def open_socket(self, place: tuple[Any, Any, Any, str, Any]) -> socket.socket:
        """A socket for one of ``getaddrinfo``'s places; asked right before it is connected.

        Raises:
            ForbiddenAddress: No connection may be made there.
        """
        family, kind, protocol, _, address = place
        if not self.allows(str(address[0])):
            # The same text for every address, so that aiohttp keeps the class of the error.
            raise ForbiddenAddress("leads into a network that is not allowed")
        return socket.socket(family, kind, protocol)


def reach_of(url: str, networks: Sequence[Network]) -> Reach:
    """What ``url`` may lead to: loopback only if it says so itself.

    Raises:
        ValueError: It says a literal address that is not allowed.
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    literal = _literal(host)
    is_loopback = host == "localhost" or (literal is not None and _carried(literal).is_loopback)
    reach = Reach(tuple(networks), loopback=is_loopback)
    if literal is not None and not reach.allows(host):
        raise ValueError(f"{host} lies in no network that is allowed; add it to access.networks")
    return reach


def _carried(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, or the address."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
