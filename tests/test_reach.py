"""Which network addresses are public: IANA's registries as a table, both ways, and the connection itself."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest

from plugin_config.errors import ImageUnavailable
from plugin_config.label_studio.client import LabelStudio
from tests.http_server import Answer, serving
from worker.label_studio.fetching import fetch_file, is_public
from worker.label_studio.images import ImageLimits

LIMITS = ImageLimits(most_bytes=1000, most_pixels=1000, timeout_s=5.0, allow_private=False)

# First and last of each block of iana-ipv4-special-registry and iana-ipv6-special-registry that is not globally
# reachable, of multicast, and of what was never given out.
ELSEWHERE = """
0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 127.0.0.0 127.0.0.1
127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.254 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0
192.0.0.8 192.0.0.170 192.0.0.192 192.0.0.255 192.0.2.0 192.0.2.255 192.88.99.1 192.168.0.0 192.168.255.255
198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255 224.0.0.0 239.255.255.255 240.0.0.0
255.255.255.254 255.255.255.255
:: ::1 ::2 ::127.0.0.1 ::7f00:1 ::10.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:169.254.169.254
::ffff:0.0.0.0 ::ffff:100.64.0.1 ::ffff:0:7f00:1 ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8 64:ff9b::127.0.0.1
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::10.0.0.1 64:ff9b:1:: 64:ff9b:1::7f00:1
64:ff9b:1:ffff:ffff:ffff:ffff:ffff 100:: 100::1 100:0:0:1:: 200::1 400::1 1000::1 2001::1 2001:0:7f00:1:: 2001:1::1
2001:2::1 2001:10::1 2001:20::1 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8::
2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 2002:: 2002:7f00:1:: 2002:a00:1::1 2002:808:808::1 3fff::
3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff 4000::1 5f00:: 6000::1 8000::1 a000::1 c000::1 e000::1 f000::1 fc00::
fd00:ec2::254 fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe00::1 fe80:: fe80::1%eth0 febf::1 fec0:: fec0::1
feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ff00::1 ff02::1 ff0e::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
"""

# What lies right beside those blocks, and hosts people really have pictures on.
PUBLIC = """
1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0
192.0.3.0 192.167.255.255 192.169.0.0 192.31.196.1 192.52.193.1 192.175.48.1 198.17.255.255 198.20.0.0 198.51.99.255
198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255
2000::1 2001:200::1 2001:4860:4860::8888 2001:db7:ffff::1 2001:db9::1 2003::1 2400:cb00::1 2606:4700::1111
2620:fe::fe 2a00:1450:4001::200e 2c0f::1 3ffe:ffff::1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8
"""


@pytest.mark.parametrize("address", ELSEWHERE.split())
def test_what_is_not_on_the_public_internet_is_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_what_is_public_stays_public(address: str) -> None:
    assert is_public(address)


def resolver(*addresses: str) -> Any:
    """A `getaddrinfo` that knows every host under these addresses."""
    kinds = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
    found = [(kind, socket.SOCK_STREAM, 6, "", (to, 80)) for kind, to in zip(kinds, addresses, strict=True)]
    return lambda *_, **__: found


@pytest.mark.parametrize("address", ["::127.0.0.1", "fec0::1", "64:ff9b:1::7f00:1", "::ffff:0:7f00:1", "127.0.0.1"])
def test_a_name_with_one_private_address_among_public_ones_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver("93.184.216.34", address))
    with (
        LabelStudio("http://labels.example", "token") as label_studio,
        pytest.raises(ImageUnavailable, match="is on a private address"),
    ):
        fetch_file("http://pictures.example/a.png", task=1, project=1, label_studio=label_studio, limits=LIMITS)


def test_a_connection_that_leads_to_a_private_address_after_all_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own network may turn an address; the socket's peer is what counts."""
    with serving(lambda asked: Answer()) as server, LabelStudio("http://labels.example", "token") as label_studio:
        port = int(server.url.rpartition(":")[2])

        def connect(*_: Any, **__: Any) -> socket.socket:
            found = socket.socket()
            found.connect(("127.0.0.1", port))
            return found

        monkeypatch.setattr(socket, "getaddrinfo", resolver("93.184.216.34"))
        monkeypatch.setattr(socket, "create_connection", connect)
        url = f"http://pictures.example:{port}/a.png"
        with pytest.raises(ImageUnavailable, match=r"leads to a private address, 127\.0\.0\.1"):
            fetch_file(url, task=1, project=1, label_studio=label_studio, limits=LIMITS)
        assert server.asked == []
        free = replace(LIMITS, allow_private=True)
        assert fetch_file(url, task=1, project=1, label_studio=label_studio, limits=free) == b""
