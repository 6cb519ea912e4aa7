# SPDX-License-Identifier: Apache-2.0
"""Names of hosts, from a cache that other threads fill: looking one up never makes the capture wait."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

MAX_NAMES = 65536
THREADS = 4


class HostNames:
    """
    Args:
        look_up: address to name; any error means that there is none.
    """

    def __init__(self, look_up: Callable[[str], str] = lambda address: socket.gethostbyaddr(address)[0]) -> None:
        self._look_up = look_up
        self._names: dict[str, str] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="names")

    def __call__(self, address: str) -> str:
        """The host's name where it is known by now, else the address; the first call for an address begins to look."""
        known = self._names.get(address)
        if known is None:
            if len(self._names) < MAX_NAMES:
                self._names[address] = address
                self._threads.submit(self._resolve, address)
            return address
        return known

    def _resolve(self, address: str) -> None:
        with suppress(OSError):  # no name: the address stays
            self._names[address] = self._look_up(address)

    def close(self) -> None:
        """Forgets what is still to be looked up; does not wait for what is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
