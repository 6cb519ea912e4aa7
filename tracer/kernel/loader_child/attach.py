# SPDX-License-Identifier: Apache-2.0
"""Loading and attaching one program at a time, with bcc's bare exceptions turned into HookError at this one place."""

import ctypes
import errno
import os

from btf import BtfError
from perf import attach_tracepoint
from return_probe import ReturnProbe

from bpf import attach_tracing, load_fexit

#: bcc puts the error's text into its message, not its number; EPERM has a text of bcc's own.
ERRNO_BY_TEXT = {os.strerror(number): number for number in errno.errorcode}
ERRNO_BY_TEXT["Need super-user privileges"] = errno.EPERM

PROBE_ENTRY = 0  # of enum bpf_probe_attach_type in libbpf.h of bcc


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

    Args:
        btf: the running kernel's types.
        unavailable: (reason, errno) by kind of hook, for those whose program could not even be prepared.

    Attributes:
        descriptors: by name.
        return_probe: the name of the return probe that is in use, which has to be removed at the end; or None.
    """

    def __init__(self, bcc, module, btf, unavailable):
        self._lib = bcc.lib
        self._module = module
        self._btf = btf
        self._unavailable = unavailable
        self._kinds = {
            "raw_tracepoint": (self._loads(bcc.BPF.RAW_TRACEPOINT), self._raw_tracepoint),
            "tracepoint": (self._loads(bcc.BPF.TRACEPOINT), self._tracepoint),
            "syscall": (self._loads(bcc.BPF.TRACEPOINT), self._tracepoint),
            "fexit": (self._load_fexit, self._fexit),
            "kprobe": (self._loads(bcc.BPF.KPROBE), self._kprobe),
        }
        self.descriptors = {"events": module[b"events"].map_fd, "counters": module[b"counters"].map_fd}
        self.return_probe = None

    def attach(self, candidate):
        """
        Loads a candidate's programs and attaches each to all targets.

        Raises:
            HookError: the kernel refuses; what was attached of the candidate goes with this process.
        """
        kind, targets = candidate["kind"], candidate["targets"]
        if kind in self._unavailable:
            raise HookError("attach", *self._unavailable[kind])
        load, attach_one = self._kinds[kind]
        descriptors = {}
        for program in candidate["programs"]:
            fd = descriptors["program:" + program] = load(program, targets[0])
            for target in targets:
                descriptors["link:%s:%s" % (program, target)] = attach_one(program, fd, target)
        self.descriptors.update(descriptors)

    def _loads(self, program_type):
        def load(program, _):
            try:
                return self._module.load_func(program, program_type).fd
            except Exception as error:  # bcc raises nothing more precise
                raise HookError("load", str(error), errno_in(str(error))) from error

        return load

    def _load_fexit(self, program, target):
        try:
            return load_fexit(program, self._module.dump_func(program.encode()), self._btf.function(target)[0])
        except BtfError as error:
            raise HookError("load", str(error)) from error
        except OSError as error:
            raise HookError("load", "%s: %s" % (program, error.strerror), error.errno) from error

    def _raw_tracepoint(self, _, fd, target):
        return self._checked(target, self._lib.bpf_attach_raw_tracepoint(fd, target.encode()))

    def _tracepoint(self, _, fd, target):
        try:
            return attach_tracepoint(fd, *target.split(":"))
        except OSError as error:
            raise HookError("attach", "%s: %s" % (target, error.strerror), error.errno) from error

    def _fexit(self, _, fd, target):
        try:
            return attach_tracing(fd)
        except OSError as error:
            raise HookError("attach", "%s: %s" % (target, error.strerror), error.errno) from error

    def _kprobe(self, program, fd, target):
        if program.endswith("_return"):
            return self._at_return(fd, target)
        name = ("p_%s_tcptrace_%d" % (target, os.getpid())).encode()
        return self._checked(target, self._lib.bpf_attach_kprobe(fd, PROBE_ENTRY, name, target.encode(), 0, 0))

    def _at_return(self, fd, target):
        try:
            probe = ReturnProbe(target)
        except OSError as error:
            raise HookError("attach", "%s: %s" % (target, error.strerror), error.errno) from error
        try:
            link = self._tracepoint(None, fd, probe.name.replace("/", ":"))
        except HookError:
            probe.remove()
            raise
        self.descriptors.update({"return_probe:events": probe.events, "return_probe:profile": probe.profile})
        self.return_probe = probe.name
        return link

    def _checked(self, target, fd):
        """The descriptor that libbcc returned, unless it is an error."""
        if fd < 0:
            number = ctypes.get_errno()
            raise HookError("attach", "%s: %s" % (target, os.strerror(number)), number)
        return fd
