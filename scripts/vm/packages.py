# SPDX-License-Identifier: Apache-2.0
"""
Debian's packages of any suite, unpacked into a folder of their own: kernels here, BCC in scripts/bcc/roots.py.

Fetched with apt under a configuration that has nothing in common with the machine's but the mirror: own sources, own lists, no
installed packages.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kernels import Kernel, LabError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OS_RELEASE = Path("/etc/os-release")
#: The kernel itself depends on the first of these; since 7.0 it comes in two parts.
PARTS = re.compile(r"^linux-(?:image|binary|modules)-\d\S*$", re.MULTILINE)

APT_CONF = """\
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "{folder}/state";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
Acquire::Languages "none";
APT::Sandbox::User "root";
"""


def run(*command: str, folder: Path | None = None, apt_conf: Path | None = None) -> str:
    """
    Standard output of a command.

    Raises:
        LabError: it fails.
    """
    environment = {**os.environ, "LC_ALL": "C"} | ({"APT_CONFIG": str(apt_conf)} if apt_conf else {})
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise LabError(f"{command[0]} {command[-1]}: {said[-1]}")
    return done.stdout


def mirror() -> str:
    """
    Where this machine gets Debian itself from.

    Raises:
        LabError: it is no Debian, or has no sources.
    """
    codename = re.search(r"^VERSION_CODENAME=(\S+)", OS_RELEASE.read_text(), re.MULTILINE)
    if codename is None or not KEYRING.exists():
        raise LabError("this is no Debian: what is fetched are Debian's packages")
    query = ("Created-By: Packages", f"Release: {codename[1]}", "Component: main")
    found = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *query).split()
    if not found:
        raise LabError(f"this machine's package sources do not have {codename[1]}")
    return found[0]


def configure_apt(folder: Path, suite: str) -> Path:
    """A private apt of one suite; the path of its configuration."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
    configuration = folder / "apt.conf"
    configuration.write_text(APT_CONF.format(folder=folder))
    return configuration


def update_lists(apt_conf: Path) -> None:
    """
    Raises:
        LabError: the lists cannot be had. Without this option an update that fetched nothing is none that failed.
    """
    run("apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update", apt_conf=apt_conf)


def parts_of(metapackage: str, apt_conf: Path) -> list[str]:
    """The packages of the newest kernel that a metapackage depends on."""
    options = ("--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances")
    found = PARTS.findall(run("apt-cache", "depends", *options, metapackage, apt_conf=apt_conf))
    if not found:
        raise LabError(f"{metapackage} depends on no kernel")
    return sorted(set(found))


def fetch(kernel: Kernel, lab: Path, refresh: bool = False) -> Path:
    """
    The folder with a kernel's boot image and modules, as they lie below "/" where it is installed.

    Args:
        kernel: which one.
        lab: folder for everything that is kept.
        refresh: get it again, as new as it now is.

    Raises:
        LabError: it cannot be had.
    """
    folder = lab / "kernels" / kernel.name
    if folder.is_dir() and not refresh:
        return folder
    apt_conf = configure_apt(lab / "apt" / kernel.suite, kernel.suite)
    update_lists(apt_conf)
    with whole(folder) as unfinished:
        run("apt-get", "-q", "download", *parts_of("linux-image-amd64", apt_conf), folder=unfinished, apt_conf=apt_conf)
        unpack(unfinished.glob("*.deb"), unfinished)
    return folder


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of *folder* once that is done: what is there is whole."""
    unfinished = folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def unpack(packages: Iterable[Path], folder: Path) -> None:
    """Unpacks the packages, which are deleted."""
    for package in list(packages):
        run("dpkg-deb", "-x", str(package), str(folder))
        package.unlink()


def boot_image(folder: Path) -> Path:
    """
    Raises:
        LabError: the packages have none.
    """
    found = [*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")]
    if not found:
        raise LabError(f"no kernel image in {folder}")
    return found[0]
