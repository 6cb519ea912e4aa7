# SPDX-License-Identifier: Apache-2.0
"""
The loader child: compiles the BPF programs, attaches them, hands every file descriptor to its parent and leaves.

The only code of tcptrace that imports bcc. It runs with whatever Python has bcc (usually the distribution's own, Python 3.8 or
later), so it imports nothing else of tcptrace. Arguments: the number of the reply socket. Standard input: one JSON request
(tracer/kernel/plan.py, LoadRequest). Reply: one JSON message on the socket, the descriptors with it as SCM_RIGHTS. What the
compiler and the verifier say goes to standard error, which the parent keeps.

It leaves by os._exit, because BCC detaches everything in its own clean-up at exit.
"""

import array
import json
import os
import socket
import sys

from attach import Attacher, HookError
from btf import BtfError, KernelBtf
from prepare import prepare
from system import die_with_parent


class StageError(Exception):
    """What failed, by stage; becomes the parent's error."""

    def __init__(self, stage, message, errno=None):
        super().__init__(message)
        self.reply = {"error": {"stage": stage, "message": message, "errno": errno}}


def import_bcc():
    try:
        import bcc
    except ImportError as error:
        raise StageError("import", str(error)) from error
    return bcc


def read_btf():
    try:
        return KernelBtf()
    except BtfError as error:
        raise StageError("btf", str(error)) from error


def resolve_fields(btf, fields):
    """Macro name -> byte offset, from {macro: [path, size, required]}; and the size of the head of struct sock_common."""
    offsets = {}
    for macro, (path, _, required) in fields.items():
        try:
            offsets[macro] = btf.offset(path)
        except BtfError as error:
            if required:
                raise StageError("btf", str(error)) from error
    heads = [offset + fields[macro][1] for macro, offset in offsets.items() if macro.startswith("SKC_")]
    offsets["SKC_HEAD_BYTES"] = max(heads)
    return offsets


def compile_programs(bcc, request, defines):
    os.environ["BCC_KERNEL_SOURCE"] = request["headers"]
    flags = ["-I" + request["include"], "-Wno-unused-function"]
    flags += ["-D%s=%s" % item for item in defines.items()]
    try:
        return bcc.BPF(src_file=request["source"], cflags=flags)
    except Exception as error:  # bcc raises nothing more precise
        raise StageError("compile", str(error)) from error


def attach_hook(attacher, hook):
    """The first candidate that this kernel takes; what the others said is kept for doctor."""
    tried = []
    for candidate in hook["candidates"]:
        try:
            attacher.attach(candidate)
        except HookError as error:
            tried.append({"kind": candidate["kind"], "stage": error.stage, "error": str(error), "errno": error.errno})
        else:
            return {"hook": hook["hook"], "kind": candidate["kind"], "tried": tried}
    if hook["required"]:
        best = tried[0]
        raise StageError(best["stage"], best["error"], best["errno"])
    return {"hook": hook["hook"], "kind": None, "tried": tried}


def load(request):
    """Everything, in the order in which it can fail; returns the reply and the descriptors by name."""
    bcc = import_bcc()
    btf = read_btf()
    defines = dict(request["defines"])
    defines.update(resolve_fields(btf, request["fields"]))
    unavailable = prepare(btf, defines)
    attacher = Attacher(bcc, compile_programs(bcc, request, defines), btf, unavailable)
    hooks = [attach_hook(attacher, hook) for hook in request["hooks"]]
    reply = {"bcc": getattr(bcc, "__version__", "unknown"), "hooks": hooks, "return_probe": attacher.return_probe}
    return reply, attacher.descriptors


def send(reply_socket, reply, descriptors):
    reply["fds"] = list(descriptors)
    rights = array.array("i", descriptors.values())
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
    reply_socket.sendmsg([json.dumps(reply).encode()], ancillary)


def main():
    die_with_parent()
    reply_socket = socket.socket(fileno=int(sys.argv[1]))
    request = json.load(sys.stdin)
    try:
        reply, descriptors = load(request)
    except StageError as error:
        reply, descriptors = error.reply, {}
    except BaseException as error:  # also SystemExit, which bcc raises for some of its own errors
        reply, descriptors = StageError("internal", repr(error)).reply, {}
    send(reply_socket, reply, descriptors)
    sys.stderr.flush()
    os._exit(0)


main()
