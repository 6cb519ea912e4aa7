# SPDX-License-Identifier: Apache-2.0
"""The command line: its commands, and the one place where errors become messages and exit codes."""

import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tracer import __version__
from tracer.cli import conns, doctor, events, export, live, query, record, replay
from tracer.errors import OutputError, TcptraceError, UsageError

#: typer brings its own click or uses the installed one, by version; this is UsageError of whichever it is.
ArgumentError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="tcptrace",
    help="Shows every TCP connection of this host being born, living and dying. Without a command: live.",
    epilog="Example: sudo tcptrace events -P 443",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tcptrace {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, show the whole log and traceback.")] = False,
) -> None:
    """Options of every command; --debug is looked for in the arguments themselves, see run()."""


#: What a write to a full disk, a full quota or a file that may not grow gives.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def discard_output() -> None:
    """Lets what is still buffered for standard output go nowhere: the interpreter flushes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def ends_with_its_reader(command: Callable[..., None]) -> Callable[..., None]:
    """A command for which it is a normal end that the reader of its output has gone; click would leave with exit code 1."""

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        try:
            command(**arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
        except OSError as error:
            if error.errno not in FULL:
                raise
            discard_output()
            raise OutputError(f"cannot write the output: {error.strerror}", "free some space, or write elsewhere") from error

    return wrapper


for command in (live.live, events.events, conns.conns, record.record, replay.replay, export.export, query.query, doctor.doctor):
    app.command(command.__name__)(ends_with_its_reader(command))

OWN_OPTIONS = ("-h", "--help", "--version", "--debug")


def with_command(arguments: Sequence[str]) -> list[str]:
    """The arguments with `live` put in where no command is named."""
    given = [a for a in arguments if a != "--debug"]
    leading = [a for a in arguments if a == "--debug"]
    if not given or (given[0].startswith("-") and given[0] not in OWN_OPTIONS):
        given.insert(0, "live")
    return leading + given


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit code."""
    debug = "--debug" in arguments
    if sys.stderr is None:
        # Closed: print() would write to standard output instead.
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # until the process ends
    try:
        if sys.stdout is None:
            raise UsageError("standard output is closed", "redirect it to a file or to /dev/null instead")
        result = app(with_command(arguments), prog_name="tcptrace", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except TcptraceError as error:
        report(error, debug)
        if debug:
            raise
        return error.exit_code
    except ArgumentError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        return 0


def report(error: TcptraceError, debug: bool) -> None:
    print(f"tcptrace: error: {error.problem}", file=sys.stderr)
    if error.advice:
        print(f"tcptrace: {error.advice}", file=sys.stderr)
    if debug and error.log:
        print(error.log, file=sys.stderr)


def complain(error: Exception) -> None:
    """What is wrong with the arguments, and where to read how they are."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "tcptrace"
    print(f"tcptrace: error: {error.format_message()}", file=sys.stderr)  # type: ignore[attr-defined]  # of ArgumentError
    print(f"tcptrace: see: {command} --help", file=sys.stderr)
