# SPDX-License-Identifier: Apache-2.0
"""What looks at the kernel beside a capture, as every command that keeps connections has it; a recording repeats what was seen then."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from tracer.cli.recorded import COUNTERS, RecordedCapture
from tracer.cli.run import Run
from tracer.errors import RecordingError
from tracer.events.batch import EventBatch
from tracer.kernel.counters import CounterTotals
from tracer.log.codec import decode
from tracer.log.entries import Sample
from tracer.reconcile.namespaces import NAMED, OWN, find_path, inode_of
from tracer.reconcile.reconciler import Reconciler
from tracer.reconcile.sampling import Sampler
from tracer.state.samples import Reconciliation
from tracer.state.tuples import Keys

#: The kind of samples that are a Reconciliation, after the batch that it was applied after.
RECONCILIATION = "reconciliation"

Apply = Callable[[Reconciliation], Keys]
T = TypeVar("T")


class Reconciling(Protocol):
    """A context manager that gives samples when it is time for them."""

    def apply_if_ready(self, batch: EventBatch, apply: Apply) -> None:
        """Applies what there is after a batch; as Reconciler.apply_if_ready."""

    def __enter__(self) -> "Reconciling": ...
    def __exit__(self, *error: object) -> None: ...


class RecordedReconciler:
    """The samples of a recording, each after the batch that it was applied after then."""

    def __init__(self, capture: RecordedCapture) -> None:
        self._capture = capture

    def __enter__(self) -> "RecordedReconciler":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def apply_if_ready(self, batch: EventBatch, apply: Apply) -> None:  # noqa: ARG002  # the recording knows the place
        for sample in samples_of(self._capture.samples, RECONCILIATION, Reconciliation):
            apply(sample)


def samples_of(samples: list[Sample], kind: str, form: type[T]) -> list[T]:
    """
    The samples of a kind.

    Raises:
        RecordingError: one of them is of no form that this version knows.
    """
    try:
        return [decode(sample.content, form) for sample in samples if sample.kind == kind]
    except msgspec.MsgspecError as error:
        raise RecordingError(f"a sample cannot be read: {error}", "read the recording with the version that wrote it") from error


def recorded_counters(capture: RecordedCapture) -> list[CounterTotals]:
    """The counters of the pictures that were, or could have been, taken after the last batch."""
    return samples_of(capture.samples, COUNTERS, CounterTotals)


def begin_reconciling(run: Run, ports: bool = True) -> Reconciling:
    """Starts it: on the network namespace of the capture, which need not be ours; *ports*: whether anyone wants to know their use."""
    if isinstance(run.capture, RecordedCapture):
        return RecordedReconciler(run.capture)
    facts, wanted = run.capture.facts, run.capture.plan.keep.netns
    sampler = Sampler(run.capture.counters, facts.home_netns, run.options.every_namespace, ports)
    if not wanted or wanted == inode_of(OWN):
        return Reconciler(sampler)
    # One that is gone cannot be entered, and the first sample says so.
    return Reconciler(sampler, find_path(wanted) or NAMED / str(wanted))
