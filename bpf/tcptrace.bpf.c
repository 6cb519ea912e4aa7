/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel side: hooks that turn what happens to TCP sockets into records (event.h) and counters.
 *
 * Compiled by BCC in the loader child. Parameters arrive as -D constants (tracer/kernel/plan.py), offsets of kernel fields
 * too, taken from the running kernel's BTF: SKC_* are offsets in struct sock_common, SK_* in struct sock, and so on.
 *
 * Maps and programs stand in this file and nowhere else: BCC translates its map calls in the main file only.
 */
#include "event.h"

#define __always_inline inline __attribute__((always_inline))

#include "sock.h"
#include "owner.h"
#include "filter.h"

/* Must stay the first map: BCC numbers maps from -1 downwards until it has created them, and ring_fill() needs the number. */
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#define EVENTS_MAP bpf_pseudo_fd(1, -1)

BPF_F_TABLE("array", u32, struct counters, counters, CPUS, BPF_F_MMAPABLE);

#define COUNT(field) __sync_fetch_and_add(&(field), 1)

static __always_inline struct counters *this_cpu_counters(void)
{
  u32 cpu = bpf_get_smp_processor_id();
  return counters.lookup(&cpu);
}

static __always_inline u32 is_foreign(const struct endpoints *ends)
{
  return ends->netns != HOME_NETNS;
}

static __always_inline u64 ring_fill(void)
{
  return bpf_ringbuf_query((void *)EVENTS_MAP, BPF_RB_AVAIL_DATA);
}

/*
 * A wakeup costs more than everything else here together, so there is none while the ring is emptied in time. The consumer
 * polls; it is woken only when the ring passes the watermark, looked at once every WAKE_EVERY records of a CPU.
 */
#define WAKE_EVERY 64

static __always_inline u64 submit_flags(const struct counters *count)
{
  if (count->records % WAKE_EVERY == 0 && ring_fill() > RING_WATERMARK)
    return BPF_RB_FORCE_WAKEUP;
  return BPF_RB_NO_WAKEUP;
}

/* A cleared record, or NULL with the loss counted. */
static __always_inline struct event *reserve(struct counters *count)
{
  struct event *event = events.ringbuf_reserve(sizeof(struct event));

  if (!event) {
    COUNT(count->lost_ring_full);
    return NULL;
  }
  __builtin_memset(event, 0, sizeof(*event));
  return event;
}

static __always_inline void fill(struct event *event, u8 kind, const void *sk, const struct endpoints *ends)
{
  event->ts_ns = bpf_ktime_get_ns();
  event->sock = (u64)sk;
  event->kind = kind;
  event->family = ends->family;
  event->sport = ends->sport;
  event->dport = ends->dport;
  event->netns = ends->netns;
  __builtin_memcpy(event->saddr, ends->saddr, sizeof(event->saddr));
  __builtin_memcpy(event->daddr, ends->daddr, sizeof(event->daddr));
}

/* A record with what all kinds have, or NULL with the reason counted: filtered out, or lost. */
static __always_inline struct event *new_event(u8 kind, const void *sk, const struct endpoints *ends, struct counters *count)
{
  struct event *event;

  if (!keep(ends)) {
    COUNT(count->filtered);
    return NULL;
  }
  event = reserve(count);
  if (event)
    fill(event, kind, sk, ends);
  return event;
}

static __always_inline void submit(struct event *event, struct counters *count)
{
  COUNT(count->records);
  events.ringbuf_submit(event, submit_flags(count));
}

/*
 * Hook: tracepoint inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate), which fires before
 * sk_state is written, so both states come from its arguments. Both are below STATES.
 */
static __always_inline void trace_set_state(const void *sk, u32 old_state, u32 new_state, struct counters *count)
{
  struct endpoints ends;
  struct event *event;

  if (!is_tcp(sk) || !read_endpoints(sk, &ends)) {
    COUNT(count->other_protocols);
    return;
  }
  ends.unnamed = old_state == TCP_LISTEN && new_state == TCP_SYN_RECV && !ends.dport; /* Linux before 6.15 */
  COUNT(count->transitions[is_foreign(&ends)][old_state][new_state]);
  event = new_event(EVENT_STATE, sk, &ends, count);
  if (!event)
    return;
  event->old_state = old_state;
  event->new_state = new_state;
  if (runs_in_owner(old_state, new_state, ends.sport))
    fill_owner(event);
  if (new_state == TCP_CLOSE) {
    event->error = read_u32(sk + SK_ERR);
    fill_totals(event, sk, old_state);
  }
  submit(event, count);
}

