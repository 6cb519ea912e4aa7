# SPDX-License-Identifier: Apache-2.0
"""
How many softirqs of the network and of timers no tracepoint told of, since it was started; one number a line that comes on stdin.

Runs under a Python that has BCC; the one argument is the folder of stand-in kernel headers. /proc/softirqs counts each softirq right
before the tracepoint of its beginning (kernel/softirq.c: handle_softirqs), so on a machine that hides nothing the two are equal.
"""

import os
import sys

os.environ["BCC_KERNEL_SOURCE"] = sys.argv[1]

from bcc import BPF  # it reads the environment

PROGRAM = """
BPF_ARRAY(told, u64, 16);

int on_softirq(struct bpf_raw_tracepoint_args *ctx)
{
  u32 vector = ctx->args[0];
  u64 *count = told.lookup(&vector);

  if (count)
    __sync_fetch_and_add(count, 1);
  return 0;
}
"""
#: include/linux/interrupt.h
VECTORS = {"TIMER": 1, "NET_RX": 3}


def counted():
    with open("/proc/softirqs") as file:
        rows = [line.split() for line in file]
    return sum(sum(map(int, row[1:])) for row in rows if row[0].rstrip(":") in VECTORS)


def difference(told):
    """Too low by what comes between the two looks, never too high."""
    return counted() - sum(told[told.Key(vector)].value for vector in VECTORS.values())


def main():
    programs = BPF(text=PROGRAM)
    programs.attach_raw_tracepoint(tp=b"softirq_entry", fn_name=b"on_softirq")
    told = programs["told"]
    before = max(difference(told) for _ in range(20))
    for _ in sys.stdin:
        print(max(difference(told) for _ in range(20)) - before, flush=True)


if __name__ == "__main__":
    main()
