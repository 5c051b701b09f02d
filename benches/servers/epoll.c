/*
 * The limit for one thread: level-triggered epoll. Every connection is registered once. The server
 * asks for EPOLLOUT only while bytes wait to be sent, and for EPOLLIN only while it reads.
 */
#include "common.h"

#include <sys/epoll.h>

enum { EVENTS = 1024 }; /* the most events that one epoll_wait returns */

static int poller;

static unsigned interest(const struct connection *c) {
  return (wants_to_read(c) ? EPOLLIN : 0) | (wants_to_write(c) ? EPOLLOUT : 0);
}

static void watch(int operation, struct connection *c) {
  c->registered = interest(c);
  struct epoll_event event = {.events = c->registered, .data.ptr = c};
  if (epoll_ctl(poller, operation, c->fd, &event) < 0) die("epoll_ctl");
}

static void accept_all(int listener) {
  for (int fd; (fd = accept_one(listener)) >= 0;) watch(EPOLL_CTL_ADD, new_connection(fd));
}

static void serve(struct connection *c, unsigned events) {
  bool broken = events & (EPOLLERR | EPOLLHUP);
  bool keeps = take_turn(c, broken || events & EPOLLIN, broken || events & EPOLLOUT);
  /* A hang-up cannot be masked: while reading is paused, epoll would report it without end. */
  if (!keeps || (broken && !wants_to_read(c))) {
    free_connection(c);
  } else if (interest(c) != c->registered) {
    watch(EPOLL_CTL_MOD, c);
  }
}

int main(int argc, char **argv) {
  int listener = start(argc, argv);
  poller = epoll_create1(EPOLL_CLOEXEC);
  if (poller < 0) die("epoll_create1");
  struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &listening) < 0) die("epoll_ctl");

  static struct epoll_event events[EVENTS];
  for (;;) {
    int count = epoll_wait(poller, events, EVENTS, -1);
    if (count < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < count; i++) {
      struct connection *c = events[i].data.ptr;
      if (c) {
        serve(c, events[i].events);
      } else {
        accept_all(listener);
      }
    }
  }
}
