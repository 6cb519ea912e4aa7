# SPDX-License-Identifier: Apache-2.0
"""
What can go wrong, as one tree: a leaf for each thing that a user can do about it, each with its exit code.

Everything else that escapes is a bug and keeps its traceback. Apart from the rest of the package so that every module can import it.
"""

from typing import ClassVar


class TcptraceError(Exception):
    """
    Base of all errors that are shown to the user.

    Args:
        problem: what failed, in one line.
        advice: what to do about it, in one line.
        log: what a compiler, the verifier or another program said; shown with --debug only.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, advice: str = "", log: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.advice = advice
        self.log = log


class UsageError(TcptraceError):
    """The command line or the configuration asks for something that makes no sense."""

    exit_code = 2


class OutputError(TcptraceError):
    """The output cannot be written any more."""


class HostError(TcptraceError):
    """This host, or this user on it, cannot trace."""

    exit_code = 3


class ProgramError(TcptraceError):
    """A BPF program was not compiled or not accepted: a defect of ours, or a kernel that we do not know."""

    exit_code = 4


class RingError(TcptraceError):
    """The ring buffer holds what no program of ours writes."""

    exit_code = 5


class RecordingError(TcptraceError):
    """A recording cannot be read."""

    exit_code = 6
