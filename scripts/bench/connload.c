/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connload: opens and closes TCP connections on loopback as fast as one thread can, and says how fast that was.
 *
 * Client and server are the same thread, one connection after the other, so that every connection runs through its ten
 * transitions in a fixed order and nothing but the system calls costs time. Build: gcc -O2 -o connload connload.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum closing { CLIENT, SERVER, RESET, MIX };
static const char *const CLOSING[] = {"client", "server", "reset", "mix"};

/* A destination lends all its ephemeral ports once a minute, while TIME_WAIT holds them; this many are safely there. */
#define CONNECTIONS_EACH 20000

struct options {
  long connections, destinations, rate, bytes, reply, refused;
  int family; /* 4, 6, or 46 for both in turn */
  enum closing closing;
  bool json, open;
  double hold_s;
};

struct listener {
  int fd;
  struct sockaddr_storage address;
  socklen_t length;
};

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
  (void)signal;
  stopped = 1;
}

static void fail(const char *what)
{
  fprintf(stderr, "connload: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void need(bool success, const char *what)
{
  if (!success)
    fail(what);
}

static double now_s(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_s(void)
{
  struct rusage use;
  getrusage(RUSAGE_SELF, &use);
  return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

/* A listener on a free port of the wildcard address. */
static struct listener listen_on(int family)
{
  struct listener l = {.length = sizeof(l.address)};
  int one = 1;

  l.address.ss_family = family;
  l.fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  need(l.fd >= 0, "socket");
  if (family == AF_INET6)
    need(!setsockopt(l.fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)), "IPV6_V6ONLY");
  need(!bind(l.fd, (struct sockaddr *)&l.address, family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)), "bind");
  need(!listen(l.fd, SOMAXCONN), "listen");
  need(!getsockname(l.fd, (struct sockaddr *)&l.address, &l.length), "getsockname");
  return l;
}

/* Destination number i: 127.0.x.y for IPv4; IPv6 has one loopback address, so there each destination is a port. */
static struct listener *destination(struct listener *v4, struct listener *v6, int family, long i)
{
  if (family == 6)
    return &v6[i];
  ((struct sockaddr_in *)&v4->address)->sin_addr.s_addr = htonl(0x7f000001 + i);
  return v4;
}

static void send_all(int fd, long bytes)
{
  static const char payload[65536];

  while (bytes > 0) {
    ssize_t sent = send(fd, payload, bytes < (long)sizeof(payload) ? bytes : (long)sizeof(payload), MSG_NOSIGNAL);
    need(sent > 0, "send");
    bytes -= sent;
  }
}

static void receive_all(int fd, long bytes)
{
  static char payload[65536];

  while (bytes > 0) {
    ssize_t received = recv(fd, payload, sizeof(payload), 0);
    need(received > 0, "recv");
    bytes -= received;
  }
}

/* Small enough for the socket buffers of both ends, since one thread cannot send and receive at once. */
static void exchange(int from, int to, long bytes)
{
  for (long chunk; bytes > 0; bytes -= chunk) {
    chunk = bytes < 16384 ? bytes : 16384;
    send_all(from, chunk);
    receive_all(to, chunk);
  }
}

/* Waits for the other end's FIN or RST, so that the close order is the wanted one. */
static void close_second(int fd)
{
  char byte;

  (void)!read(fd, &byte, 1);
  close(fd);
}

static void close_pair(int client, int server, enum closing closing)
{
  if (closing == SERVER) {
    close(server);
    close_second(client);
    return;
  }
  if (closing == RESET) {
    struct linger now = {.l_onoff = 1};
    need(!setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), "SO_LINGER");
  }
  close(client);
  close_second(server);
}

static void open_pair(const struct listener *l, int *client, int *server)
{
  *client = socket(l->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  need(*client >= 0, "socket");
  if (connect(*client, (const struct sockaddr *)&l->address, l->length)) {
    if (errno == EADDRNOTAVAIL)
      fprintf(stderr, "connload: out of ephemeral ports: give more --destinations, or wait a minute\n");
    fail("connect");
  }
  *server = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
  need(*server >= 0, "accept");
}

static void pace(double start, long done, long rate)
{
  if (rate > 0) {
    double due = start + (double)done / rate;
    struct timespec t = {.tv_sec = (time_t)due, .tv_nsec = (long)((due - (time_t)due) * 1e9)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
  }
}

/* Keeps all connections open until a signal or for hold_s seconds, then closes them. */
static void hold_open(const struct options *o, int *pairs, long opened)
{
  double end = o->hold_s > 0 ? now_s() + o->hold_s : 1e300;

  fprintf(stderr, "connload: %ld connections open\n", opened);
  while (!stopped && now_s() < end)
    usleep(20000);
  for (long i = 0; i < opened; i++)
    close_pair(pairs[2 * i], pairs[2 * i + 1], o->closing == MIX ? (enum closing)(i % MIX) : o->closing);
}

static void raise_descriptor_limit(long connections)
{
  rlim_t needed = 2 * connections + 64;
  struct rlimit limit;

  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < needed)
    limit.rlim_max = needed;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit)) {
    fprintf(stderr, "connload: %ld open connections need %ld descriptors: raise the hard limit (ulimit -Hn)\n", connections,
            (long)needed);
    exit(1);
  }
}

