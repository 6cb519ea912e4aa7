# SPDX-License-Identifier: Apache-2.0
"""Loading and attaching one program at a time, with bcc's bare exceptions turned into HookError at this one place."""

import errno
import os

#: bcc puts the error's text into its message, not its number.
ERRNO_BY_TEXT = {os.strerror(number): number for number in errno.errorcode}


class HookError(Exception):
    """A program that could not be loaded (stage "load") or attached (stage "attach")."""

    def __init__(self, stage, message):
        super().__init__(message)
        self.stage = stage
        self.errno = next((number for text, number in ERRNO_BY_TEXT.items() if text in message), None)


class Attacher:
    """
    Attaches programs of one compiled module; the descriptors that keep them attached are collected by name.

    unavailable: reason by kind of hook, for those whose program could not even be prepared.
    """

    def __init__(self, bpf_class, module, unavailable):
        self._module = module
        self._unavailable = unavailable
        self._kinds = {
            "raw_tracepoint": (bpf_class.RAW_TRACEPOINT, self._raw_tracepoint),
            "syscall": (bpf_class.TRACEPOINT, self._tracepoint),
        }
        self.descriptors = {"events": module[b"events"].map_fd, "counters": module[b"counters"].map_fd}
        #: Name of the descriptor of each loaded program, by the program's name.
        self.programs = {}

    def attach(self, candidate):
        """
        Loads a candidate's program and attaches it to all of its targets.

        Raises:
            HookError: the kernel refuses; nothing stays attached.
        """
        if candidate["kind"] in self._unavailable:
            raise HookError("attach", self._unavailable[candidate["kind"]])
        program_type, attach_one = self._kinds[candidate["kind"]]
        name = candidate["program"]
        program = self._try("load", self._module.load_func, name, program_type)
        links = {target: self._try("attach", attach_one, target, name) for target in candidate["targets"]}
        self.programs[name] = "program:" + name
        self.descriptors["program:" + name] = program.fd
        self.descriptors.update({"link:" + target: fd for target, fd in links.items()})

    def _try(self, stage, action, *args):
        try:
            return action(*args)
        except Exception as error:  # bcc raises nothing more precise
            raise HookError(stage, str(error)) from error

    def _raw_tracepoint(self, target, program):
        self._module.attach_raw_tracepoint(tp=target, fn_name=program)
        return self._module.raw_tracepoint_fds[target.encode()]

    def _tracepoint(self, target, program):
        self._module.attach_tracepoint(tp=target, fn_name=program)
        return self._module.tracepoint_fds[target.encode()]
