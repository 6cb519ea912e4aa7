# SPDX-License-Identifier: Apache-2.0
"""The index of sockets, against a dictionary."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracer.state.index import BUCKET, MULTIPLIER, SocketIndex

# So that the same sockets come again.
SOCKS = st.lists(st.integers(1, 60).map(lambda n: 0xFFFF_8880_0000_0000 + 2048 * n), unique=True, max_size=40)


def array(socks):
    return np.array(socks, dtype=np.uint64)


@given(st.lists(st.tuples(st.booleans(), SOCKS), max_size=20))
def test_it_knows_what_a_dictionary_knows(steps):
    index, model = SocketIndex(), {}
    for number, (adds, socks) in enumerate(steps):
        if adds:
            new = [sock for sock in socks if sock not in model]
            rows = {sock: 100 * number + i for i, sock in enumerate(new)}
            index.add(array(new), np.array(list(rows.values()), dtype=np.intp))
            model.update(rows)
        else:
            gone = index.remove(array(socks))
            assert sorted(model.pop(sock) for sock in socks if sock in model) == sorted(gone.tolist())

        assert len(model) == len(index)
        assert model == dict(zip(*(part.tolist() for part in index.items()), strict=True))
        assert [model.get(sock, -1) for sock in socks] == index.find(array(socks)).tolist()


def test_sockets_that_all_want_the_same_bucket_are_all_found():
    inverse = pow(int(MULTIPLIER), -1, 1 << 64)
    socks = array([inverse * n % (1 << 64) for n in range(1, 5 * BUCKET)])
    index = SocketIndex()
    index.add(socks, np.arange(len(socks)))

    assert list(range(len(socks))) == index.find(socks).tolist()
    assert sorted(range(0, len(socks), 2)) == sorted(index.remove(socks[::2]).tolist())
    assert [-1 if i % 2 == 0 else i for i in range(len(socks))] == index.find(socks).tolist()


def test_a_hundred_thousand_come_and_go():
    socks = np.arange(1, 100_001, dtype=np.uint64) * np.uint64(2048) + np.uint64(0xFFFF_8880_0000_0000)
    index = SocketIndex()
    for start in range(0, len(socks), 1009):
        part = np.arange(start, min(start + 1009, len(socks)))
        index.add(socks[part], part)

    assert (index.find(socks) == np.arange(len(socks))).all()
    assert len(socks) == len(index) == len(index.remove(socks))
    assert (index.find(socks) == -1).all()
