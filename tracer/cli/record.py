# SPDX-License-Identifier: Apache-2.0
"""tcptrace record: the event log."""

import re
from typing import Annotated, Literal

import typer

from tracer.cli.opening import require_pyarrow
from tracer.cli.options import CaptureOptions, takes
from tracer.cli.run import begin_capture, running, say
from tracer.errors import UsageError

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SPANS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@takes(CaptureOptions)
def record(
    options: CaptureOptions,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Write here: a file, a FIFO, or - for stdout.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    console: Annotated[bool, typer.Option("--console", help="Show the live view meanwhile.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Meanwhile one snapshot object per second on stdout, as live --json.")] = False,
    compression: Annotated[Literal["zstd", "lz4", "none"], typer.Option("--compression", help="Of the events.")] = "zstd",
    rotate_size: Annotated[str | None, typer.Option("--rotate-size", metavar="SIZE", help="Begin another file at this size: 100M.")] = None,
    rotate_time: Annotated[str | None, typer.Option("--rotate-time", metavar="TIME", help="Begin another file after: 10m, 1h.")] = None,
    keep: Annotated[int | None, typer.Option("--keep", metavar="N", help="With rotation: delete the oldest files beyond N.")] = None,
    max_size: Annotated[str | None, typer.Option("--max-size", metavar="SIZE", help="Stop when all files have this size.")] = None,
) -> None:
    """
    Writes the event log: everything that is seen, to be replayed, exported and queried later.

    Example: sudo tcptrace record -o run.arrows --duration 600
    """
    require_pyarrow()
    from tracer.log.recording import Destination, Recording

    check_choice(options, output, console, json, keep, rotate_size or rotate_time)
    destination = Destination(output, force, compression, parse_size(rotate_size), parse_span(rotate_time), keep or 0, parse_size(max_size))
    if destination.rotates and not destination.is_file:
        raise UsageError(f"{output} cannot be rotated", "give -o the name of a file")
    with Recording(destination) as recording:
        pending = begin_capture(options)
        # While the programs are compiled.
        from tracer.cli.reconciling import begin_reconciling
        from tracer.cli.recorder import record_until_stopped, run_info, shown, sizes

        with running(pending, options) as run, begin_reconciling(run) as reconciler, shown(run, recording, console, json) as view:
            recording.begin(run_info(run))
            record_until_stopped(run, reconciler, recording, view)
    say(f"tcptrace: recorded {output}: {sizes(recording.events, recording.size)}")


def check_choice(options: CaptureOptions, output: str, console: bool, json: bool, keep: int | None, rotates: str | None) -> None:
    """
    Raises:
        UsageError: options that exclude or need each other.
    """
    if console and json:
        raise UsageError("--console and --json exclude each other", "leave one of them out")
    if (console or json) and output == "-":
        raise UsageError("standard output cannot carry the recording and a view of it", "give -o the name of a file")
    if (console or json) and (options.pid or options.comm or options.cgroup):
        raise UsageError("the live view shows the whole host: -p, -c and --cgroup do not apply", "leave out --console and --json")
    if keep is not None and (keep < 1 or not rotates):
        raise UsageError("--keep needs a number, at least 1, and --rotate-size or --rotate-time", "for example: --rotate-time 1h --keep 24")


def parse_size(text: str | None) -> int:
    """
    Bytes from "500K", "64M", "2G"; 0 for None.

    Raises:
        UsageError: not such a size, or less than 64K.
    """
    if text is None:
        return 0
    found = re.fullmatch(r"([0-9]+)([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    size = int(found[1]) * UNITS[found[2].upper()] if found else 0
    if size < 1 << 16:
        raise UsageError(f"bad size {text!r}", "give a size of at least 64K: 500K, 64M, 2G")
    return size


def parse_span(text: str | None) -> float:
    """
    Seconds from "90", "10m", "1h", "1d"; 0 for None.

    Raises:
        UsageError: not such a time, or less than a second.
    """
    if text is None:
        return 0.0
    found = re.fullmatch(r"([0-9]+)([smhd]?)", text.strip(), re.IGNORECASE)
    seconds = int(found[1]) * SPANS[found[2].lower()] if found else 0
    if seconds < 1:
        raise UsageError(f"bad time {text!r}", "give seconds, or minutes, hours or days: 90, 10m, 1h, 1d")
    return float(seconds)
