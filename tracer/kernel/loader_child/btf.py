# SPDX-License-Identifier: Apache-2.0
"""
Offsets of kernel structure fields, and what a kernel function takes, from the running kernel's own type information.

Read here and not by libbpf: the one of BCC 0.18 knows neither today's kinds of types nor the functions that it would take, and a BCC
that was built elsewhere has none that others could load. Only the beginnings of the types are walked through, 126,000 of them
in 20 ms; the rest is looked up by name.

Source: Documentation/bpf/btf.rst (struct btf_header, struct btf_type, struct btf_member, kind_flag).
"""

import array
import bisect
import struct

VMLINUX = "/sys/kernel/btf/vmlinux"
HEADER = struct.Struct("=HBBIIIII")
MAGIC = 0xEB9F
WORD_BYTES = 4
#: name_off, info, size or type.
HEAD_WORDS = 3
MEMBER_WORDS = 3

KIND_STRUCT = 4
KIND_UNION = 5
KIND_FUNC = 12
#: Types that only rename or qualify another one: typedef, volatile, const, restrict, type tag.
KINDS_TRANSPARENT = (8, 9, 10, 11, 18)
#: Words behind the head, by kind: how many, and how many more for each of the type's parts.
TAIL_WORDS = {
    **dict.fromkeys((2, 7, *KINDS_TRANSPARENT, KIND_FUNC, 16), (0, 0)),  # with pointer, forward, float
    **dict.fromkeys((1, 14, 17), (1, 0)),  # int, variable, declaration tag
    **dict.fromkeys((6, 13), (0, 2)),  # enum, function prototype
    **dict.fromkeys((KIND_STRUCT, KIND_UNION, 15, 19), (0, 3)),  # with data section, 64-bit enum
    3: (3, 0),  # array
}
#: Of a type's second word: its kind and the number of its parts.
KIND_AND_PARTS = 0x1F00FFFF


class BtfError(Exception):
    """The kernel has no BTF, or a field or function is not in it."""


class TypeWords(dict):
    """How many words a type takes, by its second word as far as KIND_AND_PARTS goes; few of the possible ones occur."""

    def __missing__(self, info):
        try:
            fixed, each = TAIL_WORDS[info >> 24]
        except KeyError:
            raise BtfError("this kernel's type information has a kind of type that is not known: %d" % (info >> 24)) from None
        self[info] = HEAD_WORDS + fixed + each * (info & 0xFFFF)
        return self[info]


class KernelBtf:
    """
    The types of the running kernel.

    Raises:
        BtfError: there are none, or they cannot be read.
    """

    def __init__(self, path=VMLINUX):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise BtfError("this kernel has no readable type information (%s): %s" % (path, error.strerror)) from error
        if len(data) < HEADER.size or HEADER.unpack_from(data)[0] != MAGIC:
            raise BtfError("this is no type information of a kernel: " + path)
        _, _, _, header_bytes, types, types_bytes, strings, strings_bytes = HEADER.unpack_from(data)
        self._types = data[header_bytes + types :][:types_bytes]
        self._strings = data[header_bytes + strings :][:strings_bytes]
        self._words = array.array("I", self._types)
        self._starts = self._walk()
        self._found = {}

    def _walk(self):
        """The word at which each type begins, by its id; type 0, void, takes no room."""
        words, type_words, mask = self._words, TypeWords(), KIND_AND_PARTS
        starts, start, end = [-1], 0, len(words)
        append = starts.append
        while start < end:
            append(start)
            start += type_words[words[start + 1] & mask]
        return starts

    def offset(self, path):
        """
        Byte offset of a field, such as "net.ns.inum": the structure's name, then members, anonymous ones left out.

        Raises:
            BtfError: no such structure or field, or a bit field.
        """
        name, *members = path.split(".")
        type_id = self._id(name, KIND_STRUCT)
        if type_id is None:
            raise BtfError("this kernel has no struct %s" % name)
        bits = 0
        for member in members:
            found = self._member(type_id, member.encode())
            if found is None:
                raise BtfError("this kernel has no field %s" % path)
            bits, type_id = bits + found[0], found[1]
        if bits % 8:
            raise BtfError("%s is a bit field on this kernel" % path)
        return bits // 8

    def function(self, name):
        """
        (type id, number of parameters) of a kernel function.

        Raises:
            BtfError: no such function; one that the compiler has inlined everywhere is not there either.
        """
        type_id = self._id(name, KIND_FUNC)
        if type_id is None:
            raise BtfError("this kernel has no function %s" % name)
        prototype = self._starts[self._words[self._starts[type_id] + 2]]
        return type_id, self._words[prototype + 1] & 0xFFFF

    def _id(self, name, kind):
        """The first type of this name and kind, or None."""
        if (name, kind) not in self._found:
            # Each string is there once, and none inside another.
            before = self._strings.find(b"\0" + name.encode() + b"\0")
            self._found[name, kind] = self._first(before + 1, kind) if before >= 0 else None
        return self._found[name, kind]

    def _first(self, name_offset, kind):
        """The id of the first type of this kind whose head begins with *name_offset*, or None."""
        wanted, starts = struct.pack("=I", name_offset), self._starts
        found = self._types.find(wanted)
        while found >= 0:
            start, misplaced = divmod(found, WORD_BYTES)
            type_id = bisect.bisect_left(starts, start)
            if not misplaced and starts[type_id : type_id + 1] == [start] and self._kind(type_id) == kind:
                return type_id
            found = self._types.find(wanted, found + 1)
        return None

    def _kind(self, type_id):
        return self._words[self._starts[type_id] + 1] >> 24 & 0x1F if type_id else 0

    def _member(self, type_id, name):
        """(bit offset, type) of a member, looked for in anonymous members too; None where there is none."""
        for name_offset, member_type, bits in self._members(self._resolve(type_id)):
            if self._strings.startswith(name + b"\0", name_offset):
                return bits, member_type
            if not name_offset:
                inner = self._member(member_type, name)
                if inner is not None:
                    return bits + inner[0], inner[1]
        return None

    def _members(self, type_id):
        """(offset of the name, type, bit offset) of each member; with kind_flag the upper 8 bits hold the size of a bit field."""
        if self._kind(type_id) not in (KIND_STRUCT, KIND_UNION):
            return
        start = self._starts[type_id]
        info = self._words[start + 1]
        mask = 0xFFFFFF if info >> 31 else 0xFFFFFFFF
        for i in range(info & 0xFFFF):
            first = start + HEAD_WORDS + i * MEMBER_WORDS
            name_offset, member_type, offset = self._words[first : first + MEMBER_WORDS]
            yield name_offset, member_type, offset & mask

    def _resolve(self, type_id):
        while self._kind(type_id) in KINDS_TRANSPARENT:
            type_id = self._words[self._starts[type_id] + 2]
        return type_id