static void connect_refused(long count)
{
  struct listener closed = listen_on(AF_INET);

  close(closed.fd);
  ((struct sockaddr_in *)&closed.address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  while (count-- > 0 && !stopped) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    need(fd >= 0 && connect(fd, (struct sockaddr *)&closed.address, closed.length) && errno == ECONNREFUSED, "refused connect");
    close(fd);
  }
}

static long run(const struct options *o, double *seconds)
{
  struct listener v4 = listen_on(AF_INET), *v6 = calloc(o->destinations, sizeof(*v6));
  int *pairs = o->open ? malloc(2 * sizeof(int) * o->connections) : NULL;
  double start;
  long i;

  need(v6 && (!o->open || pairs), "memory");
  for (i = 0; o->family != 4 && i < o->destinations; i++) {
    v6[i] = listen_on(AF_INET6);
    ((struct sockaddr_in6 *)&v6[i].address)->sin6_addr = in6addr_loopback;
  }
  if (o->open)
    raise_descriptor_limit(o->connections);
  start = now_s();
  for (i = 0; i < o->connections && !stopped; i++) {
    int family = o->family == 46 ? (i & 1 ? 6 : 4) : o->family, client, server;

    pace(start, i, o->rate);
    open_pair(destination(&v4, v6, family, i % o->destinations), &client, &server);
    exchange(client, server, o->bytes);
    exchange(server, client, o->reply);
    if (o->open)
      pairs[2 * i] = client, pairs[2 * i + 1] = server;
    else
      close_pair(client, server, o->closing == MIX ? (enum closing)(i % MIX) : o->closing);
  }
  *seconds = now_s() - start;
  if (o->open)
    hold_open(o, pairs, i);
  connect_refused(o->refused);
  return i;
}

/* What a tracer has to see: ten transitions for each connection, six where it ends by a reset, two for a refused one. */
static long transitions(const struct options *o, long connections)
{
  long resets = o->closing == RESET ? connections : o->closing == MIX ? connections / 3 : 0;

  return 10 * (connections - resets) + 6 * resets + 2 * o->refused;
}

