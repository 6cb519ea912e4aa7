/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connload: opens and closes TCP connections on loopback as fast as it can, and says how fast that was.
 *
 * Client and server are one thread, one connection after the other, so that every connection runs through its transitions
 * in a fixed order and nothing but the system calls costs time. Build: gcc -O2 -o connload connload.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/*
 * TIME_WAIT lends an ephemeral port to a destination once a minute. connect() looks at every second port first: beyond half
 * of the usual 28,232 it searches twice as long.
 */
#define CONNECTIONS_EACH 14000
/* Fits the socket buffers: a thread that is both ends cannot send and receive at once. */
#define CHUNK 16384
/* How far a client may run ahead of the server's process: less than any system's accept queue. */
#define MAX_AHEAD 100

enum closing { CLIENT, SERVER, RESET, MIX };
static const char *const CLOSING[] = {"client", "server", "reset", "mix"};

enum families { V4 = 1, V6 = 2, BOTH = V4 | V6 };
static const char *const FAMILY[] = {"", "4", "6", "both"};

enum roles { CONNECTS = 1, ACCEPTS = 2 };

struct options {
  long connections, destinations, rate, bytes, reply, refused, port, hold_s;
  int families;
  enum closing closing;
  bool json, open, fork;
};

struct target {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } address;
  int listener;
};

/* -1 is an end that the other process has. */
struct ends {
  int client, server;
};

static volatile sig_atomic_t stopped;
static _Atomic long *served; /* connections the server is done with, in memory both processes share */

static void stop(int number)
{
  (void)number;
  stopped = 1;
}

