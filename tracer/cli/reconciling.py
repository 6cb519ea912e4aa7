# SPDX-License-Identifier: Apache-2.0
"""The thread that looks at the kernel beside a capture, as every command that keeps connections has it."""

from tracer.cli.run import Run
from tracer.reconcile.namespaces import NAMED, OWN, find_path, inode_of
from tracer.reconcile.reconciler import Reconciler
from tracer.reconcile.sampling import Sampler


def begin_reconciling(run: Run) -> Reconciler:
    """Starts it: on the network namespace of the capture, which need not be ours."""
    facts, wanted = run.capture.facts, run.capture.plan.keep.netns
    sampler = Sampler(run.capture.counters, facts.home_netns, run.options.every_namespace)
    if not wanted or wanted == inode_of(OWN):
        return Reconciler(sampler)
    # One that is gone cannot be entered, and the first sample says so.
    return Reconciler(sampler, find_path(wanted) or NAMED / str(wanted))
