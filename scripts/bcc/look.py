# SPDX-License-Identifier: Apache-2.0
"""
Run by the Python of another suite, which lies in the folder that is the argument: prints its version, and the libraries that BCC and
it have taken from elsewhere.
"""

import platform
import sys
from pathlib import Path

import bcc  # noqa: F401  # for the libraries that it loads

maps = Path("/proc/self/maps").read_text()
libraries = {line.split()[-1] for line in maps.splitlines() if ".so" in line}
print(platform.python_version(), *(name for name in libraries if not name.startswith(sys.argv[1] + "/")))
