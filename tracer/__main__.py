# SPDX-License-Identifier: Apache-2.0
"""The command `tcptrace`, and `python -m tracer`."""

import sys


def main() -> int:
    """Runs the command line; returns the exit code."""
    from tracer.cli.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
