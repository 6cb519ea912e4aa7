# SPDX-License-Identifier: Apache-2.0
"""
Which hooks work on this kernel, and which must.

In a guest of scripts/vmtest the kernel's row in scripts/kernels.toml says what must work, and test_able.py holds it against what does.
Elsewhere whatever works is tested, and of the rest only that it is refused clearly.
"""

import functools
import json
import os

import msgspec

from tracer.kernel.capture import bpf_folder
from tracer.kernel.facts import probe
from tracer.kernel.loader import LoadedPrograms, Loader
from tracer.kernel.plan import ACCEPT_CANDIDATES, SEGMENT_HOOKS, STATE_HOOK, CapturePlan, HookPlan, LoadRequest, make_request

ACCEPT_KINDS = [candidate.kind for candidate in ACCEPT_CANDIDATES]
STATE_KINDS = [candidate.kind for candidate in STATE_HOOK.candidates]


def promised() -> dict[str, list[str]] | None:
    """The kernel's row: kinds that must work, by hook; None outside a guest."""
    text = os.environ.get("TCPTRACE_HOOKS")
    return json.loads(text) if text else None


def request_of(*hooks: HookPlan, plan: CapturePlan | None = None) -> LoadRequest:
    """A request with these hooks in place of the plan's own of the same names."""
    request = make_request(probe(), plan or CapturePlan(), bpf_folder())
    given = {hook.hook: hook for hook in hooks}
    return msgspec.structs.replace(request, hooks=tuple(given.get(hook.hook, hook) for hook in request.hooks))


def load(request: LoadRequest) -> LoadedPrograms:
    python = probe().bcc_python
    assert python is not None
    with Loader(python, request) as loader:
        return loader.result()


@functools.cache
def working() -> dict[str, list[str]]:
    """
    The kinds that can be attached, by hook, best first.

    One loader for all of them: each is a hook of its own in the request, and none is required.
    """
    wanted = {"state": STATE_HOOK.candidates, "accept": ACCEPT_CANDIDATES}
    alone = {f"{hook}:{c.kind}": HookPlan(f"{hook}:{c.kind}", False, (c,)) for hook, candidates in wanted.items() for c in candidates}
    request = make_request(probe(), CapturePlan(), bpf_folder())
    loaded = load(msgspec.structs.replace(request, hooks=(*alone.values(), *SEGMENT_HOOKS)))
    found = [report.hook.split(":") for report in loaded.hooks if report.kind and ":" in report.hook]
    loaded.close()
    return {hook: [kind for name, kind in found if name == hook] for hook in wanted}
