# SPDX-License-Identifier: Apache-2.0
"""BCC of another suite with everything that it needs, down to the C library, unpacked into a folder."""

import re
import shutil
from pathlib import Path

from kernels import LabError
from packages import configure_apt, run, unpack, update_lists, whole

PACKAGE = "python3-bpfcc"
PYTHON = "python3"
LOOK = Path(__file__).with_name("look.py")
#: From Debian 13 on the packages have these below /usr only, and leave the links to base-files, which none of them needs.
LINKED = ("bin", "sbin", "lib", "lib64")
LLVM = re.compile(r"libLLVM(?:-|\.so\.)(\d+)")


def fetch_root(suite: str, lab: Path, refresh: bool = False) -> Path:
    """
    The folder with a suite's BCC, Python and libraries; the PYTHON in it starts that Python.

    Args:
        suite: of Debian.
        lab: folder for everything that is kept.
        refresh: get it again, as new as it now is.

    Raises:
        LabError: it cannot be had.
    """
    folder = lab / "roots" / suite
    if folder.is_dir() and not refresh:
        return folder
    with whole(folder) as unfinished:
        unpack(download(lab / "apt" / suite, suite), unfinished)
        complete(unfinished)
    return folder


def download(folder: Path, suite: str) -> list[Path]:
    """The files of the package and of all that it needs: nothing counts as installed."""
    apt_conf = configure_apt(folder, suite)
    update_lists(apt_conf)
    run("apt-get", "-q", "--yes", "--no-install-recommends", "--download-only", "install", PACKAGE, apt_conf=apt_conf)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def complete(root: Path) -> None:
    """Adds the links that the packages count on, and what starts the Python."""
    for name in LINKED:
        if not (root / name).exists() and (root / "usr" / name).is_dir():
            (root / name).symlink_to(f"usr/{name}")
    shutil.copy(Path(__file__).with_name(PYTHON), root)


def python_of(root: Path) -> Path:
    """What starts the Python of a folder, as the loader child's."""
    return root / PYTHON


def python_version(root: Path) -> str:
    """
    Of the folder's Python: "3.13.5".

    Raises:
        LabError: it does not start, has no BCC, or takes libraries of this system, so that it would prove nothing.
    """
    version, *strangers = run(str(python_of(root)), "-I", str(LOOK), str(root)).split()
    if strangers:
        raise LabError(f"the Python in {root} takes libraries from elsewhere: {', '.join(sorted(strangers))}")
    return version


def llvm_version(root: Path) -> str:
    """
    Of the library that BCC compiles with: "19".

    Raises:
        LabError: there is none.
    """
    found = [match[1] for path in root.glob("usr/lib/*/libLLVM*") if (match := LLVM.match(path.name))]
    if not found:
        raise LabError(f"no LLVM in {root}")
    return found[0]
