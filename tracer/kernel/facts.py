# SPDX-License-Identifier: Apache-2.0
"""What this host has: facts only, read once; the decisions are in plan.py."""

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

BTF = Path("/sys/kernel/btf/vmlinux")
TRACEFS_FOLDERS = (Path("/sys/kernel/tracing/events"), Path("/sys/kernel/debug/tracing/events"))
LOCKDOWN = Path("/sys/kernel/security/lockdown")
SYSTEM_PYTHON = Path("/usr/bin/python3")
#: Environment variable: another interpreter that has bcc, as where BCC was built for a Python of its own.
PYTHON_VARIABLE = "TCPTRACE_BCC_PYTHON"

#: Bits of CapEff. Source: include/uapi/linux/capability.h.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}


@dataclass(frozen=True, slots=True)
class HostFacts:
    """
    Attributes:
        release: kernel release, as `uname -r`.
        version: its first two numbers; only where nothing can be detected instead.
        capabilities: names out of CAPABILITIES that this process has in effect.
        btf: the kernel tells its types.
        tracefs: tracefs is mounted and can be read.
        lockdown: "none", "integrity", "confidentiality", or "" where the kernel has no lockdown.
        possible_cpus: CPUs that may ever come online; their numbers lie below it.
        home_netns: inode number of this process's network namespace.
        bcc_python: an interpreter that has bcc, or None.
    """

    release: str
    version: tuple[int, int]
    machine: str
    root: bool
    capabilities: frozenset[str]
    btf: bool
    tracefs: bool
    lockdown: str
    possible_cpus: int
    home_netns: int
    bcc_python: str | None

    @property
    def privileged(self) -> bool:
        """Whether it may load tracing programs. Root alone does not tell: in a container it often lacks the capabilities."""
        return "CAP_SYS_ADMIN" in self.capabilities or {"CAP_BPF", "CAP_PERFMON"} <= self.capabilities


def probe() -> HostFacts:
    """Reads the facts; whatever cannot be read counts as absent."""
    uname = platform.uname()
    return HostFacts(
        release=uname.release,
        version=kernel_version(uname.release),
        machine=uname.machine,
        root=os.geteuid() == 0,
        capabilities=capabilities(_read(Path("/proc/self/status"))),
        btf=os.access(BTF, os.R_OK),
        tracefs=any(folder.is_dir() for folder in TRACEFS_FOLDERS if os.access(folder, os.R_OK)),
        lockdown=lockdown_mode(_read(LOCKDOWN)),
        possible_cpus=cpu_count(_read(Path("/sys/devices/system/cpu/possible"))),
        home_netns=Path("/proc/self/ns/net").stat().st_ino,
        bcc_python=find_bcc_python(),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 18) from "6.18.44-cloud"; (0, 0) where it has no such form."""
    numbers = release.partition("-")[0].split(".")
    if len(numbers) < 2 or not (numbers[0].isdecimal() and numbers[1].isdecimal()):
        return (0, 0)
    return int(numbers[0]), int(numbers[1])


def capabilities(status: str) -> frozenset[str]:
    """The names out of CAPABILITIES in the CapEff line of /proc/self/status."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(name for name, bit in CAPABILITIES.items() if bits >> bit & 1)
    return frozenset()


def lockdown_mode(text: str) -> str:
    """The word in brackets of "none [integrity] confidentiality"."""
    return text.partition("[")[2].partition("]")[0]


def cpu_count(possible: str) -> int:
    """One more than the highest CPU number in "0-3,8-11"; the number of CPUs online where the list cannot be read."""
    last = possible.strip().replace(",", "-").rpartition("-")[2]
    return int(last) + 1 if last.isdecimal() else os.cpu_count() or 1


def find_bcc_python() -> str | None:
    """
    An interpreter that can import bcc: the one that the user names, else this one, else the system's, where distributions put it.

    Another package on PyPI is called bcc too; BCC's own is known by its libbcc module.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return named
    spec = importlib.util.find_spec("bcc")
    if spec and spec.submodule_search_locations and any((Path(p) / "libbcc.py").exists() for p in spec.submodule_search_locations):
        return sys.executable
    return str(SYSTEM_PYTHON) if os.access(SYSTEM_PYTHON, os.X_OK) else None
