/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who owns a socket: stated only where the current task is known to be the owner, never guessed from a softirq. */

/*
 * Transitions that only ever run in the context of the task that calls connect, listen, close or shutdown: the sources are
 * tcp_v4_connect, tcp_v6_connect, inet_csk_listen_start, tcp_set_state in tcp_close_state and in the failed connect.
 * SYN_SENT->CLOSE is one of them only while no port has been chosen: connect itself found none (EADDRNOTAVAIL).
 */
static __always_inline bool runs_in_owner(u32 old_state, u32 new_state, u16 sport)
{
  switch (old_state) {
  case TCP_CLOSE:
    return new_state == TCP_SYN_SENT || new_state == TCP_LISTEN;
  case TCP_LISTEN:
    return new_state == TCP_CLOSE;
  case TCP_ESTABLISHED:
    return new_state == TCP_FIN_WAIT1;
  case TCP_CLOSE_WAIT:
    return new_state == TCP_LAST_ACK;
  case TCP_SYN_SENT:
    return new_state == TCP_CLOSE && sport == 0;
  }
  return false;
}

static __always_inline void fill_owner(struct event *event)
{
  event->tgid = bpf_get_current_pid_tgid() >> 32;
  event->uid = bpf_get_current_uid_gid();
  event->cgroup = bpf_get_current_cgroup_id();
  bpf_get_current_comm(event->comm, sizeof(event->comm));
  event->flags |= EVENT_HAS_OWNER;
}
