/*
 * The common part of both C servers: the contract of a connection, without the poller.
 *
 *   PROGRAM echo|sink|source SEND_SIZE
 *
 * The program listens on a free port of 127.0.0.1, prints `listening on 127.0.0.1:PORT`, serves
 * with one thread, and ends at the end of its standard input. (A second thread sleeps in read(0)
 * for that.)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096 };                    /* connections; all peers that can set it have the same */
enum { RECEIVE_BUFFER = 64 * 1024 };        /* bytes; one for all connections */
enum { STOP_READING_ABOVE = 1024 * 1024 };  /* bytes of leftovers of one connection */

enum contract { ECHO, SINK, SOURCE };

struct connection {
  int fd;
  bool finished;         /* the peer has sent EOF */
  unsigned registered;   /* the events that epoll watches; unused with poll(2) */
  char *leftovers;       /* from `start` to `end`: bytes that the kernel has not accepted yet */
  size_t start, end, capacity;
};

static enum contract contract;
static size_t send_size;
static char *zeroes;
static char buffer[RECEIVE_BUFFER];

static void die(const char *what) {
  perror(what);
  exit(1);
}

static bool has_leftovers(const struct connection *c) { return c->end > c->start; }

static bool wants_to_read(const struct connection *c) {
  return !c->finished && c->end - c->start <= STOP_READING_ABOVE;
}

static bool wants_to_write(const struct connection *c) {
  return contract == SOURCE || has_leftovers(c);
}

static bool would_block(void) { return errno == EAGAIN || errno == EINTR; }

static void keep(struct connection *c, const char *bytes, size_t count) {
  if (c->start > 0) {
    memmove(c->leftovers, c->leftovers + c->start, c->end - c->start);
    c->end -= c->start;
    c->start = 0;
  }
  if (c->end + count > c->capacity) {
    c->capacity = (c->end + count) * 2;
    c->leftovers = realloc(c->leftovers, c->capacity);
    if (!c->leftovers) die("realloc");
  }
  memcpy(c->leftovers + c->end, bytes, count);
  c->end += count;
}

/* Sends the waiting bytes. Returns false if the connection is broken. */
static bool send_what_waits(struct connection *c) {
  if (contract == SOURCE) {
    return send(c->fd, zeroes, send_size, MSG_NOSIGNAL) >= 0 || would_block();
  }
  if (!has_leftovers(c)) return true;
  ssize_t sent = send(c->fd, c->leftovers + c->start, c->end - c->start, MSG_NOSIGNAL);
  if (sent < 0) return would_block();
  c->start += sent;
  if (!has_leftovers(c)) {
    free(c->leftovers);
    c->leftovers = NULL;
    c->start = c->end = c->capacity = 0;
  }
  return true;
}

static bool echo(struct connection *c, const char *bytes, size_t count) {
  size_t taken = 0;
  if (!has_leftovers(c)) {
    ssize_t sent = send(c->fd, bytes, count, MSG_NOSIGNAL);
    if (sent < 0 && !would_block()) return false;
    if (sent > 0) taken = sent;
  }
  if (taken < count) keep(c, bytes + taken, count - taken);
  return true;
}

/* Receives at most one buffer, so that no connection delays the others. */
static bool receive(struct connection *c) {
  ssize_t received = recv(c->fd, buffer, sizeof buffer, 0);
  if (received < 0) return would_block();
  if (received == 0) {
    c->finished = true;
    return true;
  }
  return contract != ECHO || echo(c, buffer, received);
}

/* Serves a connection in one pass. Returns false if it has to be closed. */
static bool take_turn(struct connection *c, bool readable, bool writable) {
  if (writable && !send_what_waits(c)) return false;
  if (readable && wants_to_read(c) && !receive(c)) return false;
  return !c->finished || has_leftovers(c);
}

static struct connection *new_connection(int fd) {
  int yes = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  struct connection *c = calloc(1, sizeof *c);
  if (!c) die("calloc");
  c->fd = fd;
  return c;
}

static void free_connection(struct connection *c) {
  close(c->fd);
  free(c->leftovers);
  free(c);
}

/* Accepts a waiting connection, or returns -1 if there is none. */
static int accept_one(int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) return fd;
    if (errno == EAGAIN) return -1;
    if (errno != EINTR && errno != ECONNABORTED) die("accept4");
  }
}

static void *end_with_stdin(void *unused) {
  char ignored[64];
  while (read(0, ignored, sizeof ignored) > 0) {}
  _exit(0);
  return unused;
}

/* Reads the arguments, listens, and prints the address. */
static int start(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s echo|sink|source SEND_SIZE\n", argv[0]);
    exit(2);
  }
  contract = !strcmp(argv[1], "echo") ? ECHO : !strcmp(argv[1], "sink") ? SINK : SOURCE;
  send_size = strtoul(argv[2], NULL, 10);
  zeroes = calloc(1, send_size);
  if (!zeroes) die("calloc");

  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0) die("socket");
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
  if (listen(listener, BACKLOG) < 0) die("listen");
  if (getsockname(listener, (struct sockaddr *)&address, &length) < 0) die("getsockname");

  pthread_t watcher;
  if (pthread_create(&watcher, NULL, end_with_stdin, NULL) != 0) die("pthread_create");
  printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  return listener;
}
