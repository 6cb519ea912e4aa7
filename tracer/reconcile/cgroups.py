# SPDX-License-Identifier: Apache-2.0
"""From a cgroup's id to its path, and from its path to the container or service that it stands for."""

import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

CGROUP_MOUNTS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
#: Looking through all cgroups takes milliseconds; an id that is not there is not looked for again sooner.
LOOK_AGAIN_S = 1.0

_ID = r"([0-9a-f]{12})[0-9a-f]{52}"
#: Engine by the form of a path's last folder. Sources: the cgroup drivers of runc (systemd: PREFIX-ID.scope; cgroupfs: /docker/ID).
_SCOPES = (
    ("docker", re.compile(rf"docker-{_ID}\.scope$")),
    ("containerd", re.compile(rf"cri-containerd-{_ID}\.scope$")),
    ("cri-o", re.compile(rf"crio-{_ID}(?:\.scope)?$")),
    ("podman", re.compile(rf"libpod-{_ID}(?:\.scope)?$")),
    ("docker", re.compile(rf"/docker/{_ID}$")),
)
_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
_BARE_ID = re.compile(rf"/{_ID}$")
_UNIT = re.compile(r"/([^/]+\.(?:service|scope))(?:/|$)")


@lru_cache(maxsize=4096)
def container_name(path: str) -> str | None:
    """
    What a cgroup stands for: "docker/0123456789ab" (as `docker ps` shows it), "containerd/...", "cri-o/...", "podman/...", with "pod UID"
    behind it in Kubernetes, or "systemd/nginx.service"; None for a cgroup that is none of these.
    """
    # What runs inside a container has its own folders below the container's.
    parts = path.split("/")
    for depth in range(len(parts), 0, -1):
        name = _engine_and_id("/".join(parts[:depth]))
        if name is not None:
            pod = _POD.search(path)
            return f"{name} pod {pod[1].replace('_', '-')}" if pod else name
    unit = _UNIT.findall(path)
    return f"systemd/{unit[-1]}" if unit else None


def _engine_and_id(path: str) -> str | None:
    for engine, form in _SCOPES:
        match = form.search(path)
        if match:
            return f"{engine}/{match[1]}"
    bare = _BARE_ID.search(path)
    return f"kubepods/{bare[1]}" if bare and "kubepods" in path else None


class CgroupPaths:
    """
    Paths of v2 cgroups by id, which is the inode number of the folder. One that is removed before it was looked for has no path.

    Args:
        mounts: where the v2 hierarchy may be mounted; the first that has one counts.
    """

    def __init__(self, mounts: tuple[Path, ...] = CGROUP_MOUNTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = next((mount for mount in mounts if (mount / "cgroup.procs").exists()), None)
        self._clock = clock
        self._paths: dict[int, str] = {}
        self._look_after = 0.0

    def path(self, cgroup: int) -> str | None:
        """The path below the mount, beginning with a slash; None where it cannot be known."""
        if cgroup and cgroup not in self._paths and self._clock() >= self._look_after:
            self._look()
        return self._paths.get(cgroup)

    def _look(self) -> None:
        self._look_after = self._clock() + LOOK_AGAIN_S
        if self._root is None:
            return
        for folder in (self._root, *self._root.rglob("*/")):
            try:
                self._paths[folder.stat().st_ino] = "/" + str(folder.relative_to(self._root)).strip(".")
            except OSError:
                continue  # removed in the meantime
