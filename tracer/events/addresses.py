# SPDX-License-Identifier: Apache-2.0
"""Addresses as people write them, from the record's 16 bytes."""

import socket
from functools import lru_cache

V4_PREFIX = b"\0" * 10 + b"\xff\xff"


@lru_cache(maxsize=65536)
def address_text(packed: bytes) -> str:
    """The address in its usual short form; ::ffff:a.b.c.d as a.b.c.d. Source: RFC 5952, through inet_ntop."""
    if packed.startswith(V4_PREFIX):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def pack_address(text: str, family: int) -> tuple[bytes, bool]:
    """
    The record's 16 bytes from an address as text, and whether it is IPv4, mapped or not.

    Args:
        text: an address, or "" for none: the unspecified one.
        family: socket.AF_INET or AF_INET6.
    """
    if family == socket.AF_INET:
        return V4_PREFIX + socket.inet_aton(text or "0.0.0.0"), True
    packed = socket.inet_pton(socket.AF_INET6, text or "::")
    return packed, packed.startswith(V4_PREFIX)


def endpoint_text(address: str, port: int) -> str:
    """An address with its port: 127.0.0.1:80, [::1]:80."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def short_endpoint_text(address: str, port: int, width: int) -> str:
    """
    The same in at most *width* columns: what does not fit is taken from the middle of the address.

    The port and both ends of the address stay, since they tell two endpoints apart.
    """
    full = endpoint_text(address, port)
    if len(full) <= width:
        return full
    room = width - (len(full) - len(address)) - 1
    tail = max(room // 2, 1)
    return full.replace(address, address[: max(room - tail, 1)] + "~" + address[-tail:], 1)
