# SPDX-License-Identifier: Apache-2.0
"""
The bpf system call, for what BCC does under names that differ between its versions: programs of the kind "tracing".

BCC 0.26 takes the function to trace from the program's name, "kretfunc__FUNCTION", and newer ones from "kretfunc__vmlinux__FUNCTION";
any program of such a name it attaches at once, before anyone could catch that this kernel refuses.

Source: include/uapi/linux/bpf.h, union bpf_attr.
"""

import ctypes
import os
import sys

BPF_PROG_LOAD = 5
BPF_RAW_TRACEPOINT_OPEN = 17
BPF_PROG_TYPE_TRACING = 26
BPF_TRACE_FEXIT = 25
INSTRUCTION_BYTES = 8
LOG_BYTES = 1 << 20

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}.get(os.uname().machine)
LIBC = ctypes.CDLL(None, use_errno=True)


class ProgramLoad(ctypes.Structure):
    """What BPF_PROG_LOAD reads, up to attach_btf_id."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("func_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("line_info_cnt", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
    ]


class RawTracepointOpen(ctypes.Structure):
    """What BPF_RAW_TRACEPOINT_OPEN reads; name 0: attach to what the program was loaded for."""

    _fields_ = [("name", ctypes.c_uint64), ("prog_fd", ctypes.c_uint32), ("padding", ctypes.c_uint32)]


def bpf(command, attributes):
    """
    Returns the new descriptor.

    Raises:
        OSError: the kernel refuses, or this machine's number of the system call is not known.
    """
    if SYS_BPF is None:
        raise OSError(0, "no bpf system call known for " + os.uname().machine)
    fd = LIBC.syscall(SYS_BPF, command, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def load_fexit(name, instructions, btf_id):
    """
    Loads a program for the return of the kernel's function *btf_id*; what the verifier says of a refusal goes to standard error.

    Args:
        name: for the kernel's listings, cut to 15 characters.
        instructions: bytes, with the maps' descriptors in place, as BCC leaves them.
        btf_id: of the function, in the kernel's types.

    Raises:
        OSError: the kernel refuses.
    """
    code, license_text = ctypes.create_string_buffer(instructions, len(instructions)), ctypes.create_string_buffer(b"GPL")
    request = ProgramLoad(
        prog_type=BPF_PROG_TYPE_TRACING,
        expected_attach_type=BPF_TRACE_FEXIT,
        attach_btf_id=btf_id,
        prog_name=name.encode()[:15],
        insns=ctypes.addressof(code),
        insn_cnt=len(instructions) // INSTRUCTION_BYTES,
        license=ctypes.addressof(license_text),
    )
    try:
        return bpf(BPF_PROG_LOAD, request)
    except OSError:
        return load_with_log(request)


def load_with_log(request):
    """The same again for its log: writing one takes the verifier longer than its check, so it is not asked for at first."""
    log = ctypes.create_string_buffer(LOG_BYTES)
    request.log_level, request.log_size, request.log_buf = 1, LOG_BYTES, ctypes.addressof(log)
    try:
        return bpf(BPF_PROG_LOAD, request)
    except OSError:
        sys.stderr.write(log.value.decode(errors="replace"))
        raise


def attach_tracing(program_fd):
    """
    Attaches a program to the function that it was loaded for; the descriptor that keeps it attached.

    Raises:
        OSError: the kernel refuses.
    """
    return bpf(BPF_RAW_TRACEPOINT_OPEN, RawTracepointOpen(prog_fd=program_fd))
