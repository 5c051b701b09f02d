#!/usr/bin/env python3
"""Counts what one echoed message costs a server besides instructions: its locked instructions, and the
cache lines of data that it touches, both in user space.

    count.py locked SUITE PEER [FUNCTIONS]   the locked instructions of a message, each with its function
    count.py lines SUITE PEER                the cache lines of data for one message

SUITE is the benchmark's program, target/release/sockman-benches, and PEER one of its servers. The program
needs valgrind and objdump. The counts do not depend on the speed of the machine.

Locked instructions are those with the prefix "lock", and exchanges with memory, which lock without it. The
program counts them in two runs of different length and prints the difference for one message, with 64
connections. A cache line has 64 bytes and counts once, from one rest of the server to the next one. "One
message alone" wakes the server, whose pass touches lines for the loop and for the message. With a message on
each of 16 connections at once, the lines of the loop count once, and the others are the message's own. The
stack and the library's callers are included, the kernel is not.
"""

import collections
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

SIZE = 64
LINE = 64
AT_ONCE = 16
# A server under valgrind has surely handled a message, and everything that follows from it, by then. A
# shorter time would count too few lines, and print a figure that differs from run to run.
RESTS = 0.5


class Server:
    """A server of the suite under a tool of valgrind, which writes to `out`."""

    def __init__(self, suite, peer, tool, out):
        command = ["valgrind", *tool, "--quiet", suite, "serve", peer, "echo"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.out = out
        for line in self.process.stdout:
            found = re.search(r"([\d.]+):(\d+)", line)
            if found:
                self.address = (found[1].replace("0.0.0.0", "127.0.0.1"), int(found[2]))
                return
        raise SystemExit(f"the server {peer} did not start")

    def connect(self, count):
        return [socket.create_connection(self.address) for _ in range(count)]

    def end(self):
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.wait()


def echo(connections):
    """Sends one message on each connection, and then receives the echoes."""
    for connection in connections:
        connection.sendall(b"x" * SIZE)
    for connection in connections:
        missing = SIZE
        while missing:
            missing -= len(connection.recv(missing))


def locked_addresses(suite):
    """Returns the function and the text of each locked instruction of the program, by address."""
    listing = subprocess.run(
        ["objdump", "-d", "--demangle=rust", "--no-show-raw-insn", suite], capture_output=True, text=True, check=True
    )
    found, function = {}, ""
    for line in listing.stdout.splitlines():
        if line.endswith(">:"):
            function = line.split("<", 1)[1][:-2]
            continue
        code = re.match(r"\s*([0-9a-f]+):\s+(.*)", line)
        if code and (code[2].startswith("lock ") or re.match(r"xchg\s.*\(", code[2])):
            found[int(code[1], 16)] = (function, code[2].split("#")[0].strip())
    return found


def executed(suite, peer, exchanges):
    """Returns how often each instruction of the program ran, by address."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        tool = ["--tool=callgrind", "--dump-instr=yes", "--compress-pos=no", "--compress-strings=no"]
        server = Server(suite, peer, [*tool, f"--callgrind-out-file={out}"], out)
        connections = server.connect(64)
        for _ in range(exchanges):
            echo(connections)
        server.end()
        counts, of_suite, is_call = collections.Counter(), False, False
        name = os.path.basename(suite)
        with open(out) as lines:
            for line in lines:
                if line.startswith("ob="):
                    of_suite = line.strip().endswith(name)
                elif line.startswith("calls="):
                    is_call = True
                elif line.startswith("0x"):
                    fields = line.split()
                    if of_suite and not is_call:
                        counts[int(fields[0], 16)] += int(fields[-1])
                    is_call = False
        return counts


def locked(suite, peer, functions):
    known = locked_addresses(suite)
    short, long = executed(suite, peer, 20), executed(suite, peer, 120)
    messages = 64 * 100
    base = max(BASES, key=lambda base: sum(address - base in known for address in long))
    costs = {
        address - base: (count - short[address]) / messages
        for address, count in long.items()
        if address - base in known
    }
    costs = {address: cost for address, cost in costs.items() if cost >= 0.01}
    print(f"{peer}: {sum(costs.values()):.2f} locked instructions for a message")
    if functions:
        for address, cost in sorted(costs.items(), key=lambda item: -item[1]):
            function, text = known[address]
            print(f"  {cost:5.2f}  {text:45} {function}")


# Where valgrind loads a program that may lie anywhere, the same place in each run. The addresses of the
# program's own file are relative to it.
BASES = (0x400000, 0x108000, 0)


def lines(suite, peer):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        tool = ["--tool=lackey", "--trace-mem=yes", f"--log-file={out}"]
        server = Server(suite, peer, tool, out)
        connections = server.connect(AT_ONCE)
        for _ in range(4):
            echo(connections)
        one = median(touched(out, [connection]) for connection in connections[:5])
        all_at_once = median(touched(out, connections) for _ in range(5))
        server.end()
    each = (all_at_once - one) / (AT_ONCE - 1)
    print(f"{peer}: {one} cache lines of data for one message alone, {each:.1f} for each one beside others")


def median(counts):
    counts = sorted(counts)
    return counts[len(counts) // 2]


def touched(out, connections):
    """Returns how many cache lines of data the server touches when a message comes on each connection."""
    time.sleep(RESTS)
    begin = os.path.getsize(out)
    echo(connections)
    time.sleep(RESTS)
    found = set()
    with open(out, "rb") as trace:
        trace.seek(begin)
        for line in trace.read().decode(errors="replace").splitlines():
            access = re.match(r" [LSM] ([0-9a-fA-F]+),(\d+)$", line)
            if access:
                first, size = int(access[1], 16), int(access[2])
                found.update(range(first // LINE, (first + size - 1) // LINE + 1))
    return len(found)


def main():
    mode, suite, peer, *more = sys.argv[1:]
    if mode == "locked":
        locked(suite, peer, bool(more))
    elif mode == "lines":
        lines(suite, peer)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
