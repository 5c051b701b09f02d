/*
 * The shape of Bitcoin Core's socket thread: every pass builds the set for poll(2) from all
 * connections, and a wait ends after at most 50 ms.
 */
#include "common.h"

#include <poll.h>

enum { TIMEOUT = 50 }; /* ms */

static struct connection **connections;
static struct pollfd *set; /* set[0] is the listener, set[i + 1] is connections[i] */
static size_t count, capacity;

static void add(int fd) {
  if (count == capacity) {
    capacity = capacity ? capacity * 2 : 64;
    connections = realloc(connections, capacity * sizeof *connections);
    set = realloc(set, (capacity + 1) * sizeof *set);
    if (!connections || !set) die("realloc");
  }
  connections[count++] = new_connection(fd);
}

static void build_set(int listener) {
  set[0] = (struct pollfd){.fd = listener, .events = POLLIN};
  for (size_t i = 0; i < count; i++) {
    const struct connection *c = connections[i];
    short events = (wants_to_read(c) ? POLLIN : 0) | (wants_to_write(c) ? POLLOUT : 0);
    set[i + 1] = (struct pollfd){.fd = c->fd, .events = events};
  }
}

static void serve(size_t i) {
  short events = set[i + 1].revents;
  if (!events) return;
  struct connection *c = connections[i];
  bool broken = events & (POLLERR | POLLHUP);
  bool keeps = take_turn(c, broken || events & POLLIN, broken || events & POLLOUT);
  if (!keeps || (broken && !wants_to_read(c))) {
    free_connection(c);
    connections[i] = connections[--count];
  }
}

int main(int argc, char **argv) {
  int listener = start(argc, argv);
  set = malloc(sizeof *set);
  if (!set) die("malloc");
  for (;;) {
    build_set(listener);
    if (poll(set, count + 1, TIMEOUT) < 0 && errno != EINTR) die("poll");
    /* From the end: the connection that moves to a closed one's place has already been served. */
    for (size_t i = count; i-- > 0;) serve(i);
    if (set[0].revents) {
      for (int fd; (fd = accept_one(listener)) >= 0;) add(fd);
    }
  }
}
