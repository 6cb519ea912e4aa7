/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading a struct sock: one copy of its head serves all addresses and ports; what lies further away is read when needed. */

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define V4_MAPPED bpf_htonl(0x0000ffff) /* third word of ::ffff:a.b.c.d */

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10
#define TCP_CLOSING 11

struct endpoints {
  u32 saddr[4], daddr[4];
  u32 netns;
  u16 sport, dport;
  u8 family;
  bool unnamed; /* a passive birth of which the kernel has not told the remote end yet; saddr and family may be the listener's */
};

/* The first bytes of a struct sock_common, up to the last field that we want. */
struct sock_head {
  u64 words[(SKC_HEAD_BYTES + 7) / 8];
};

#define HEAD(type, offset) (*(type *)((u8 *)head->words + (offset)))

static __always_inline u64 read_u64(const void *from)
{
  u64 value = 0;
  bpf_probe_read_kernel(&value, sizeof(value), from);
  return value;
}

static __always_inline u32 read_u32(const void *from)
{
  u32 value = 0;
  bpf_probe_read_kernel(&value, sizeof(value), from);
  return value;
}

static __always_inline u16 read_u16(const void *from)
{
  u16 value = 0;
  bpf_probe_read_kernel(&value, sizeof(value), from);
  return value;
}

/* sk_protocol is 16 bits wide since bf9765145b85 ("sock: Make sk_protocol a 16-bit value", v5.6); the ring needs 5.8. */
static __always_inline bool is_tcp(const void *sk)
{
  return read_u16(sk + SK_PROTOCOL) == IPPROTO_TCP;
}

/*
 * skc_num is the local port until CLOSE, where inet_put_port() has already cleared it; inet_sport keeps it. At SYN_SENT
 * neither is set unless the socket was bound (net/ipv4/tcp_ipv4.c, tcp_v4_connect).
 */
static __always_inline u16 local_port(const void *sk, const struct sock_head *head)
{
  u16 num = HEAD(u16, SKC_NUM);
  return num ? num : bpf_ntohs(read_u16(sk + INET_SPORT));
}

static __always_inline void map_ipv4(u32 *words, u32 address)
{
  words[0] = words[1] = 0;
  words[2] = V4_MAPPED;
  words[3] = address;
}

static __always_inline void copy_ipv6(u32 *words, const u32 *from)
{
  words[0] = from[0];
  words[1] = from[1];
  words[2] = from[2];
  words[3] = from[3];
}

static __always_inline bool is_v4_mapped(const u32 *words)
{
  return !words[0] && !words[1] && words[2] == V4_MAPPED;
}

/* False for a socket of another family, or one whose memory cannot be read. */
static __always_inline bool read_endpoints(const void *sk, struct endpoints *ends)
{
  struct sock_head buffer, *head = &buffer;

  if (bpf_probe_read_kernel(head, SKC_HEAD_BYTES, sk))
    return false;
  if (HEAD(u16, SKC_FAMILY) == AF_INET) {
    map_ipv4(ends->saddr, HEAD(u32, SKC_RCV_SADDR));
    map_ipv4(ends->daddr, HEAD(u32, SKC_DADDR));
    ends->family = 4;
#ifdef SKC_V6_DADDR
  } else if (HEAD(u16, SKC_FAMILY) == AF_INET6) {
    copy_ipv6(ends->saddr, &HEAD(u32, SKC_V6_RCV_SADDR));
    copy_ipv6(ends->daddr, &HEAD(u32, SKC_V6_DADDR));
    ends->family = is_v4_mapped(ends->daddr) || is_v4_mapped(ends->saddr) ? 4 : 6;
#endif
  } else {
    return false;
  }
  ends->sport = local_port(sk, head);
  ends->dport = bpf_ntohs(HEAD(u16, SKC_DPORT));
  ends->unnamed = false;
  ends->netns = read_u32((void *)HEAD(u64, SKC_NET) + NET_INUM);
  return true;
}

/* Of enum sock_flags in include/net/sock.h: the peer's FIN has been received (net/ipv4/tcp_input.c, tcp_fin). */
#define SOCK_DONE 1

/* Whether the peer has acknowledged our FIN by the time of old_state -> CLOSE. */
static __always_inline bool fin_acknowledged(u32 old_state, u32 error)
{
  return old_state == TCP_FIN_WAIT2 || (!error && (old_state == TCP_LAST_ACK || old_state == TCP_CLOSING));
}

/*
 * The totals stand in the socket until it is freed; net/ipv4/tcp.c, tcp_get_info() reads the same fields. Both byte counts
 * run over sequence numbers, of which a FIN takes one. So does the SYN of an active open, which user space takes off.
 */
static __always_inline void fill_totals(struct event *event, const void *sk, u32 old_state)
{
  u64 acked = read_u64(sk + TP_BYTES_ACKED), received = read_u64(sk + TP_BYTES_RECEIVED);

  event->bytes_sent = acked && fin_acknowledged(old_state, event->error) ? acked - 1 : acked;
  event->bytes_received = received && (read_u64(sk + SK_FLAGS) & (1 << SOCK_DONE)) ? received - 1 : received;
  event->segs_retrans = read_u32(sk + TP_TOTAL_RETRANS);
  event->srtt_us = read_u32(sk + TP_SRTT_US) >> 3; /* kept in eighths */
  event->flags |= EVENT_HAS_TOTALS;
}

/* The accept queue that a socket was taken from, after it was taken; include/net/sock.h, sk_acceptq_is_full() compares the two. */
static __always_inline void fill_backlog(struct event *event, const void *listener)
{
  event->backlog = read_u32(listener + SK_ACK_BACKLOG);
  event->backlog_max = read_u32(listener + SK_MAX_ACK_BACKLOG);
  event->flags |= EVENT_HAS_BACKLOG;
}
