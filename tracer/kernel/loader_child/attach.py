# SPDX-License-Identifier: Apache-2.0
"""Loading and attaching one program at a time, with bcc's bare exceptions turned into HookError at this one place."""

import ctypes
import errno
import os

#: bcc puts the error's text into its message, not its number.
ERRNO_BY_TEXT = {os.strerror(number): number for number in errno.errorcode}


class HookError(Exception):
    """A program that could not be loaded (stage "load") or attached (stage "attach")."""

    def __init__(self, stage, message, number=None):
        super().__init__(message)
        self.stage = stage
        self.errno = number


def errno_in(message):
    """The number of the error that a message names, or None."""
    return next((number for text, number in ERRNO_BY_TEXT.items() if text in message), None)


class Attacher:
    """
    Attaches programs of one compiled module; the descriptors that keep them attached are collected by name.

    unavailable: reason by kind of hook, for those whose program could not even be prepared.
    """

    def __init__(self, bcc, module, unavailable):
        self._lib = bcc.lib
        self._module = module
        self._unavailable = unavailable
        self._kinds = {
            "raw_tracepoint": (bcc.BPF.RAW_TRACEPOINT, self._raw_tracepoint),
            "syscall": (bcc.BPF.TRACEPOINT, self._tracepoint),
        }
        self.descriptors = {"events": module[b"events"].map_fd, "counters": module[b"counters"].map_fd}

    def attach(self, candidate):
        """
        Loads a candidate's programs and attaches each to all targets.

        Raises:
            HookError: the kernel refuses; what was attached of the candidate goes with this process.
        """
        if candidate["kind"] in self._unavailable:
            raise HookError("attach", self._unavailable[candidate["kind"]])
        program_type, attach_one = self._kinds[candidate["kind"]]
        descriptors = {}
        for program in candidate["programs"]:
            fd = descriptors["program:" + program] = self._load(program, program_type)
            for target in candidate["targets"]:
                link = attach_one(fd, target)
                if link < 0:
                    raise HookError("attach", "%s: %s" % (target, os.strerror(ctypes.get_errno())), ctypes.get_errno())
                descriptors["link:%s:%s" % (program, target)] = link
        self.descriptors.update(descriptors)

    def _load(self, program, program_type):
        try:
            return self._module.load_func(program, program_type).fd
        except Exception as error:  # bcc raises nothing more precise
            raise HookError("load", str(error), errno_in(str(error))) from error

    def _raw_tracepoint(self, program_fd, target):
        return self._lib.bpf_attach_raw_tracepoint(program_fd, target.encode())

    def _tracepoint(self, program_fd, target):
        category, name = target.encode().split(b":")
        return self._lib.bpf_attach_tracepoint(program_fd, category, name)
