# SPDX-License-Identifier: Apache-2.0
"""First of all: this kernel can do what is expected of it, so that no other test is left out for a reason that is a failure."""

import pytest

from tests.kernel.hooks import promised, working


@pytest.mark.guest
def test_every_hook_that_this_kernel_should_have_can_be_attached():
    row = promised()
    if row is None:
        assert working()["state"][0] == "raw_tracepoint"
        assert working()["accept"]
    else:
        assert row == working()


@pytest.mark.guest
def test_the_witness_finds_nothing_hidden_on_a_machine_that_hides_nothing(witness, netns):
    if promised() is None:
        pytest.skip("only of an emulated machine is it known that it hides no softirq")
    before = witness.hidden()
    netns.traffic("pairs", count=23)

    assert before == witness.hidden()
