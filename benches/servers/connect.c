/*
 * Many connects at once with non-blocking connect and epoll, on one thread.
 *
 *   PROGRAM PORT...
 *
 * Each line of standard input is a number. The program starts that many connects, to the ports of
 * 127.0.0.1 in turn, waits until all have succeeded, and prints `connected NUMBER`. The connections
 * stay open, and epoll watches them for data. The program ends at the end of its standard input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { EVENTS = 1024 }; /* the most events that one epoll_wait returns */

static int poller;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void watch(int operation, int fd, unsigned events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  if (epoll_ctl(poller, operation, fd, &event) < 0) die("epoll_ctl");
}

static void start_connect(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  int yes = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  struct sockaddr_in to = {.sin_family = AF_INET,
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                           .sin_port = htons(port)};
  if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) die("connect");
  watch(EPOLL_CTL_ADD, fd, EPOLLOUT);
}

static void finish_connect(int fd) {
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) die("getsockopt");
  if (error) {
    errno = error;
    die("connect");
  }
  watch(EPOLL_CTL_MOD, fd, EPOLLIN);
}

static void connect_all(int count, int ports, char **port) {
  static struct epoll_event events[EVENTS];
  for (int i = 0; i < count; i++) start_connect(atoi(port[i % ports]));
  for (int done = 0; done < count;) {
    int ready = epoll_wait(poller, events, EVENTS, -1);
    if (ready < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < ready; i++) {
      if (!(events[i].events & EPOLLOUT)) continue;
      finish_connect(events[i].data.fd);
      done++;
    }
  }
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s PORT...\n", argv[0]);
    return 2;
  }
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) die("getrlimit");
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) < 0) die("setrlimit");
  poller = epoll_create1(EPOLL_CLOEXEC);
  if (poller < 0) die("epoll_create1");
  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    int count = atoi(line);
    connect_all(count, argc - 1, argv + 1);
    printf("connected %d\n", count);
    fflush(stdout);
  }
  return 0;
}
