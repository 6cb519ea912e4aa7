# SPDX-License-Identifier: Apache-2.0
"""
The options that several commands share, each declared once.

A command takes `options: CaptureOptions`; the decorator gives it one command-line option for each field.
"""

import dataclasses
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from tracer.config import read_config
from tracer.errors import UsageError
from tracer.events.filters import CaptureFilter, is_number, parse_networks, parse_ports
from tracer.kernel.plan import ACCEPT_HOOKS, CapturePlan, parse_ring_size

NETNS_FOLDER = Path("/run/netns")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions:
    """The capture options of every command that captures, as text and numbers from the command line."""

    duration: Annotated[float | None, typer.Option("--duration", metavar="S", help="Stop after S seconds.")] = None
    count: Annotated[int | None, typer.Option("--count", metavar="N", help="Stop after N events.")] = None
    pid: Annotated[str | None, typer.Option("-p", "--pid", metavar="PID,..", help="Only connections of these processes.")] = None
    comm: Annotated[str | None, typer.Option("-c", "--comm", metavar="NAME,..", help="Only connections of tasks of these names.")] = None
    port: Annotated[str | None, typer.Option("-P", "--port", metavar="PORTS", help="Either end has one of these ports: 80,8000-8099.")] = (
        None
    )
    lport: Annotated[str | None, typer.Option("-L", "--lport", metavar="PORTS", help="The local port is one of these.")] = None
    rport: Annotated[str | None, typer.Option("-D", "--rport", metavar="PORTS", help="The remote port is one of these.")] = None
    ipv4: Annotated[bool, typer.Option("-4", "--ipv4", help="Only IPv4, v4-mapped included.")] = False
    ipv6: Annotated[bool, typer.Option("-6", "--ipv6", help="Only IPv6.")] = False
    addr: Annotated[list[str] | None, typer.Option("--addr", metavar="CIDR", help="Either address lies in this network; repeatable.")] = (
        None
    )
    netns: Annotated[
        str | None,
        typer.Option("--netns", metavar="NS", help="Only this network namespace: name, PID, path, number; all: look into each."),
    ] = None
    cgroup: Annotated[Path | None, typer.Option("--cgroup", metavar="PATH", help="Only processes in this cgroup (v2) or below it.")] = None
    ring_size: Annotated[str, typer.Option("--ring-size", metavar="SIZE", help="Size of the ring buffer, a power of two.")] = "8M"
    accept_hook: Annotated[
        str, typer.Option("--accept-hook", metavar="HOOK", help="How accepts are seen: " + ", ".join(ACCEPT_HOOKS) + ".")
    ] = "auto"
    no_bpf: Annotated[bool, typer.Option("--no-bpf", help="Poll the socket table instead: sees less, needs no privilege.")] = False
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Take options from this TOML file.")] = None
    summary: Annotated[Path | None, typer.Option("--summary", metavar="FILE", help="Write a summary of the run as JSON.")] = None

    @property
    def every_namespace(self) -> bool:
        """Whether the socket tables of other network namespaces are to be read too."""
        return self.netns == "all"

    def plan(self) -> CapturePlan:
        """
        What the kernel side has to do.

        Raises:
            UsageError: an option makes no sense.
        """
        if self.accept_hook not in ACCEPT_HOOKS:
            raise UsageError(f"bad accept hook {self.accept_hook!r}", "give one of: " + ", ".join(ACCEPT_HOOKS))
        keep = CaptureFilter(
            ports=parse_ports(self.port) if self.port is not None else (),
            lports=parse_ports(self.lport) if self.lport is not None else (),
            rports=parse_ports(self.rport) if self.rport is not None else (),
            family=self._family(),
            networks=parse_networks(self.addr or ()),
            netns=parse_netns(self.netns) if self.netns is not None and not self.every_namespace else 0,
        )
        return CapturePlan(keep, parse_ring_size(self.ring_size), self.accept_hook)

    def _family(self) -> int:
        if self.ipv4 and self.ipv6:
            raise UsageError("-4 and -6 exclude each other", "leave both out to see both families")
        return 4 if self.ipv4 else 6 if self.ipv6 else 0

    def check(self) -> None:
        """
        Refuses limits that could never be met, and a summary that could not be written, before anything starts.

        Raises:
            UsageError: as said.
        """
        if self.count is not None and self.count < 1:
            raise UsageError(f"bad count {self.count}", "give the number of events to stop after, at least 1")
        if self.duration is not None and not 0 < self.duration < float("inf"):
            raise UsageError(f"bad duration {self.duration:g}", "give a number of seconds above 0")
        if self.summary is not None:
            check_writable(self.summary)


