# SPDX-License-Identifier: Apache-2.0
"""One look at the kernel: its counters between two readings of ours, and its socket table between two more."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tracer.events.records import take
from tracer.reconcile import namespaces, proc_net, sock_diag
from tracer.reconcile.owners import PSUTIL_SOCKETS, copy_owners, find_owners, in_home_namespace
from tracer.reconcile.sock_diag import Table
from tracer.state.counting import is_among
from tracer.state.samples import SOCKET_DTYPE, NamespaceSample, Reading, Reconciliation, SocketArray, SocketDump, Totals, reading_of
from tracer.state.tuples import Keys, tuple_keys
from tracer.state.waiting import TimeWait, too_many

#: Readings after a dump: where traffic never rests, one of them may fall between two events.
READINGS_AFTER = 16
#: As many in TIME_WAIT are read as the kernel keeps by default on a large host (tcp_max_tw_buckets).
TIME_WAIT_LIMIT = 262_144
#: Of one core, for looking at them: they stay for a minute, and 100,000 take 100 ms.
TIME_WAIT_SHARE = 0.004
#: Looking through all processes for their namespaces takes 10 us for each; on a host with thousands it is done more seldom.
PROCESSES_SHARE = 0.005


@dataclass(slots=True)
class Sampler:
    """
    Takes samples of the network namespace in which the calling thread is.

    Attributes:
        counters: reads the exact counters.
        netns: the home namespace's number.
        every_namespace: other namespaces are read too.
        wants_ports: the sockets in TIME_WAIT are looked at too, for the ports that they hold.
        problems: what could not be read lately.
        waiting_s: CPU seconds that the last look at the sockets in TIME_WAIT cost, which no sample's cost has in it.
    """

    counters: Callable[[], Totals]
    netns: int
    every_namespace: bool = False
    wants_ports: bool = True
    problems: list[str] = field(default_factory=list)
    waiting_s: float = 0.0
    _last: SocketArray | None = None
    _minis: int = 0
    _waiting_due: float = 0.0
    _processes: dict[int, Path] = field(default_factory=dict)
    _processes_due: float = 0.0

    def take(self, period_s: float) -> Reconciliation:
        """The kernel's counters and ours; *period_s* is noted in it."""
        started = time.thread_time()
        self.problems = []
        before = self._read()
        sockstat, snmp = proc_net.read_sockstat(), proc_net.read_counters()
        after = self._read()
        self._expect(bool(sockstat), "sockstat cannot be read")
        self._expect(bool(snmp), "snmp cannot be read")
        return Reconciliation(
            before=before,
            after=after,
            sockstat=sockstat,
            snmp=snmp,
            ports=proc_net.read_ports(),
            problems=tuple(self.problems),
            cost_s=time.thread_time() - started,
            period_s=period_s,
        )

    def take_table(self, unowned: Keys | None, period_s: float) -> Reconciliation:
        """
        The same with the socket table and the other namespaces.

        Looking for owners takes long, and a sample is to be young when it is applied. So the owners of the sockets of the last table are
        looked for, before the next one is read.

        Args:
            unowned: addresses and ports of the sockets of the last table whose owners are looked for; None: of all.
            period_s: noted in the sample.
        """
        started = time.thread_time()
        owned = self._own(unowned)
        # All are looked for once, at the start: no part of what reconciling costs from then on.
        cost_s = time.thread_time() - started if unowned is not None else 0.0
        sample = self.take(period_s)
        started = time.thread_time()
        dump = self._dump(unowned is None and self._last is not None)
        others = self._others()
        if dump is not None:
            copy_owners(dump.sockets, owned)
            self._last, self._minis = dump.sockets, sample.mini_sockets() or 0
        cost_s += sample.cost_s + time.thread_time() - started
        waiting = self._time_wait(sample) if dump is not None and dump.source == "sock_diag" else None
        return replace(sample, dump=dump, namespaces=others, time_wait=waiting, problems=tuple(self.problems), cost_s=cost_s)

    def nothing(self, problem: str) -> Reconciliation:
        """A sample that only says why there is none."""
        reading = self._read()
        return Reconciliation(reading, reading, problems=(problem,))

    def _expect(self, good: bool, problem: str) -> None:
        if not good:
            self.problems.append(problem)

    def _read(self) -> Reading:
        begin_ns = time.monotonic_ns()
        totals = self.counters()
        return reading_of(totals, begin_ns, time.monotonic_ns())

    def _dump(self, with_owners: bool) -> SocketDump | None:
        first = self._read()
        try:
            table, source = self._table()
        except OSError as error:
            self.problems.append(f"no socket table: {error.strerror}")
            return None
        readings = (first, *(self._read() for _ in range(READINGS_AFTER)))
        return SocketDump(readings, table.sockets, table.requests, table.minis, source, with_owners)

    def _time_wait(self, sample: Reconciliation) -> TimeWait | None:
        """What the sockets in TIME_WAIT hold; None where it is not time to look, or nobody says how many there are."""
        minis = sample.mini_sockets()
        self.waiting_s = 0.0
        if minis is None or not self.wants_ports or time.monotonic() < self._waiting_due:
            return None
        if minis > TIME_WAIT_LIMIT:
            return too_many()
        started = time.thread_time()
        try:
            found = sock_diag.read_time_wait(sample.ports)
        except OSError:
            return None
        self.waiting_s = time.thread_time() - started
        self._waiting_due = time.monotonic() + self.waiting_s / TIME_WAIT_SHARE
        return found

    def _own(self, unowned: Keys | None) -> SocketArray:
        """The sockets of the last table whose owners are wanted, with those that were found."""
        if self._last is None:
            return np.zeros(0, dtype=SOCKET_DTYPE)
        wanted = self._last
        if unowned is not None:
            wanted = take(wanted, np.flatnonzero(is_among(tuple_keys(wanted), unowned)))
        if len(wanted):
            find_owners(wanted, np.arange(len(wanted)), len(self._last) + self._minis <= PSUTIL_SOCKETS and in_home_namespace())
        return wanted

    def _table(self) -> tuple[Table, str]:
        """
        Through sock_diag, or, on a kernel without it, the text tables.

        Raises:
            OSError: there is neither.
        """
        try:
            return sock_diag.read_table(self.netns), "sock_diag"
        except OSError as error:
            self.problems.append(f"sock_diag: {error.strerror}")
            return proc_net.read_table(self.netns), "proc_net"

    def _others(self) -> dict[int, NamespaceSample]:
        """The other namespaces by number: their names, and, where that was asked for, their sockets by state."""
        named, processes = namespaces.names_of_ip_netns(), self._namespaces_of_processes()
        found = {}
        for inode in sorted((named.keys() | processes.keys()) - {self.netns}):
            process = processes.get(inode)
            name = named[inode][0] if inode in named else (process and namespaces.name_by_process(process)) or str(inode)
            path = named[inode][1] if inode in named else processes[inode] / "ns/net"
            begin_ns = time.monotonic_ns()
            found[inode] = NamespaceSample(name, self._inside(inode, path, process) if self.every_namespace else None, begin_ns)
        return found

    def _namespaces_of_processes(self) -> dict[int, Path]:
        if time.monotonic() >= self._processes_due:
            started = time.thread_time()
            self._processes = namespaces.namespaces_of_processes()
            self._processes_due = time.monotonic() + (time.thread_time() - started) / PROCESSES_SHARE
        return self._processes

    def _inside(self, inode: int, path: Path, process: Path | None) -> SocketArray | None:
        """Its sockets: from within, or, where we may not go in, through the files of a process that is."""
        try:
            with namespaces.inside(path):
                return sock_diag.read_table(inode).sockets
        except OSError:
            try:
                return proc_net.read_table(inode, (process or Path("/nonexistent")) / "net").sockets
            except OSError:
                return None
