# SPDX-License-Identifier: Apache-2.0
import errno
import os

import pytest

from tracer.kernel.return_probe import ReturnProbe

PROFILE = """\
  accept_77_78                                             1234               0
  accept_77_7                                               555              19
"""


@pytest.fixture
def probe(tmp_path):
    """A return probe on ordinary files in place of tracefs' own."""
    (tmp_path / "profile").write_text(PROFILE)
    events = os.open(tmp_path / "events", os.O_WRONLY | os.O_CREAT)
    profile = os.open(tmp_path / "profile", os.O_RDONLY)
    yield ReturnProbe("tcptrace/accept_77_7", events, profile)
    os.close(events)
    os.close(profile)


def test_the_missed_calls_are_those_of_the_probe_itself_however_often_they_are_read(probe):
    assert [19, 19] == [probe.missed(), probe.missed()]
    assert ReturnProbe("tcptrace/accept_9_9", probe.events_fd, probe.profile_fd).missed() == 0


def test_a_removal_names_the_probe(probe, tmp_path):
    probe.remove()

    assert (tmp_path / "events").read_text() == "-:tcptrace/accept_77_7\n"


def test_a_removal_is_tried_again_while_the_probe_is_in_use(probe, monkeypatch):
    answers = [OSError(errno.EBUSY, "busy"), OSError(errno.EBUSY, "busy"), 1]
    monkeypatch.setattr(os, "write", lambda *_: raise_or_return(answers.pop(0)))
    probe.remove()

    assert answers == []


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EPERM])
def test_a_probe_that_cannot_be_removed_is_left(probe, monkeypatch, number):
    calls = []

    def refuse(*_):
        calls.append(number)
        raise OSError(number, "no")

    monkeypatch.setattr(os, "write", refuse)
    probe.remove()

    assert calls == [number]


def raise_or_return(answer):
    if isinstance(answer, Exception):
        raise answer
    return answer