static void usage(FILE *stream)
{
  fputs("Usage: connload [OPTIONS]\n"
        "Opens and closes TCP connections on loopback, one after the other.\n\n"
        "  -n, --connections N       how many (60000)\n"
        "  -f, --family 4|6|both     (4)\n"
        "  -c, --close client|server|reset|mix\n"
        "                            which end closes first, or the client resets (client)\n"
        "  -d, --destinations N      spread over N addresses 127.0.x.y, or ports of ::1\n"
        "                            (as many as keep TIME_WAIT from using up the ports)\n"
        "  -r, --rate N              at most N connections a second (no limit)\n"
        "  -b, --bytes N             bytes from client to server (0)\n"
        "  -a, --reply N             bytes back (0)\n"
        "  -x, --refused N           then N connects to a closed port (0)\n"
        "  -o, --open                keep all open until a signal, then close them\n"
        "  -H, --hold S              with --open: for S seconds\n"
        "  -j, --json                the result as one JSON object\n\n"
        "Example: connload -n 60000 --close server --json\n",
        stream);
}

static void bad(const char *option, const char *value)
{
  fprintf(stderr, "connload: bad %s: %s; see connload --help\n", option, value);
  exit(2);
}

static long number(const char *option, const char *value, long least)
{
  char *end;
  long n = strtol(value, &end, 10);

  if (*end || end == value || n < least)
    bad(option, value);
  return n;
}

static enum closing closing_named(const char *name)
{
  for (int i = CLIENT; i <= MIX; i++)
    if (!strcmp(name, CLOSING[i]))
      return i;
  bad("--close", name);
  return CLIENT;
}

static int family_named(const char *name)
{
  int family = !strcmp(name, "both") ? 46 : !strcmp(name, "4") ? 4 : !strcmp(name, "6") ? 6 : 0;

  if (!family)
    bad("--family", name);
  return family;
}

static struct options parse(int argc, char **argv)
{
  static const struct option names[] = {
    {"connections", 1, 0, 'n'}, {"family", 1, 0, 'f'}, {"close", 1, 0, 'c'}, {"destinations", 1, 0, 'd'},
    {"rate", 1, 0, 'r'}, {"bytes", 1, 0, 'b'}, {"reply", 1, 0, 'a'}, {"refused", 1, 0, 'x'},
    {"open", 0, 0, 'o'}, {"hold", 1, 0, 'H'}, {"json", 0, 0, 'j'}, {"help", 0, 0, 'h'}, {0}};
  struct options o = {.connections = 60000, .family = 4};
  int c;

  while ((c = getopt_long(argc, argv, "n:f:c:d:r:b:a:x:oH:jh", names, NULL)) != -1) {
    switch (c) {
    case 'n': o.connections = number("--connections", optarg, 0); break;
    case 'f': o.family = family_named(optarg); break;
    case 'c': o.closing = closing_named(optarg); break;
    case 'd': o.destinations = number("--destinations", optarg, 1); break;
    case 'r': o.rate = number("--rate", optarg, 0); break;
    case 'b': o.bytes = number("--bytes", optarg, 0); break;
    case 'a': o.reply = number("--reply", optarg, 0); break;
    case 'x': o.refused = number("--refused", optarg, 0); break;
    case 'o': o.open = true; break;
    case 'H': o.hold_s = number("--hold", optarg, 1); break;
    case 'j': o.json = true; break;
    case 'h': usage(stdout); exit(0);
    default: usage(stderr); exit(2);
    }
  }
  if (optind < argc)
    bad("argument", argv[optind]);
  if (!o.destinations)
    o.destinations = o.connections / CONNECTIONS_EACH + 1;
  return o;
}

int main(int argc, char **argv)
{
  struct options o = parse(argc, argv);
  struct sigaction action = {.sa_handler = stop};
  double seconds;
  long done;

  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  done = run(&o, &seconds);
  printf(o.json ? "{\"connections\": %ld, \"family\": \"%s\", \"close\": \"%s\", \"seconds\": %.3f, \"rate_per_s\": %.0f, "
                  "\"cpu_s\": %.3f, \"transitions\": %ld}\n"
                : "%ld connections (family %s, %s closes) in %.3f s: %.0f/s, %.3f s CPU, %ld transitions\n",
         done, o.family == 46 ? "both" : o.family == 6 ? "6" : "4", CLOSING[o.closing], seconds, done / seconds, cpu_s(),
         transitions(&o, done));
  return 0;
}
