# SPDX-License-Identifier: Apache-2.0
"""tcptrace conns: one line for each connection."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from tracer.cli.events import Format, table_width
from tracer.cli.names import HostNames
from tracer.cli.options import CaptureOptions, Inputs, takes
from tracer.cli.reconciling import Reconciling, begin_reconciling
from tracer.cli.recorded import RecordedCapture
from tracer.cli.run import Run, begin_capture, owner_filter, running
from tracer.errors import UsageError
from tracer.events.batch import EventBatch
from tracer.kernel.capture import POLL_S
from tracer.reconcile.cgroups import CgroupPaths
from tracer.state.connections import ENDED_DTYPE, ConnectionArray, ConnectionTable
from tracer.state.merged import MergedConnections
from tracer.state.outcomes import Outcome
from tracer.state.select import OwnerFilter
from tracer.views.connection_table import ENDED_COLUMNS
from tracer.views.connections import CONNECTION_NAMES, OUTCOMES, CgroupNames, ConnectionRows, connection_columns
from tracer.views.lines import FORMATS, Lines
from tracer.views.table import WIDE, Table, TableColumn
from tracer.views.writers import loss_line

#: --sort: name -> what the largest comes first of.
SORTS: dict[str, Callable[[ConnectionArray], npt.NDArray[np.integer]]] = {
    "duration": lambda c: c["closed_ns"].astype(np.int64) - c["opened_ns"].astype(np.int64),
    "bytes": lambda c: c["bytes_sent"] + c["bytes_received"],
    "sent": lambda c: c["bytes_sent"],
    "received": lambda c: c["bytes_received"],
    "retransmits": lambda c: c["segs_retrans"],
    "rtt": lambda c: c["srtt_us"],
    "handshake": lambda c: np.where(c["established_ns"] > 0, c["established_ns"].astype(np.int64) - c["opened_ns"].astype(np.int64), -1),
    "accept_wait": lambda c: np.where(c["accepted_ns"] > 0, c["accepted_ns"].astype(np.int64) - c["established_ns"].astype(np.int64), -1),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which ended connections are wanted, beyond the capture's own filter."""

    owners: OwnerFilter
    outcomes: tuple[int, ...]
    min_duration_ns: int

    def keep(self, connections: ConnectionArray) -> npt.NDArray[np.bool_]:
        """Shape (n,), for *connections* of shape (n,), ENDED_DTYPE."""
        keep: npt.NDArray[np.bool_] = np.ones(len(connections), dtype=np.bool_)
        if not self.owners.keeps_all:
            keep &= self.owners.keep(connections)
        if self.outcomes:
            keep &= np.isin(connections["outcome"], self.outcomes)
        if self.min_duration_ns:
            known = connections["opened_ns"] != 0
            lasted = connections["closed_ns"].astype(np.int64) - connections["opened_ns"].astype(np.int64)
            keep &= known & (lasted >= self.min_duration_ns)
        return keep


@takes(CaptureOptions)
def conns(
    options: CaptureOptions,
    format: Annotated[Format, typer.Option("--format", help="How to write the connections.")] = "table",
    open: Annotated[bool, typer.Option("--open", help="The connections that are open now, once; needs no BPF.")] = False,
    outcome: Annotated[str | None, typer.Option("--outcome", metavar="NAME,..", help="Only these: " + ", ".join(OUTCOMES) + ".")] = None,
    min_duration: Annotated[float, typer.Option("--min-duration", metavar="MS", help="Only connections that lasted so long.")] = 0.0,
    sort: Annotated[str | None, typer.Option("--sort", metavar="BY", help="At the end, largest first: " + ", ".join(SORTS) + ".")] = None,
    top: Annotated[int | None, typer.Option("--top", metavar="N", help="At the end, only the first N; with --sort.")] = None,
    dns: Annotated[bool, typer.Option("-d", "--dns", help="Show names of remote hosts, once they are known.")] = False,
    wide: Annotated[bool, typer.Option("-w", "--wide", help="Show all columns and full addresses.")] = False,
    input: Inputs = None,
) -> None:
    """
    One line for each connection as it ends: owner, direction, bytes, duration, and why it ended.

    Example: sudo tcptrace conns --outcome refused,timeout --duration 60
    """
    choice = make_choice(options, outcome, min_duration)
    check_sort(sort, top)
    names = HostNames() if dns else None
    output = Output(format, wide, names)
    try:
        if open and input:
            raise UsageError("--open looks at this host now, --input reads a recording", "leave one of them out")
        if open:
            from tracer.cli.open_conns import open_connections

            output.write(open_connections(options.plan().keep, choice.owners), wall_offset_ns=0)
            return
        pending = begin_capture(options, input or ())
        with running(pending, options) as run:
            write_connections(run, choice, output, sort, top)
    finally:
        if names is not None:
            names.close()


