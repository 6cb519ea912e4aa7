# SPDX-License-Identifier: Apache-2.0
"""Where BCC is looked for."""

from tracer.kernel import facts


def test_the_python_that_the_user_names_comes_before_all_others(monkeypatch):
    monkeypatch.setenv("TCPTRACE_BCC_PYTHON", "/opt/bcc/bin/python3.9")

    assert "/opt/bcc/bin/python3.9" == facts.find_bcc_python()


def test_an_empty_name_is_none(monkeypatch):
    monkeypatch.delenv("TCPTRACE_BCC_PYTHON", raising=False)
    usual = facts.find_bcc_python()
    monkeypatch.setenv("TCPTRACE_BCC_PYTHON", "")

    assert usual == facts.find_bcc_python()
