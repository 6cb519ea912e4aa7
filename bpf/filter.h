/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The capture's filter, compiled in. A list arrives as one macro of X() items, so that an absent filter costs nothing:
 *   -DKEEP_LPORTS="X(80,80) X(8000,8099)"    ranges, host order, inclusive
 *   -DKEEP_NETWORKS="X(a0,a1,a2,a3,m0,m1,m2,m3)"    address and mask as four words in memory order
 * A local port of 0 means not chosen yet: the record passes, and so does a passive birth without a remote end; user space decides when
 * these are known (tracer/events/filters.py).
 */

#ifdef KEEP_LPORTS
static __always_inline bool keep_local_port(u16 port)
{
#define X(low, high) || (port >= (low) && port <= (high))
  return port == 0 KEEP_LPORTS;
#undef X
}
#endif

#ifdef KEEP_RPORTS
static __always_inline bool keep_remote_port(u16 port)
{
#define X(low, high) || (port >= (low) && port <= (high))
  return false KEEP_RPORTS;
#undef X
}
#endif

#ifdef KEEP_PORTS
static __always_inline bool keep_either_port(u16 local, u16 remote)
{
#define X(low, high) || (local >= (low) && local <= (high)) || (remote >= (low) && remote <= (high))
  return local == 0 KEEP_PORTS;
#undef X
}
#endif

#ifdef KEEP_NETWORKS
static __always_inline bool in_networks(const u32 *a)
{
#define X(a0, a1, a2, a3, m0, m1, m2, m3) \
  || ((a[0] & (m0)) == (a0) && (a[1] & (m1)) == (a1) && (a[2] & (m2)) == (a2) && (a[3] & (m3)) == (a3))
  return false KEEP_NETWORKS;
#undef X
}
#endif

static __always_inline bool keep(const struct endpoints *ends)
{
#ifdef KEEP_FAMILY
  if (!ends->unnamed && ends->family != KEEP_FAMILY)
    return false;
#endif
#ifdef KEEP_NETNS
  if (ends->netns != KEEP_NETNS)
    return false;
#endif
#ifdef KEEP_LPORTS
  if (!keep_local_port(ends->sport))
    return false;
#endif
#ifdef KEEP_RPORTS
  if (!ends->unnamed && !keep_remote_port(ends->dport))
    return false;
#endif
#ifdef KEEP_PORTS
  if (!ends->unnamed && !keep_either_port(ends->sport, ends->dport))
    return false;
#endif
#ifdef KEEP_NETWORKS
  if (!ends->unnamed && !in_networks(ends->saddr) && !in_networks(ends->daddr))
    return false;
#endif
  return true;
}
