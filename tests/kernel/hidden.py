# SPDX-License-Identifier: Apache-2.0
"""What the machine hides from all tracepoints, counted by a process of its own."""

import contextlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Witness:
    """Counts the softirqs that no tracepoint told of, see witness.py; none where the host takes no BPF."""

    def __init__(self, python: str) -> None:
        command = [python, str(Path(__file__).with_name("witness.py")), str(ROOT / "bpf" / "kernel-headers")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def hidden(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return int(self._process.stdout.readline() or 0)

    def end(self) -> None:
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
