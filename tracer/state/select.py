# SPDX-License-Identifier: Apache-2.0
"""Filters by owner, which only user space can decide: most events of a connection happen where the owner is not at hand."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tracer.state.sockets import ContextArray, PidSource


@dataclass(slots=True)
class CgroupTree:
    """
    The ids of a cgroup and all below it: on 64-bit hosts the inode numbers of their folders.

    A cgroup made later is found by looking again when an id turns up that was not seen before.
    """

    root: Path
    _inside: set[int] = field(default_factory=set)
    _outside: set[int] = field(default_factory=set)

    def contains(self, cgroup: int) -> bool:
        if cgroup not in self._inside and cgroup not in self._outside:
            self._look()
            if cgroup not in self._inside:
                self._outside.add(cgroup)
        return cgroup in self._inside

    def _look(self) -> None:
        for folder in (self.root, *self.root.rglob("*/")):
            try:
                self._inside.add(folder.stat().st_ino)
            except OSError:
                continue  # removed in the meantime


@dataclass(frozen=True, slots=True)
class OwnerFilter:
    """Keeps events of known owners only; an empty field keeps everything."""

    tgids: frozenset[int] = frozenset()
    comms: frozenset[str] = frozenset()
    cgroups: CgroupTree | None = None

    @property
    def keeps_all(self) -> bool:
        return not (self.tgids or self.comms or self.cgroups)

    def keep(self, context: ContextArray) -> npt.NDArray[np.bool_]:
        """Which events belong to a wanted owner: shape (n,), for *context* of shape (n,), CONTEXT_DTYPE."""
        keep: npt.NDArray[np.bool_] = context["pid_source"] != PidSource.NONE
        if self.tgids:
            keep &= np.isin(context["tgid"], list(self.tgids))
        if self.comms:
            keep &= np.isin(context["comm"], [comm.encode() for comm in self.comms])
        if self.cgroups is not None:
            inside = [c for c in np.unique(context["cgroup"][keep]).tolist() if self.cgroups.contains(c)]
            keep &= np.isin(context["cgroup"], inside)
        return keep