static __always_inline void trace_raw_set_state(struct bpf_raw_tracepoint_args *ctx, struct counters *count)
{
  trace_set_state((const void *)ctx->args[0], ctx->args[1] % STATES, ctx->args[2] % STATES, count);
}

/*
 * A softirq may interrupt this program and change the state of another socket. Since 05b24ff9b2cf ("bpf: Prevent bpf program
 * recursion for raw tracepoint probes", v6.1) the kernel does not run a program inside itself on one CPU: it skips the inner
 * call, and under load that loses one event in some thousands. So the hook has two programs, which the kernel calls one after the
 * other. The first does the work and leaves the event's key on this CPU's stack; the second takes the key and has nothing to do,
 * or finds none and does the work that the first was skipped for.
 *
 * An interrupt leaves the stack as it found it, unless it comes within the second program: then the keys of its events stay, since
 * the second program is skipped for each. They lie above the interrupted event's own key, and go with it; or, where that one was
 * taken already, they lie until they are older than any event can still be at work.
 */
#define KEY(count, i) (*(volatile __u64 *)&(count)->handled[(i) % KEYS])
#define DEPTH(count) (*(volatile __u64 *)&(count)->depth)
#define STALE_JIFFIES 100 /* 0.1 to 1 s; a softirq is cut short after 2 ms (kernel/softirq.c, MAX_SOFTIRQ_TIME) */

static __always_inline u64 event_key(const struct bpf_raw_tracepoint_args *ctx)
{
  return ctx->args[0] << 8 | ctx->args[1] % STATES << 4 | ctx->args[2] % STATES;
}

static __always_inline void leave_key(struct counters *count, u64 key)
{
  u64 now = bpf_jiffies64(), depth = DEPTH(count);

  if (depth && now - count->handled_at[(depth - 1) % KEYS] > STALE_JIFFIES)
    depth = 0;
  if (depth >= KEYS) /* the interrupted event's key is further down */
    depth = KEYS - 1;
  KEY(count, depth) = key;
  count->handled_at[depth % KEYS] = now;
  DEPTH(count) = depth + 1;
}

static __always_inline bool take_key(struct counters *count, u64 key)
{
  u64 depth = DEPTH(count);

/* No earlier end than KEYS: the compiler would not unroll it then, and Linux 6.1's verifier gives up after 8192 jumps. */
#pragma unroll
  for (u64 i = 1; i <= KEYS; i++) {
    if (i <= depth && KEY(count, depth - i) == key) {
      DEPTH(count) = depth - i;
      return true;
    }
  }
  return false;
}

int on_set_state(struct bpf_raw_tracepoint_args *ctx)
{
  struct counters *count = this_cpu_counters();

  if (!count)
    return 0;
  leave_key(count, event_key(ctx));
  trace_raw_set_state(ctx, count);
  return 0;
}

int on_set_state_nested(struct bpf_raw_tracepoint_args *ctx)
{
  struct counters *count = this_cpu_counters();

  if (!count || take_key(count, event_key(ctx)))
    return 0;
  COUNT(count->nested);
  trace_raw_set_state(ctx, count);
  return 0;
}

#ifdef WITH_STATE_TRACEPOINT
/*
 * The same hook where raw tracepoints are refused. The context's offsets come from the tracepoint's format file, since some
 * kernels put further fields before these. Of this kind the kernel runs no program inside any other on one CPU, so a second one
 * could not rescue what a softirq makes it skip.
 */
int on_set_state_tracepoint(void *ctx)
{
  const void *sk = *(const void **)(ctx + SET_STATE_SKADDR);
  u32 old_state = *(u32 *)(ctx + SET_STATE_OLDSTATE) % STATES, new_state = *(u32 *)(ctx + SET_STATE_NEWSTATE) % STATES;
  struct counters *count = this_cpu_counters();

  if (count)
    trace_set_state(sk, old_state, new_state, count);
  return 0;
}
#endif

