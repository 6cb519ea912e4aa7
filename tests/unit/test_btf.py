# SPDX-License-Identifier: Apache-2.0
"""The loader child's reader of the kernel's types, over types made here."""

import importlib
import struct
import sys

import pytest

from tracer.kernel.loader import CHILD

#: Numbers of Documentation/bpf/btf.rst.
INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, FUNC, PROTO, ENUM64 = 1, 2, 3, 4, 5, 6, 8, 12, 13, 19


@pytest.fixture
def btf(monkeypatch):
    monkeypatch.syspath_prepend(str(CHILD))
    yield importlib.import_module("btf")
    sys.modules.pop("btf", None)


class Types:
    """Makes type information; each method returns the new type's id."""

    def __init__(self):
        self._strings, self._types, self._count = b"\0", b"", 0

    def name(self, text):
        """Where it stands; as in a kernel, each is there once."""
        string = text.encode() + b"\0"
        if text and b"\0" + string not in self._strings:
            self._strings += string
        return self._strings.index(b"\0" + string) + 1 if text else 0

    def add(self, kind, name, size_or_type, parts=0, tail=(), kind_flag=0):
        words = [self.name(name), kind_flag << 31 | kind << 24 | parts, size_or_type, *tail]
        self._types += struct.pack(f"={len(words)}I", *words)
        self._count += 1
        return self._count

    def record(self, kind, name, *members, kind_flag=0):
        """Each member is (name, type, bit offset)."""
        tail = [word for member, type_id, bits in members for word in (self.name(member), type_id, bits)]
        return self.add(kind, name, 64, len(members), tail, kind_flag)

    def write(self, path):
        header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self._types), len(self._types), len(self._strings))
        path.write_bytes(header + self._types + self._strings)
        return str(path)


@pytest.fixture
def types():
    """One type of each kind with a tail comes first, so that all that follow stand where they should only if it is known."""
    made = Types()
    made.integer = made.add(INT, "int", 4, tail=[32])
    made.add(ARRAY, "", 0, tail=[1, 1, 7])
    made.add(ENUM, "colour", 4, 2, [0, 1, 0, 2])
    made.add(ENUM64, "wide", 8, 1, [0, 1, 0])
    made.add(14, "variable", made.integer, tail=[1])
    made.add(15, "section", 4, 1, [5, 0, 4])
    made.add(16, "float", 4)
    made.add(17, "tag", made.integer, tail=[0])
    return made


@pytest.fixture
def read(btf, types, tmp_path):
    return lambda: btf.KernelBtf(types.write(tmp_path / "vmlinux"))


def test_a_field_is_found_through_typedefs_and_anonymous_members(types, read):
    inner = types.record(UNION, "", ("first", types.integer, 0), ("second", types.integer, 0))
    alias = types.add(TYPEDEF, "alias", types.record(STRUCT, "inum", ("deep", types.integer, 96)))
    types.record(STRUCT, "net", ("head", types.integer, 0), ("", inner, 64), ("ns", alias, 128))
    kernel = read()

    assert (0, 8, 16, 28) == tuple(kernel.offset(path) for path in ("net.head", "net.second", "net.ns", "net.ns.deep"))


def test_a_structure_is_not_taken_for_another_whose_name_ends_alike_or_that_is_no_structure(types, read):
    types.record(STRUCT, "unix_sock", ("family", types.integer, 8))
    types.add(TYPEDEF, "sock", types.integer)
    types.record(STRUCT, "sock_common", ("family", types.integer, 16))
    types.record(STRUCT, "sock", ("family", types.integer, 24))

    assert 3 == read().offset("sock.family")


@pytest.mark.parametrize(
    ("path", "message"), [("net.x", "no struct net"), ("sock.x", r"no field sock\.x"), ("sock.a.b", r"no field sock\.a\.b")]
)
def test_what_is_not_there_is_named(btf, types, read, path, message):
    types.record(STRUCT, "sock", ("a", types.integer, 0))
    with pytest.raises(btf.BtfError, match=message):
        read().offset(path)


def test_a_bit_field_has_no_offset_in_bytes_and_its_neighbours_have(btf, types, read):
    size_4 = 4 << 24
    types.record(STRUCT, "sock", ("bits", types.integer, size_4 | 3), ("next", types.integer, 32), kind_flag=1)
    kernel = read()

    assert 4 == kernel.offset("sock.next")
    with pytest.raises(btf.BtfError, match=r"sock\.bits is a bit field"):
        kernel.offset("sock.bits")


def test_a_function_has_the_number_of_its_parameters(btf, types, read):
    prototype = types.add(PROTO, "", types.integer, 2, [0, 1, 0, 1])
    accept = types.add(FUNC, "inet_csk_accept", prototype)
    kernel = read()

    assert (accept, 2) == kernel.function("inet_csk_accept")
    with pytest.raises(btf.BtfError, match="no function tcp_v9_connect"):
        kernel.function("tcp_v9_connect")


def test_a_kind_of_a_kernel_to_come_is_an_error_and_not_a_wrong_offset(btf, types, read):
    types.add(31, "new", 0)
    with pytest.raises(btf.BtfError, match="not known: 31"):
        read()


def test_no_type_information_and_something_else_are_errors(btf, tmp_path):
    with pytest.raises(btf.BtfError, match="no readable type information"):
        btf.KernelBtf(str(tmp_path / "vmlinux"))
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF" * 16)
    with pytest.raises(btf.BtfError, match="no type information of a kernel"):
        btf.KernelBtf(str(tmp_path / "vmlinux"))