def check_writable(path: Path) -> None:
    """
    Raises:
        UsageError: a file of this name cannot be written.
    """
    try:
        target = path if path.exists() else path.parent
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "give a file that you may write") from error
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder", "give the name of a file")
    if not target.exists():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}", "make the folder first, or give another name")
    if not os.access(target, os.W_OK):
        raise UsageError(f"cannot write {path}: permission denied or read-only", "give a file that you may write")


#: Recordings to read instead of capturing, on the commands that can.
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="FILE", help="Read a recording instead of capturing; repeat it for the files of a rotation; - is stdin."
    ),
]


def parse_netns(text: str) -> int:
    """
    The inode number of a network namespace from its number, a PID, a name of `ip netns`, or a path.

    A number that is the PID of a process is that process's namespace; inode numbers of namespaces are far above any PID.

    Raises:
        UsageError: no such namespace.
    """
    for path in (Path(f"/proc/{text}/ns/net"), NETNS_FOLDER / text, Path(text)):
        try:
            return path.stat().st_ino
        except OSError:
            continue
    if is_number(text) and int(text) > 1 << 22:  # PID_MAX_LIMIT of include/linux/threads.h
        return int(text)
    raise UsageError(f"no network namespace {text!r}", "give a name of `ip netns`, a PID, a path, or an inode number")


def parse_pids(text: str) -> frozenset[int]:
    """
    Raises:
        UsageError: not a list of process ids.
    """
    items = [item.strip() for item in text.split(",")]
    if not all(is_number(item) and int(item) > 0 for item in items):
        raise UsageError(f"bad pid list {text!r}", "give process ids separated by commas: 1234,5678")
    return frozenset(int(item) for item in items)


def parse_names(text: str) -> frozenset[str]:
    """
    Raises:
        UsageError: an empty name, or one longer than the kernel keeps.
    """
    names = frozenset(re.split(r"\s*,\s*", text.strip()))
    too_long = [name for name in names if len(name.encode()) > 15]
    if "" in names or too_long:
        raise UsageError(f"bad task name in {text!r}", "give names of at most 15 bytes, as in /proc/PID/comm, separated by commas")
    return names


def takes(options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Gives a command with a parameter `options` one command-line option for each field of the dataclass.

    What the command line leaves out is taken from the file of --config.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(options, include_extras=True)
        fields = dataclasses.fields(options)

        def wrapper(context: typer.Context, **arguments: Any) -> None:
            values = {field.name: arguments.pop(field.name) for field in fields}
            if values["config"] is not None:
                values |= from_config(context, values["config"], options)
            command(options=options(**values), **arguments)

        keyword = inspect.Parameter.KEYWORD_ONLY
        own = [p.replace(kind=keyword) for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
        shared = [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields]
        parameters = [inspect.Parameter("context", keyword, annotation=typer.Context), *own, *shared]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        wrapper.__name__ = command.__name__
        wrapper.__doc__ = command.__doc__
        return wrapper

    return decorate


def from_config(context: typer.Context, path: Path, options: type[Any]) -> dict[str, Any]:
    """
    The values of a configuration file that the command line does not override.

    Raises:
        UsageError: as read_config.
    """
    values = read_config(path, options)
    for name in ("cgroup", "summary"):
        if values.get(name) is not None:
            values[name] = Path(values[name])
    sources = {name: context.get_parameter_source(name) for name in values}
    return {name: value for name, value in values.items() if (source := sources[name]) is None or source.name == "DEFAULT"}