def make_choice(options: CaptureOptions, outcome: str | None, min_duration_ms: float) -> Choice:
    """
    Raises:
        UsageError: an option makes no sense.
    """
    wanted = [name.strip() for name in outcome.split(",")] if outcome is not None else []
    unknown = [name for name in wanted if name not in OUTCOMES]
    if unknown:
        raise UsageError(f"unknown outcome {unknown[0]!r}", "give some of: " + ", ".join(OUTCOMES))
    if not 0 <= min_duration_ms < float("inf"):
        raise UsageError(f"bad minimum duration {min_duration_ms:g}", "give milliseconds, 0 or more")
    return Choice(owner_filter(options), tuple(int(Outcome[name.upper()]) for name in wanted), int(min_duration_ms * 1e6))


def check_sort(sort: str | None, top: int | None) -> None:
    """
    Raises:
        UsageError: an unknown order, or --top without one.
    """
    if sort is not None and sort not in SORTS:
        raise UsageError(f"cannot sort by {sort!r}", "sort by one of: " + ", ".join(SORTS))
    if top is not None and (top < 1 or sort is None):
        raise UsageError("--top needs a number of at least 1 and --sort", "for example: --sort bytes --top 10")


class Output:
    """Where connections are written, in the chosen format."""

    def __init__(self, format_name: Format, wide: bool, names: HostNames | None) -> None:
        self.cgroups: CgroupNames = CgroupPaths()
        self._host = names
        self._stream = sys.stdout.buffer
        self._lines = Lines(self._stream, FORMATS[format_name](CONNECTION_NAMES)) if format_name in FORMATS else None
        self._table = Table(ENDED_COLUMNS if not wide else widened(ENDED_COLUMNS), WIDE + 40 if wide else table_width())
        self._begun = False

    def write(self, connections: ConnectionArray, wall_offset_ns: int) -> None:
        """Writes and flushes; before the first ones their heading."""
        rows = ConnectionRows(connections, wall_offset_ns, self.cgroups, self._host)
        self._begin()
        if self._lines is not None:
            self._lines.columns(connection_columns(rows))
        else:
            self._stream.write("".join(self._table.lines(rows)).encode(errors="replace"))
        self._stream.flush()

    def lost(self, batch: EventBatch) -> None:
        """A loss, in a table only: in JSON and CSV each connection says whether it is complete."""
        if self._lines is None:
            self._begin()
            self._stream.write(loss_line(batch).encode())

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            if self._lines is not None:
                self._lines.begin()
            else:
                self._stream.write(f"{self._table.heading()}\n".encode())


def widened(columns: Sequence[TableColumn]) -> list[TableColumn]:
    """All of them, whatever the width."""
    return [replace(column, rank=0) for column in columns]


def write_connections(run: Run, choice: Choice, output: Output, sort: str | None, top: int | None) -> None:
    """Folds every batch; writes each wanted connection as it ends, or, sorted, all of them at the end."""
    if isinstance(run.capture, RecordedCapture):
        output.cgroups = run.capture.cgroups
    table = ConnectionTable(sees_accepts=any(h.hook == "accept" and h.kind for h in run.capture.hooks))
    merged = MergedConnections(table, run.keep, run.capture.facts.home_netns)
    with begin_reconciling(run, ports=False) as reconciler:
        fold_and_write(run, merged, reconciler, choice, output, sort, top)


def fold_and_write(
    run: Run, merged: MergedConnections, reconciler: Reconciling, choice: Choice, output: Output, sort: str | None, top: int | None
) -> None:
    kept: list[ConnectionArray] = []
    wall_offset_ns = 0
    output.write(np.zeros(0, dtype=ENDED_DTYPE), 0)
    for batch in run.batches(POLL_S):
        if batch.lost:
            output.lost(batch)
        ended = merged.fold(batch)
        reconciler.apply_if_ready(batch, merged.reconcile)
        ended = ended[choice.keep(ended)]
        ended = ended[: run.room(len(ended))]
        wall_offset_ns = batch.wall_offset_ns
        if sort is not None:
            kept.append(ended)
        elif len(ended):
            output.write(ended, wall_offset_ns)
    if sort is not None:
        connections = np.concatenate(kept) if kept else np.zeros(0, dtype=ENDED_DTYPE)
        order = np.argsort(-SORTS[sort](connections).astype(np.int64), kind="stable")
        output.write(connections[order[:top]], wall_offset_ns)