/*
 * Hooks: raw tracepoints tcp_retransmit_skb(sk, skb, ...), tcp_send_reset(sk, skb, ...), tcp_receive_reset(sk). Their socket may be
 * a mini-socket, of which only struct sock_common is there, or none: a reset for a port where nobody listens.
 */
static __always_inline void trace_segment(const void *sk, u8 kind, struct counters *count, u64 *counter)
{
  struct endpoints ends;
  struct event *event;

  if (!sk || !read_endpoints(sk, &ends))
    return;
  COUNT(counter[is_foreign(&ends)]);
  event = new_event(kind, sk, &ends, count);
  if (event)
    submit(event, count);
}

int on_retransmit(struct bpf_raw_tracepoint_args *ctx)
{
  struct counters *count = this_cpu_counters();

  if (count)
    trace_segment((const void *)ctx->args[0], EVENT_RETRANSMIT, count, count->retransmits);
  return 0;
}

int on_send_reset(struct bpf_raw_tracepoint_args *ctx)
{
  struct counters *count = this_cpu_counters();

  if (count)
    trace_segment((const void *)ctx->args[0], EVENT_RESET_SENT, count, count->resets_sent);
  return 0;
}

int on_receive_reset(struct bpf_raw_tracepoint_args *ctx)
{
  struct counters *count = this_cpu_counters();

  if (count)
    trace_segment((const void *)ctx->args[0], EVENT_RESET_RECEIVED, count, count->resets_received);
  return 0;
}

/* An accepted socket, in the context of the task that accepted it; *listener* is NULL where the hook does not tell it. */
static __always_inline void trace_accept(const void *sk, const void *listener)
{
  struct counters *count = this_cpu_counters();
  struct endpoints ends;
  struct event *event;

  if (!count || !sk || !read_endpoints(sk, &ends) || !is_tcp(sk))
    return;
  COUNT(count->accepts[is_foreign(&ends)]);
  event = new_event(EVENT_ACCEPT, sk, &ends, count);
  if (!event)
    return;
  fill_owner(event);
  if (listener)
    fill_backlog(event, listener);
  submit(event, count);
}

/*
 * Hooks: the return of inet_csk_accept(listener, flags, error, kern), since 92ef0fd55ac8 ("net: change proto and proto_ops accept
 * type", v6.10) of inet_csk_accept(listener, arg); it gives the accepted socket, or NULL.
 */
#ifdef WITH_ACCEPT_FEXIT
int on_accept_fexit(u64 *ctx)
{
  trace_accept((const void *)ctx[ACCEPT_PARAMETERS], (const void *)ctx[0]);
  return 0;
}
#endif

#ifdef WITH_ACCEPT_KPROBE
#include <uapi/linux/ptrace.h>

/* The listener of each thread in inet_csk_accept(): a blocked accept keeps its entry, and the longest unused go when it is full. */
BPF_TABLE("lru_hash", u64, u64, listeners, 16384);

int on_accept_entry(struct pt_regs *ctx)
{
  u64 thread = bpf_get_current_pid_tgid(), listener = PT_REGS_PARM1(ctx);

  listeners.update(&thread, &listener);
  return 0;
}

int on_accept_return(struct pt_regs *ctx)
{
  u64 thread = bpf_get_current_pid_tgid();
  u64 *found = listeners.lookup(&thread);
  const void *listener = found ? (const void *)*found : NULL;

  listeners.delete(&thread);
  trace_accept((const void *)PT_REGS_RC(ctx), listener);
  return 0;
}
#endif

#ifdef WITH_ACCEPT_SYSCALL
#include "descriptor.h"

/*
 * Hook: the exit of accept() and accept4(), where nothing may be attached to inet_csk_accept. The new descriptor is in the
 * caller's table by then, and the accepted socket is reached through it.
 */
int on_accept_exit(void *ctx)
{
  s64 fd = *(s64 *)(ctx + SYS_EXIT_RET);

  if (fd >= 0)
    trace_accept(socket_of_descriptor(fd), NULL);
  return 0;
}
#endif
