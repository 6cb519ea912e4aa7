/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel side tells user space: one record per event through the ring, and counters that stay exact when the
 * ring overflows. This file is the definition; tracer/events/schema.py and tracer/kernel/counters.py repeat it for NumPy,
 * and tests/unit/test_schema.py compiles this file and compares the two field by field.
 */
#ifndef TCPTRACE_EVENT_H
#define TCPTRACE_EVENT_H

#include <linux/types.h>

enum event_kind {
  EVENT_STATE = 1,
  EVENT_ACCEPT = 2,
  EVENT_RETRANSMIT = 3,
  EVENT_RESET_SENT = 4,
  EVENT_RESET_RECEIVED = 5,
};

/* Bits of event.flags. */
enum event_flags {
  /* tgid, uid, comm and cgroup are those of the task that owns the socket; without this bit they are all 0. */
  EVENT_HAS_OWNER = 1,
  /* bytes_sent, bytes_received, segs_retrans and srtt_us are the connection's totals (set at CLOSE). */
  EVENT_HAS_TOTALS = 2,
  /* backlog and backlog_max are those of the listener (an accept whose listener is known). */
  EVENT_HAS_BACKLOG = 4,
};

/*
 * 120 bytes: with the ring's own 8-byte header a slot is 128, two cache lines, and a power of two divides every ring size,
 * so no slot wraps around the end and the mapped ring is an array with a constant stride.
 */
struct event {
  __u64 ts_ns;          /* CLOCK_MONOTONIC */
  __u64 sock;           /* kernel address: an identity only until CLOSE, the kernel reuses it at once */
  __u64 cgroup;         /* cgroup v2 id of the owner; 0: not known */
  __u64 bytes_sent;     /* acknowledged by the peer; without the FIN, with the SYN of an active open */
  __u64 bytes_received; /* without the FIN */
  __u8 saddr[16];       /* IPv4 as ::ffff:a.b.c.d, network order */
  __u8 daddr[16];
  char comm[16];        /* NUL-padded */
  __u32 netns;          /* inode number of the network namespace */
  __u32 tgid;           /* the owner's process id; 0: not attributable */
  __u32 uid;            /* the owner's; valid with EVENT_HAS_OWNER */
  union {
    __u32 segs_retrans;
    __u32 backlog;      /* EVENT_ACCEPT: connections that still wait in the listener's accept queue */
  };
  union {
    __u32 srtt_us;      /* 0: no sample */
    __u32 backlog_max;  /* EVENT_ACCEPT: more than this do not get in */
  };
  __u16 sport;          /* host order; 0: not chosen yet (SYN_SENT) or never (out of ports) */
  __u16 dport;          /* host order */
  __u16 error;          /* sk_err as a positive errno; 0: none */
  __u8 kind;            /* enum event_kind */
  __u8 old_state;       /* include/net/tcp_states.h; 0 where kind is not EVENT_STATE */
  __u8 new_state;
  __u8 family;          /* 4 or 6; an IPv6 socket that carries IPv4 (v4-mapped) counts as 4 */
  __u8 flags;           /* enum event_flags */
  __u8 reserved;
};

#define STATES 16 /* tcp_states.h ends at 13; a power of two bounds an index with one mask */

#define KEYS 32   /* a power of two; one softirq has been seen to leave 20 behind */

/* One block per possible CPU, in an array that user space maps; updated with atomic adds, since a softirq may interrupt. */
struct counters {
  __u64 transitions[2][STATES][STATES]; /* [0: home network namespace, 1: all others][old][new] */
  __u64 accepts[2];                     /* as above */
  __u64 retransmits[2];
  __u64 resets_sent[2];
  __u64 resets_received[2];
  __u64 records;                        /* written to the ring */
  __u64 filtered;                       /* seen, counted above, not wanted by the capture's filter */
  __u64 lost_ring_full;
  __u64 other_protocols; /* state changes of MPTCP, SCTP, ... sockets */
  __u64 nested;          /* events that the second program handled, see on_set_state_nested() */
  __u64 handled[KEYS];    /* a stack: keys of events that the first program has handled and the second not seen yet */
  __u64 handled_at[KEYS]; /* when, in jiffies */
  __u64 depth;            /* how many there are */
};

#endif
