"""A network address -> whether it lies on the public internet.

It must not know what is fetched there.
"""

from __future__ import annotations

import ipaddress

_V4_ELSEWHERE = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # private use
        "100.64.0.0/10",  # shared by carriers; some clouds keep their metadata there
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's own services for the machine; public by the registry, not by what is there
        "169.254.0.0/16",  # link local; most clouds keep their metadata there
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "198.18.0.0/15",  # benchmarking
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, limited broadcast
    )
)  # fmt: skip
_V6_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that IANA has given out as global unicast
_V6_ELSEWHERE = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32", "3fff::/20",  # documentation
        "2002::/16",  # 6to4, which wraps IPv4
    )
)  # fmt: skip
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address, as a resolver or a socket gives it, lies on the public internet.

    By IANA's registries of special-purpose IPv4 and IPv6 addresses (iana-ipv4-special-registry,
    iana-ipv6-special-registry) and of IPv6 global unicast assignments, as of 2026, and by Python's `is_global`, which
    may know later ones. IPv6 is judged from the other side: only what was given out for global unicast is public, so
    that every way to wrap an IPv4 address (`::127.0.0.1`, `::ffff:0:127.0.0.1`, 64:ff9b:1::/48), site-local and unique
    local addresses and multicast are out without being listed. Two wraps are in daily use and judged by what is in
    them: IPv4-mapped, and NAT64's 64:ff9b::/96. No library was found that knows these and is not tied to another HTTP
    client: `netaddr` 1.3 takes fec0::/10 and multicast for global.

    Raises:
        ValueError: it is no IP address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is None:
            return found in _V6_UNICAST and found.is_global and not any(found in block for block in _V6_ELSEWHERE)
        found = inner
    return found.is_global and not any(found in block for block in _V4_ELSEWHERE)
