# SPDX-License-Identifier: Apache-2.0
"""
What to load and attach on a host: pure decisions from facts, so that a table can test them.

The loader child carries a LoadRequest out; which candidate of a hook was taken comes back with its reply.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tracer.errors import HostError, UsageError
from tracer.events.filters import CaptureFilter, Network, PortRanges, is_number, network_bytes
from tracer.kernel.facts import HostFacts

PAGE_SIZE = 4096
#: At 800,000 events a second 1 MB loses some, 4 MB none unless two busy processes keep us from the CPU; 16 MB is no faster.
DEFAULT_RING_BYTES = 8 << 20
MAX_RING_BYTES = 1 << 30

#: The ring buffer came with 457f44363a88 ("bpf: Implement BPF ring buffer and verifier support for it", v5.8).
MINIMUM_KERNEL = (5, 8)

ACCEPT_HOOKS = ("auto", "fexit", "kprobe", "syscall", "off")

#: Macro -> (field, its size in bytes, whether the programs cannot do without it). Offsets come from the kernel's BTF.
KERNEL_FIELDS: Mapping[str, tuple[str, int, bool]] = {
    "SKC_DADDR": ("sock_common.skc_daddr", 4, True),
    "SKC_RCV_SADDR": ("sock_common.skc_rcv_saddr", 4, True),
    "SKC_DPORT": ("sock_common.skc_dport", 2, True),
    "SKC_NUM": ("sock_common.skc_num", 2, True),
    "SKC_FAMILY": ("sock_common.skc_family", 2, True),
    "SKC_NET": ("sock_common.skc_net", 8, True),
    "SKC_V6_DADDR": ("sock_common.skc_v6_daddr", 16, False),
    "SKC_V6_RCV_SADDR": ("sock_common.skc_v6_rcv_saddr", 16, False),
    "SK_PROTOCOL": ("sock.sk_protocol", 2, True),
    "SK_ERR": ("sock.sk_err", 4, True),
    "SK_FLAGS": ("sock_common.skc_flags", 8, True),
    "SK_ACK_BACKLOG": ("sock.sk_ack_backlog", 4, True),
    "SK_MAX_ACK_BACKLOG": ("sock.sk_max_ack_backlog", 4, True),
    "INET_SPORT": ("inet_sock.inet_sport", 2, True),
    "NET_INUM": ("net.ns.inum", 4, True),
    "TP_BYTES_ACKED": ("tcp_sock.bytes_acked", 8, True),
    "TP_BYTES_RECEIVED": ("tcp_sock.bytes_received", 8, True),
    "TP_TOTAL_RETRANS": ("tcp_sock.total_retrans", 4, True),
    "TP_SRTT_US": ("tcp_sock.srtt_us", 4, True),
    "TASK_FILES": ("task_struct.files", 8, True),
    "FILES_FDT": ("files_struct.fdt", 8, True),
    "FDT_FD": ("fdtable.fd", 8, True),
    "FILE_PRIVATE_DATA": ("file.private_data", 8, True),
    "SOCKET_FILE": ("socket.file", 8, True),
    "SOCKET_SK": ("socket.sk", 8, True),
}


class Candidate(msgspec.Struct, frozen=True):
    """
    One way to attach a hook: each of the programs, by their functions' names, to each of the targets.

    Of the kind "kprobe", a program whose name ends in "_return" sees the function's return, any other its entry.
    """

    kind: str
    programs: tuple[str, ...]
    targets: tuple[str, ...]


class HookPlan(msgspec.Struct, frozen=True):
    """A hook and the ways to attach it, best first; a required one that cannot be had ends the start."""

    hook: str
    required: bool
    candidates: tuple[Candidate, ...]


class LoadRequest(msgspec.Struct, frozen=True):
    """What the loader child is asked to do; JSON on its standard input."""

    source: str
    include: str
    headers: str
    defines: dict[str, str]
    fields: Mapping[str, tuple[str, int, bool]]
    hooks: tuple[HookPlan, ...]


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """A capture as asked for: what to keep, how much room, which accept hook ("auto" or one out of ACCEPT_HOOKS)."""

    keep: CaptureFilter = field(default_factory=CaptureFilter)
    ring_bytes: int = DEFAULT_RING_BYTES
    accept_hook: str = "auto"


STATE_HOOK = HookPlan(
    "state",
    True,
    (
        Candidate("raw_tracepoint", ("on_set_state", "on_set_state_nested"), ("inet_sock_set_state",)),
        Candidate("tracepoint", ("on_set_state_tracepoint",), ("sock:inet_sock_set_state",)),
    ),
)

#: What is good to have: where a kernel lacks one of them, the rest goes on without.
SEGMENT_HOOKS = (
    HookPlan("retransmit", False, (Candidate("raw_tracepoint", ("on_retransmit",), ("tcp_retransmit_skb",)),)),
    HookPlan("reset_sent", False, (Candidate("raw_tracepoint", ("on_send_reset",), ("tcp_send_reset",)),)),
    HookPlan("reset_received", False, (Candidate("raw_tracepoint", ("on_receive_reset",), ("tcp_receive_reset",)),)),
)

#: The ways to see an accept, best first: the first two tell the listener, and see io_uring and 32-bit programs too.
ACCEPT_CANDIDATES = (
    Candidate("fexit", ("on_accept_fexit",), ("inet_csk_accept",)),
    Candidate("kprobe", ("on_accept_entry", "on_accept_return"), ("inet_csk_accept",)),
    Candidate("syscall", ("on_accept_exit",), ("syscalls:sys_exit_accept4", "syscalls:sys_exit_accept")),
)

#: Kind of hook -> the macro that compiles its programs; those of the other kinds are always compiled.
PROGRAM_MACROS = {
    "tracepoint": "WITH_STATE_TRACEPOINT",
    "fexit": "WITH_ACCEPT_FEXIT",
    "kprobe": "WITH_ACCEPT_KPROBE",
    "syscall": "WITH_ACCEPT_SYSCALL",
}


def parse_ring_size(text: str) -> int:
    """
    Bytes from "1M", "256K", "4194304": a power of two that the kernel accepts.

    Raises:
        UsageError: not a size, or not a power of two from one page to 1 GB.
    """
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    size = int(number) * unit if is_number(number) else 0
    if not PAGE_SIZE <= size <= MAX_RING_BYTES or size & (size - 1):
        raise UsageError(f"bad ring size {text!r}", "give a power of two from 4K to 1G, such as 4M or 16M")
    return size


def make_request(facts: HostFacts, plan: CapturePlan, bpf_folder: Path) -> LoadRequest:
    """
    What the loader child has to do for a capture on this host.

    Raises:
        HostError: it is known beforehand that this host, or this user on it, cannot trace.
    """
    check_host(facts)
    hooks = (STATE_HOOK, accept_plan(plan.accept_hook), *SEGMENT_HOOKS)
    return LoadRequest(
        source=str(bpf_folder / "tcptrace.bpf.c"),
        include=str(bpf_folder),
        headers=str(bpf_folder / "kernel-headers"),
        defines=make_defines(facts, plan, hooks),
        fields=KERNEL_FIELDS,
        hooks=hooks,
    )


def check_host(facts: HostFacts) -> None:
    """
    Refuses early and clearly what would fail late and obscurely.

    Raises:
        HostError: the first thing that is missing.
    """
    if facts.version < MINIMUM_KERNEL:
        raise HostError(f"kernel {facts.release} is too old: it has no BPF ring buffer", "use Linux 5.8 or later")
    if not facts.privileged:
        raise unprivileged(facts)
    if facts.lockdown == "confidentiality":
        raise locked_down()
    if not facts.btf:
        raise HostError(
            "this kernel has no type information in /sys/kernel/btf/vmlinux", "use a kernel with CONFIG_DEBUG_INFO_BTF=y and /sys mounted"
        )
    if facts.bcc_python is None:
        raise HostError("no Python with BCC was found", "install it: apt-get install python3-bpfcc (elsewhere python3-bcc)")


def locked_down(log: str = "") -> HostError:
    """What to tell whose kernel keeps its memory from BPF."""
    return HostError(
        "the kernel is locked down (confidentiality): BPF may not read kernel memory",
        "boot with lockdown=integrity or none; until then see the sockets by polling: tcptrace live --no-bpf",
        log,
    )


def unprivileged(facts: HostFacts) -> HostError:
    """What to tell a user, or the root of a container, who may not load BPF."""
    if facts.root:
        return HostError(
            "this root has neither CAP_BPF and CAP_PERFMON nor CAP_SYS_ADMIN",
            "run it on the host itself, or give the container these capabilities: docker run --privileged, or --cap-add",
        )
    return HostError("tracing needs root", "run it with sudo, or with the capabilities CAP_BPF and CAP_PERFMON")


def accept_plan(choice: str) -> HookPlan:
    """The accept hook, as chosen by --accept-hook; a hook that is asked for by name is required."""
    if choice == "auto":
        return HookPlan("accept", False, ACCEPT_CANDIDATES)
    wanted = tuple(candidate for candidate in ACCEPT_CANDIDATES if candidate.kind == choice)
    return HookPlan("accept", choice != "off", wanted)


def make_defines(facts: HostFacts, plan: CapturePlan, hooks: tuple[HookPlan, ...]) -> dict[str, str]:
    """The -D constants of the programs, but for the offsets, which only the child can read."""
    defines = {
        "RING_PAGES": str(plan.ring_bytes // PAGE_SIZE),
        "RING_WATERMARK": str(plan.ring_bytes // 2),
        "CPUS": str(facts.possible_cpus),
        "HOME_NETNS": f"{facts.home_netns}U",
        **filter_defines(plan.keep),
    }
    for hook in hooks:
        for candidate in hook.candidates:
            if candidate.kind in PROGRAM_MACROS:
                defines[PROGRAM_MACROS[candidate.kind]] = "1"
    return defines


def filter_defines(keep: CaptureFilter) -> dict[str, str]:
    """The filter as bpf/filter.h wants it; empty fields give no constant."""
    defines = {
        "KEEP_PORTS": _range_items(keep.ports),
        "KEEP_LPORTS": _range_items(keep.lports),
        "KEEP_RPORTS": _range_items(keep.rports),
        "KEEP_FAMILY": str(keep.family or ""),
        "KEEP_NETNS": f"{keep.netns}U" if keep.netns else "",
        "KEEP_NETWORKS": " ".join(_network_item(network) for network in keep.networks),
    }
    return {name: value for name, value in defines.items() if value}


def _range_items(ranges: PortRanges) -> str:
    return " ".join(f"X({low},{high})" for low, high in ranges)


def _network_item(network: Network) -> str:
    address, mask = network_bytes(network)
    words = [int.from_bytes(part[i : i + 4], sys.byteorder) for part in (address, mask) for i in range(0, 16, 4)]
    return "X({})".format(",".join(f"{word:#x}U" for word in words))
