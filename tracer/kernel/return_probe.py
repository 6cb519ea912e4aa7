# SPDX-License-Identifier: Apache-2.0
"""
The return probe that the loader child has defined in tracefs: what it missed, and its removal at the end.

Its definition stays in the kernel until it is removed, unlike everything else that is attached. The descriptors reach into the child's
tracefs, which is mounted for nobody else.
"""

import errno
import os
import time
from dataclasses import dataclass

#: More than kprobe_profile has where someone else has hundreds of probes.
PROFILE_BYTES = 1 << 16
#: A probe is in use for some moments after the descriptor that attached a program to it was closed.
REMOVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class ReturnProbe:
    """
    Attributes:
        name: "GROUP/NAME", as in tracefs.
        events_fd, profile_fd: tracefs' kprobe_events and kprobe_profile; owned by the caller.
    """

    name: str
    events_fd: int
    profile_fd: int

    def missed(self) -> int:
        """Calls whose return was not seen, because too many were under way at a time; 0 where the kernel does not tell."""
        name = self.name.partition("/")[2]
        for line in os.pread(self.profile_fd, PROFILE_BYTES, 0).decode().splitlines():
            words = line.split()
            if words[0] == name:
                return int(words[2])
        return 0

    def remove(self) -> None:
        """
        Takes the definition away, after the program was detached.

        If that fails the definition stays, unused; the next tcptrace removes it.
        """
        deadline = time.monotonic() + REMOVAL_S
        while True:
            try:
                os.write(self.events_fd, f"-:{self.name}\n".encode())
            except OSError as error:
                if error.errno == errno.EBUSY and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
            return
