# SPDX-License-Identifier: Apache-2.0
"""
The kernel side's counters: struct counters of bpf/event.h, one block per possible CPU, read from mapped memory with no system call.

They stay exact when the ring overflows; what the ring carries is checked against them.
"""

import ctypes
import mmap
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.errors import RingError
from tracer.events.schema import STATES

#: As in the header.
KEYS = 32

COUNTERS_DTYPE = np.dtype(
    [
        ("transitions", "<u8", (2, STATES, STATES)),
        ("accepts", "<u8", (2,)),
        ("retransmits", "<u8", (2,)),
        ("resets_sent", "<u8", (2,)),
        ("resets_received", "<u8", (2,)),
        ("records", "<u8"),
        ("filtered", "<u8"),
        ("lost_ring_full", "<u8"),
        ("other_protocols", "<u8"),
        ("nested", "<u8"),
        ("handled", "<u8", (KEYS,)),
        ("handled_at", "<u8", (KEYS,)),
        ("depth", "<u8"),
    ]
)


@dataclass(frozen=True, slots=True)
class CounterTotals:
    """
    Sums over all CPUs since the programs were attached.

    Attributes:
        transitions: shape (2, STATES, STATES), uint64: [home network namespace, all others][old][new].
        accepts, retransmits, resets_sent, resets_received: shape (2,), uint64, likewise.
        records: written to the ring.
        filtered: counted above but not wanted by the capture's filter.
        lost: by reason. "ring_full": no room. "reentered": the kernel skipped a program because it was running already on that CPU,
            and it has no second program; these are missing from the transitions too.
        rescued: events that the kernel skipped a program for, and the second program handled.
        other_protocols: state changes of sockets that are not TCP.
    """

    transitions: npt.NDArray[np.uint64]
    accepts: npt.NDArray[np.uint64]
    retransmits: npt.NDArray[np.uint64]
    resets_sent: npt.NDArray[np.uint64]
    resets_received: npt.NDArray[np.uint64]
    records: int
    filtered: int
    lost: dict[str, int]
    rescued: int
    other_protocols: int

    @property
    def seen(self) -> int:
        """Everything the programs have seen of TCP: what was written, filtered out, or found no room."""
        parts = (self.transitions, self.accepts, self.retransmits, self.resets_sent, self.resets_received)
        return sum(int(part.sum()) for part in parts)


class Counters:
    """
    The mapped counters and the programs' own statistics.

    Args:
        map_fd: the counters map.
        cpus: number of blocks in it.
        programs: descriptors of the attached programs whose skipped calls are losses unless the nested one handled them; owned by
            the caller.
    """

    def __init__(self, map_fd: int, cpus: int, programs: tuple[int, ...] = ()) -> None:
        size = cpus * COUNTERS_DTYPE.itemsize
        try:
            self._map = mmap.mmap(map_fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as error:
            raise RingError(f"the counters cannot be mapped: {error.strerror}", "report this, with the kernel's version") from error
        self._blocks = np.frombuffer(self._map, dtype=COUNTERS_DTYPE, count=cpus)
        self._programs = programs

    def read(self) -> CounterTotals:
        """The totals now. Not a snapshot of one instant: events go on while the CPUs are added up."""
        blocks = self._blocks
        return CounterTotals(
            transitions=blocks["transitions"].sum(axis=0),
            accepts=blocks["accepts"].sum(axis=0),
            retransmits=blocks["retransmits"].sum(axis=0),
            resets_sent=blocks["resets_sent"].sum(axis=0),
            resets_received=blocks["resets_received"].sum(axis=0),
            records=int(blocks["records"].sum()),
            filtered=int(blocks["filtered"].sum()),
            lost=self.lost(),
            rescued=int(blocks["nested"].sum()),
            other_protocols=int(blocks["other_protocols"].sum()),
        )

    def lost(self) -> dict[str, int]:
        """Only the losses: what a batch needs, without adding up the transitions."""
        skipped = sum(program_misses(fd) for fd in self._programs)
        handled = int(self._blocks["nested"].sum())
        return {"ring_full": int(self._blocks["lost_ring_full"].sum()), "reentered": max(skipped - handled, 0)}

    def close(self) -> None:
        """Unmaps the memory."""
        del self._blocks
        self._map.close()


class _ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info of include/uapi/linux/bpf.h, up to recursion_misses (9ed9e9ba2337, v5.12)."""

    _fields_ = (
        ("head", ctypes.c_uint8 * 208),
        ("recursion_misses", ctypes.c_uint64),
    )


class _InfoRequest(ctypes.Structure):
    """The part of union bpf_attr that BPF_OBJ_GET_INFO_BY_FD reads."""

    _fields_ = (("fd", ctypes.c_uint32), ("length", ctypes.c_uint32), ("info", ctypes.c_uint64))


BPF_OBJ_GET_INFO_BY_FD = 15
SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}.get(os.uname().machine)
_LIBC = ctypes.CDLL(None, use_errno=True)


def program_misses(program_fd: int) -> int:
    """
    How often the kernel skipped a program because it was already running on the same CPU; 0 where the kernel does not tell.

    Source: trace_call of raw tracepoints, kernel/trace/bpf_trace.c, __bpf_trace_run (05b24ff9b2cf, v6.1); before that such calls
    were nested, not skipped.
    """
    if SYS_BPF is None:
        return 0
    info = _ProgramInfo()
    request = _InfoRequest(program_fd, ctypes.sizeof(info), ctypes.addressof(info))
    failed = _LIBC.syscall(SYS_BPF, BPF_OBJ_GET_INFO_BY_FD, ctypes.byref(request), ctypes.sizeof(request))
    return 0 if failed else int(info.recursion_misses)
