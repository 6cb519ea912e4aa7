# SPDX-License-Identifier: Apache-2.0
"""
What a guest uses all the time of this machine's files, as one archive that it unpacks into its memory.

Over 9p a file is read anew each time it is opened: a start of the loader maps 200 MB of libraries, one of Python opens fifty files.
"""

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

PROGRAMS = ("/usr/bin/python3", "bash", "sh", "cat", "head", "ip", "ss", "sysctl", "unshare", "mount", "setpriv")
LIBBCC = "/usr/lib/*/libbcc.so.0"
FOLDERS = ("/usr/lib/python3.*", "/usr/lib/python3/dist-packages/bcc")
#: Of Python's own library, what no test imports.
LEFT_OUT = frozenset({"test", "idlelib", "lib2to3", "pydoc_data", "tkinter", "ensurepip", "turtledemo"})


def found(pattern: str) -> list[Path]:
    return [path.resolve() for path in Path("/").glob(pattern.removeprefix("/"))]


def libraries_of(path: Path) -> set[Path]:
    """The libraries that a program or library loads, with the one that loads them."""
    said = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
    return {Path(name).resolve() for name in re.findall(r"(/\S+) \(0x", said)}


def single_files() -> set[Path]:
    programs = {Path(path).resolve() for name in PROGRAMS if (path := shutil.which(name))}
    loaded = programs | set(found(LIBBCC))
    return loaded.union(*map(libraries_of, loaded))


def archive_programs(archive: Path, listing: Path) -> None:
    """Makes the archive, and a list of what to mount out of it, one path a line."""

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if Path(entry.name).name in LEFT_OUT else entry

    paths = sorted({*single_files(), *(path for pattern in FOLDERS for path in found(pattern) if path.is_dir())})
    with tarfile.open(archive, "w") as tar:
        for path in paths:
            tar.add(path, filter=chosen)
    listing.write_text("".join(f"{path}\n" for path in paths))
