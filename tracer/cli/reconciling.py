# SPDX-License-Identifier: Apache-2.0
"""The thread that looks at the kernel beside a capture, as every command that keeps connections has it."""

from tracer.cli.run import Run
from tracer.reconcile.namespaces import find_path
from tracer.reconcile.reconciler import Reconciler
from tracer.reconcile.sampling import Sampler


def begin_reconciling(run: Run) -> Reconciler:
    """Starts it: on the network namespace of the capture, which need not be ours."""
    facts, wanted = run.capture.facts, run.capture.plan.keep.netns
    sampler = Sampler(run.capture.counters, facts.home_netns, run.options.every_namespace)
    return Reconciler(sampler, find_path(wanted) if wanted else None)
