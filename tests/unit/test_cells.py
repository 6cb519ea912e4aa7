# SPDX-License-Identifier: Apache-2.0
"""Columns of text made by NumPy, against the same texts made one at a time in Python."""

import csv
import io
import ipaddress
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.events.filters import network_bytes
from tracer.views.cells import (
    Cells,
    addresses,
    choices,
    integers,
    kernel_addresses,
    task_names,
    thousandths,
    wall_times,
    words_of,
)
from tracer.views.lines import CHUNK, FORMATS, Lines

ANY_U64 = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 20_000), st.sampled_from([10**n - d for n in range(1, 20) for d in (0, 1)]))


def lists_of(values):
    return st.lists(values, min_size=1, max_size=20)


@given(lists_of(ANY_U64))
def test_integers_are_decimal(values):
    assert [str(value) for value in values] == integers(np.array(values, dtype=np.uint64)).texts()


@given(lists_of(st.integers(0, 10**15)))
def test_thousandths_read_as_the_shortest_fraction(values):
    assert [str(value / 1000) for value in values if value < 10**12] == [
        text for text, value in zip(thousandths(np.array(values)).texts(), values, strict=True) if value < 10**12
    ]


@given(lists_of(st.integers(0, 2**64 - 1)))
def test_kernel_addresses_have_sixteen_digits(values):
    assert [f"0x{value:016x}" for value in values] == kernel_addresses(np.array(values, dtype=np.uint64)).texts()


@given(lists_of(st.integers(0, 4 * 10**18)), st.integers(0, 10**18))
def test_times_are_rfc_3339_to_the_nanosecond(times, offset):
    texts = wall_times(np.array(times, dtype=np.uint64), offset).texts()

    assert [f"{np.datetime_as_string(np.datetime64(time + offset, 'ns'), unit='ns')}Z" for time in times] == texts


IPV4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
IPV6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address).filter(lambda address: address.ipv4_mapped is None)


@given(st.one_of(lists_of(IPV4), lists_of(st.one_of(IPV4, IPV6))))
def test_addresses_have_their_usual_form(given_addresses):
    packed = b"".join(network_bytes(ipaddress.ip_network(address))[0] for address in given_addresses)

    # inet_ntop writes the last 32 bits of some addresses as IPv4, ipaddress does not; both mean the same.
    texts = addresses(np.frombuffer(packed, dtype="V16")).texts()
    assert given_addresses == [ipaddress.ip_address(text) for text in texts]


@given(lists_of(st.binary(max_size=15).filter(lambda name: b"\0" not in name)))
def test_any_task_name_comes_through_in_every_format(names):
    column = task_names(np.array(names, dtype="S16"))
    expected = [name.decode(errors="backslashreplace") for name in names]

    assert expected == column.texts()
    assert expected == [row["comm"] for row in read("json", ["comm", "other"], [column, column])]
    assert expected == [row["comm"] for row in read("csv", ["comm", "other"], [column, column])]


def read(format_name, names, columns):
    out = io.BytesIO()
    lines = Lines(out, FORMATS[format_name](names))
    lines.begin()
    lines.columns(columns)
    if format_name == "csv":
        return list(csv.DictReader(io.StringIO(out.getvalue().decode(), newline="")))
    return [json.loads(line) for line in out.getvalue().splitlines()]


NAMES = ["number", "text", "word", "raw"]


@pytest.fixture
def columns():
    """Three rows; of each column one value is absent."""
    return [
        integers(np.array([7, 123_456, 0])).where(np.array([True, False, True])),
        Cells(np.array([list(b"ab\0"), list(b"\0cd"), list(b"efg")], dtype=np.uint8), is_text=True).where(np.array([True, True, False])),
        words_of([None, 'a "quoted", word\n', "\\"]),
        choices(["true", "false", None], np.array([0, 2, 1])),
    ]


def test_json_has_values_of_their_type_and_null_for_absent_ones(columns):
    assert [
        {"number": 7, "text": "ab", "word": None, "raw": "true"},
        {"number": None, "text": "cd", "word": 'a "quoted", word\n', "raw": None},
        {"number": 0, "text": None, "word": "\\", "raw": "false"},
    ] == read("json", NAMES, columns)


def test_csv_quotes_what_needs_it_and_leaves_absent_values_empty(columns):
    assert [
        {"number": "7", "text": "ab", "word": "", "raw": "true"},
        {"number": "", "text": "cd", "word": 'a "quoted", word\n', "raw": ""},
        {"number": "0", "text": "", "word": "\\", "raw": "false"},
    ] == read("csv", NAMES, columns)


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("format_name", ["json", "csv"])
def test_as_many_lines_as_rows_whatever_their_number(format_name, count):
    rows = read(format_name, ["n"], [integers(np.arange(count))])

    assert [str(n) for n in range(count)] == [str(row["n"]) for row in rows]


def test_a_record_is_a_line_like_the_others():
    for format_name in FORMATS:
        out = io.BytesIO()
        Lines(out, FORMATS[format_name](["a", "b"])).record({"a": 1, "b": None})

        assert out.getvalue() in (b'{"a":1,"b":null}\n', b"1,\n")
