# SPDX-License-Identifier: Apache-2.0
"""
Offsets of kernel structure fields, and what a kernel function takes, from the running kernel's own type information, read by libbpf.

libbcc links libbpf, so wherever BCC works there is a BTF reader; parsing 5 MB of types in Python would take longer than
compiling the programs.

Source: Documentation/bpf/btf.rst (struct btf_type, struct btf_member, kind_flag).
"""

import ctypes
import ctypes.util

KIND_STRUCT = 4
KIND_UNION = 5
KIND_FUNC = 12
#: Types that only rename or qualify another one: typedef, volatile, const, restrict, type tag.
KINDS_TRANSPARENT = (8, 9, 10, 11, 18)


class BtfType(ctypes.Structure):
    _fields_ = [("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size_or_type", ctypes.c_uint32)]

    @property
    def kind(self):
        return self.info >> 24 & 0x1F

    @property
    def members(self):
        first = ctypes.addressof(self) + ctypes.sizeof(BtfType)
        return (BtfMember * (self.info & 0xFFFF)).from_address(first)

    def bit_offset(self, member):
        """Where a member begins; with kind_flag the upper 8 bits hold the size of a bit field."""
        return member.offset & 0xFFFFFF if self.info >> 31 else member.offset


class BtfMember(ctypes.Structure):
    _fields_ = [("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32)]


class BtfError(Exception):
    """The kernel has no BTF, or a field or function is not in it."""


def load_libbpf():
    names = [ctypes.util.find_library("bpf"), "libbpf.so.1", "libbpf.so.0"]
    for name in filter(None, names):
        try:
            return ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
    raise BtfError("libbpf is not installed, though BCC is")


class KernelBtf:
    """The types of the running kernel."""

    def __init__(self):
        lib = load_libbpf()
        lib.btf__load_vmlinux_btf.restype = ctypes.c_void_p
        lib.btf__type_by_id.restype = ctypes.POINTER(BtfType)
        lib.btf__type_by_id.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.btf__name_by_offset.restype = ctypes.c_char_p
        lib.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.btf__find_by_name_kind.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
        lib.btf__find_by_name_kind.restype = ctypes.c_int32
        lib.libbpf_get_error.argtypes = [ctypes.c_void_p]
        lib.libbpf_get_error.restype = ctypes.c_long
        self._lib = lib
        self._btf = lib.btf__load_vmlinux_btf()
        if not self._btf or lib.libbpf_get_error(self._btf):
            raise BtfError("this kernel has no readable type information (/sys/kernel/btf/vmlinux)")

    def offset(self, path):
        """
        Byte offset of a field, such as "net.ns.inum": the structure's name, then members, anonymous ones left out.

        Raises:
            BtfError: no such structure or field, or a bit field.
        """
        struct, *names = path.split(".")
        type_id = self._lib.btf__find_by_name_kind(self._btf, struct.encode(), KIND_STRUCT)
        if type_id < 0:
            raise BtfError(f"this kernel has no struct {struct}")
        bits = 0
        for name in names:
            found = self._find(type_id, name.encode())
            if found is None:
                raise BtfError(f"this kernel has no field {path}")
            bits, type_id = bits + found[0], found[1]
        if bits % 8:
            raise BtfError(f"{path} is a bit field on this kernel")
        return bits // 8

    def function(self, name):
        """
        (type id, number of parameters) of a kernel function.

        Raises:
            BtfError: no such function; one that the compiler has inlined everywhere is not there either.
        """
        type_id = self._lib.btf__find_by_name_kind(self._btf, name.encode(), KIND_FUNC)
        if type_id < 0:
            raise BtfError("this kernel has no function %s" % name)
        prototype = self._lib.btf__type_by_id(self._btf, self._lib.btf__type_by_id(self._btf, type_id).contents.size_or_type)
        return type_id, prototype.contents.info & 0xFFFF

    def _find(self, type_id, name):
        """(bit offset, type) of a member, looked for in anonymous members too; None where there is none."""
        record = self._resolve(type_id)
        if record.kind not in (KIND_STRUCT, KIND_UNION):
            return None
        for member in record.members:
            member_name = self._lib.btf__name_by_offset(self._btf, member.name_off)
            start = record.bit_offset(member)
            if member_name == name:
                return start, member.type
            if not member_name:
                inner = self._find(member.type, name)
                if inner is not None:
                    return start + inner[0], inner[1]
        return None

    def _resolve(self, type_id):
        record = self._lib.btf__type_by_id(self._btf, type_id).contents
        while record.kind in KINDS_TRANSPARENT:
            record = self._lib.btf__type_by_id(self._btf, record.size_or_type).contents
        return record