static void need(bool success, const char *what)
{
  if (success)
    return;
  fprintf(stderr, "connload: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double now_s(void)
{
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_s(int who)
{
  struct rusage use;

  getrusage(who, &use);
  return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

/* What connection i is follows from i alone, so that both processes of --fork agree without a word. */
static int family_of(const struct options *o, long i)
{
  return o->families != BOTH ? o->families : i % 2 ? V6 : V4;
}

static enum closing closing_of(const struct options *o, long i)
{
  return o->closing != MIX ? o->closing : (enum closing)(i % MIX);
}

static const struct target *target_of(const struct options *o, struct target *const targets[], long i)
{
  return &targets[family_of(o, i)][(o->families == BOTH ? i / 2 : i) % o->destinations];
}

/*
 * A socket on a port of the wildcard address, 0 for a free one, with the loopback address that leads to it. Bound to the
 * device too: a stranger's connection would be taken for ours.
 */
static struct target bind_to(int family, long port)
{
  struct target t = {.address.any.sa_family = family == V4 ? AF_INET : AF_INET6};
  socklen_t length = sizeof(t.address);
  int one = 1;

  t.address.v4.sin_port = htons(port); /* sin6_port lies in the same place */
  t.listener = socket(t.address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  need(t.listener >= 0, "socket");
  need(!port || !setsockopt(t.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), "SO_REUSEADDR");
  need(family == V4 || !setsockopt(t.listener, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)), "IPV6_V6ONLY");
  need(!setsockopt(t.listener, SOL_SOCKET, SO_BINDTODEVICE, "lo", sizeof("lo")), "SO_BINDTODEVICE");
  need(!bind(t.listener, &t.address.any, length), "bind");
  need(!getsockname(t.listener, &t.address.any, &length), "getsockname");
  if (family == V4)
    t.address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  else
    t.address.v6.sin6_addr = in6addr_loopback;
  return t;
}

/* IPv4 has one listener and many loopback addresses; IPv6 has one address, so there each destination is a port. */
static struct target *listen_at(const struct options *o, int family)
{
  struct target *targets = calloc(o->destinations, sizeof(*targets));

  need(targets, "memory");
  for (long i = 0; i < o->destinations; i++) {
    if (i > 0 && family == V4) {
      targets[i] = targets[0];
      targets[i].address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + i);
    } else {
      targets[i] = bind_to(family, o->port ? o->port + i : 0);
      need(!listen(targets[i].listener, SOMAXCONN), "listen");
    }
  }
  return targets;
}

static void allow_descriptors(long needed)
{
  struct rlimit limit;
  long allowed;

  need(!getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
  allowed = limit.rlim_max;
  if (limit.rlim_max < (rlim_t)needed)
    limit.rlim_max = needed;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit)) {
    fprintf(stderr, "connload: %ld descriptors are needed, %ld allowed: raise ulimit -Hn or sysctl fs.nr_open\n", needed, allowed);
    exit(1);
  }
}

static void fail_to_connect(const struct options *o, const struct target *t)
{
  int low = 32768, high = 60999;
  char host[64] = "";
  FILE *range;

  need(errno == EADDRNOTAVAIL, "connect");
  range = fopen("/proc/sys/net/ipv4/ip_local_port_range", "r");
  need(range && fscanf(range, "%d %d", &low, &high) == 2, "ip_local_port_range");
  getnameinfo(&t->address.any, sizeof(t->address), host, sizeof(host), NULL, 0, NI_NUMERICHOST);
  fprintf(stderr, "connload: connect to %s port %d: %s: all %d ephemeral ports to it are in use or in TIME_WAIT, or the host lacks "
          "the address: give more --destinations than %ld, or wait a minute\n",
          host, ntohs(t->address.v4.sin_port), strerror(EADDRNOTAVAIL), high - low + 1, o->destinations);
  exit(1);
}

static struct ends open_ends(const struct options *o, const struct target *t, int roles)
{
  struct ends e = {-1, -1};

  if (roles & CONNECTS) {
    e.client = socket(t->address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(e.client >= 0, "socket");
    if (connect(e.client, &t->address.any, sizeof(t->address)))
      fail_to_connect(o, t);
  }
  if (roles & ACCEPTS) {
    e.server = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC);
    need(e.server >= 0, "accept");
  }
  return e;
}

static void send_all(int fd, long bytes)
{
  static const char payload[CHUNK];

  for (ssize_t sent; bytes > 0; bytes -= sent) {
    sent = send(fd, payload, bytes, MSG_NOSIGNAL);
    need(sent > 0, "send");
  }
}

/* A client in its own process may reset a connection before all that it sent has been received. */
static void receive_all(int fd, long bytes, bool reset)
{
  static char payload[CHUNK];

  for (ssize_t received; bytes > 0; bytes -= received) {
    received = recv(fd, payload, bytes, 0);
    if (received <= 0 && reset)
      return;
    if (received == 0)
      errno = ECONNRESET;
    need(received > 0, "recv");
  }
}

static void exchange(int from, int to, long bytes, bool reset)
{
  for (long chunk; bytes > 0; bytes -= chunk) {
    chunk = bytes < CHUNK ? bytes : CHUNK;
    if (from >= 0)
      send_all(from, chunk);
    if (to >= 0)
      receive_all(to, chunk, reset);
  }
}

/* The second end waits for the FIN or RST of the first: to close earlier would change the transitions. */
static void close_ends(struct ends e, enum closing closing)
{
  int first = closing == SERVER ? e.server : e.client, second = closing == SERVER ? e.client : e.server;
  const struct linger at_once = {.l_onoff = 1};
  char byte;

  if (first >= 0) {
    need(closing != RESET || !setsockopt(first, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), "SO_LINGER");
    close(first);
  }
  if (second >= 0) {
    need(read(second, &byte, 1) == 0 || (closing == RESET && errno == ECONNRESET), "read");
    close(second);
  }
}

static void await_served(long least)
{
  while (atomic_load(served) < least)
    usleep(50);
}

static void pace(double start, long done, long rate)
{
  double due = start + (double)done / rate;
  struct timespec t = {.tv_sec = (time_t)due, .tv_nsec = (long)((due - (time_t)due) * 1e9)};

  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* Makes the connections, or this process's ends of them, and returns how many; with *kept* they stay open. */
static long run(const struct options *o, struct target *const targets[], int roles, struct ends *kept)
{
  double start = now_s();
  long i;

  for (i = 0; i < o->connections && !stopped; i++) {
    enum closing closing = closing_of(o, i);
    struct ends e;

    if (o->rate && roles & CONNECTS)
      pace(start, i, o->rate);
    if (roles & CONNECTS)
      await_served(i - MAX_AHEAD);
    e = open_ends(o, target_of(o, targets, i), roles);
    exchange(e.client, e.server, o->bytes, closing == RESET);
    exchange(e.server, e.client, o->reply, false);
    if (kept)
      kept[i] = e;
    else
      close_ends(e, closing);
    if (roles & ACCEPTS)
      atomic_store(served, i + 1);
  }
  if (roles & CONNECTS)
    await_served(i);
  return i;
}

/* Signals are blocked but for the wait, so that none can slip in before it. */
static void hold_and_close(const struct options *o, const struct ends *kept, long count)
{
  struct timespec limit = {.tv_sec = o->hold_s};
  sigset_t all, before;

  fprintf(stderr, "connload: %ld connections open\n", count);
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &before);
  if (!stopped)
    ppoll(NULL, 0, o->hold_s ? &limit : NULL, &before);
  sigprocmask(SIG_SETMASK, &before, NULL);
  for (long i = 0; i < count; i++)
    close_ends(kept[i], closing_of(o, i));
}

static void server_ended(int number)
{
  static const char killed[] = "connload: the server's process was killed\n";
  int status;

  (void)number;
  if (wait(&status) > 0 && WIFSIGNALED(status))
    (void)!write(STDERR_FILENO, killed, sizeof(killed) - 1);
  _exit(1);
}

/*
 * Nothing ends the server but a failure, of which it has told, or the client, which lets it finish what has begun: so
 * signals are blocked before it begins, and stay blocked there.
 */
static pid_t fork_server(const struct options *o, struct target *const targets[])
{
  sigset_t all, before;
  pid_t server;

  signal(SIGCHLD, server_ended);
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &before);
  server = fork();
  need(server >= 0, "fork");
  if (server > 0) {
    prctl(PR_SET_NAME, "connload-cli");
    sigprocmask(SIG_SETMASK, &before, NULL);
    return server;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "connload-srv");
  run(o, targets, ACCEPTS, NULL);
  for (;;)
    pause();
}

/* Waits for it too, which is what makes its CPU time count. */
static void end_server(pid_t server)
{
  signal(SIGCHLD, SIG_DFL);
  kill(server, SIGKILL);
  waitpid(server, NULL, 0);
}

/* A port that is bound but does not listen refuses, and nobody else can take it meanwhile. */
static long connect_refused(const struct options *o)
{
  struct target closed = bind_to(family_of(o, 0), 0);
  long i;

  for (i = 0; i < o->refused && !stopped; i++) {
    int fd = socket(closed.address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    need(fd >= 0, "socket");
    need(connect(fd, &closed.address.any, sizeof(closed.address)) && errno == ECONNREFUSED, "connect to a closed port");
    close(fd);
  }
  return i;
}

/* A tracer has to see ten transitions of a connection, six where it ends by a reset, two where it is refused. */
static void report(const struct options *o, long done, long refused, double seconds)
{
  long resets = o->closing == RESET ? done : o->closing == MIX ? done / MIX : 0;

  printf(o->json ? "{\"connections\": %ld, \"family\": \"%s\", \"close\": \"%s\", \"seconds\": %.6f, \"rate_per_s\": %.1f, "
                   "\"cpu_s\": %.3f, \"transitions_expected\": %ld}\n"
                 : "%ld connections (family %s, close %s) in %.3f s: %.0f/s, %.3f s CPU, %ld transitions\n",
         done, FAMILY[o->families], CLOSING[o->closing], seconds, done / seconds, cpu_s(RUSAGE_SELF) + cpu_s(RUSAGE_CHILDREN),
         10 * (done - resets) + 6 * resets + 2 * refused);
  need(!fflush(stdout), "stdout");
}

static void usage(void)
{
  puts("Usage: connload [OPTIONS]\n"
       "Opens and closes TCP connections on loopback, as fast as it can.\n\n"
       "  -n, --connections N    how many (60000)\n"
       "  -4, -6, -46, --family 4|6|both\n"
       "                         IPv4, IPv6, or both in turn (4)\n"
       "  -c, --close client|server|reset|mix\n"
       "                         the end that closes first, or the client resets, or\n"
       "                         these three in turn (client)\n"
       "  -b, --bytes N          bytes from client to server (0)\n"
       "  -a, --reply N          then bytes back (0)\n"
       "  -d, --destinations N   spread over N addresses 127.0.x.y, or N ports of ::1\n"
       "                         (one for each 14000 connections)\n"
       "  -p, --port N           listen there; IPv6: on those after it too (any free)\n"
       "  -r, --rate N           at most N connections a second; 0: no limit (0)\n"
       "  -o, --open             keep all open until SIGINT or SIGTERM, then close them\n"
       "  -H, --hold S           --open, but for S seconds at most\n"
       "  -F, --fork             client and server in processes of their own, named\n"
       "                         connload-cli and connload-srv\n"
       "  -x, --refused N        then N connects to a closed port (0)\n"
       "  -j, --json             the result as one JSON object\n"
       "  -h, --help\n\n"
       "Example: connload -n 60000 --close server --json");
}

static void bad(const char *what, const char *value)
{
  fprintf(stderr, "connload: %s: %s; see connload --help\n", what, value);
  exit(2);
}

static long number(const char *option, long least, long most)
{
  char *end;
  long n = strtol(optarg, &end, 10);

  if (*end || end == optarg || n < least || n > most)
    bad(option, optarg);
  return n;
}

static int named(const char *option, const char *const names[], int least, int most)
{
  for (int i = least; i <= most; i++)
    if (!strcmp(optarg, names[i]))
      return i;
  bad(option, optarg);
  return -1;
}

static void set(struct options *o, int option)
{
  switch (option) {
  case 'n': o->connections = number("--connections", 0, 1000000000); break;
  case '4': o->families |= V4; break;
  case '6': o->families |= V6; break;
  case 'f': o->families = named("--family", FAMILY, V4, BOTH); break;
  case 'c': o->closing = named("--close", CLOSING, CLIENT, MIX); break;
  case 'b': o->bytes = number("--bytes", 0, 1L << 40); break;
  case 'a': o->reply = number("--reply", 0, 1L << 40); break;
  case 'd': o->destinations = number("--destinations", 1, 65534); break; /* 127.0.0.1 to 127.0.255.254 */
  case 'p': o->port = number("--port", 1, 65535); break;
  case 'r': o->rate = number("--rate", 0, 1000000000); break;
  case 'o': o->open = true; break;
  case 'H': o->hold_s = number("--hold", 1, 1000000000); o->open = true; break;
  case 'F': o->fork = true; break;
  case 'x': o->refused = number("--refused", 0, 1000000000); break;
  case 'j': o->json = true; break;
  case 'h': usage(); exit(0);
  default: fputs("see connload --help\n", stderr); exit(2);
  }
}

static struct options parse(int argc, char **argv)
{
  static const struct option names[] = {
    {"connections", 1, 0, 'n'}, {"family", 1, 0, 'f'}, {"close", 1, 0, 'c'}, {"bytes", 1, 0, 'b'}, {"reply", 1, 0, 'a'},
    {"destinations", 1, 0, 'd'}, {"port", 1, 0, 'p'}, {"rate", 1, 0, 'r'}, {"open", 0, 0, 'o'}, {"hold", 1, 0, 'H'},
    {"fork", 0, 0, 'F'}, {"refused", 1, 0, 'x'}, {"json", 0, 0, 'j'}, {"help", 0, 0, 'h'}, {0}};
  struct options o = {.connections = 60000};

  for (int option; (option = getopt_long(argc, argv, "n:46f:c:b:a:d:p:r:oH:Fx:jh", names, NULL)) != -1;)
    set(&o, option);
  if (optind < argc)
    bad("no such argument", argv[optind]);
  if (!o.families)
    o.families = V4;
  if (!o.destinations)
    o.destinations = o.connections ? (o.connections + CONNECTIONS_EACH - 1) / CONNECTIONS_EACH : 1;
  if (o.open && o.fork)
    bad("not together", "--open and --fork");
  if (o.families & V6 && o.port + o.destinations > 65536)
    bad("not so many ports from there", "--port");
  return o;
}

int main(int argc, char **argv)
{
  struct options o = parse(argc, argv);
  struct sigaction action = {.sa_handler = stop, .sa_flags = SA_RESTART};
  struct target *targets[BOTH] = {NULL};
  struct ends *kept = NULL;
  pid_t server = 0;
  double start, seconds;
  long done;

  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  allow_descriptors(2 * (o.open ? o.connections : 1) + o.destinations + 16);
  for (int family = V4; family <= V6; family++)
    if (o.families & family)
      targets[family] = listen_at(&o, family);
  served = mmap(NULL, sizeof(*served), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  need(served != MAP_FAILED, "mmap");
  if (o.open)
    need((kept = calloc(o.connections + 1, sizeof(*kept))), "memory");
  if (o.fork)
    server = fork_server(&o, targets);
  start = now_s();
  done = run(&o, targets, o.fork ? CONNECTS : CONNECTS | ACCEPTS, kept);
  seconds = now_s() - start;
  if (server)
    end_server(server);
  if (kept)
    hold_and_close(&o, kept, done);
  report(&o, done, connect_refused(&o), seconds);
  return 0;
}
