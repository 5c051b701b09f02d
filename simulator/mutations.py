#!/usr/bin/env python3
"""Takes out lines that keep the guarantees, one by one, and has the simulator, or a model, find each.

    python3 simulator/mutations.py [WORD ...]     # those whose name or file contains a word

Prints the table of docs/testing.md. One that is not found within ten thousand seeds makes the exit
code 1. Works on a copy of the project under target/, as tests/mutations.py does.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
COPY = PROJECT / "target" / "mutations" / "simulated"
SEEDS = 10_000
# A run that hangs without the line is a run that fails; none takes this long with it.
SECONDS = 120

SIMULATOR, MODELS = "simulator", "models"

# The guarantee, what is changed, the file, the old text, the new text, who finds it.
MUTATIONS = [
    ("G2", "a refused connection is kept", "src/accept.rs",
     "        Ok(false) => {\n            shared.close(id);\n            None\n        }",
     "        Ok(false) => Some(connection),", SIMULATOR),
    ("G2", "a new connection is not listed", "src/poll_set.rs",
     "            self.failed.push((key, error));\n        }\n        slot.list(key, &mut self.due);",
     "            self.failed.push((key, error));\n        }", SIMULATOR),
    ("G4", "closed is not looked at before a callback", "src/turn.rs",
     "if is_closed { Err(Closed) } else { Ok(()) }", "let _ = is_closed;\n        Ok(())", SIMULATOR),
    ("G4", "closed is not looked at before data", "src/turn.rs",
     "        self.check_open()?;\n        self.slot.send.work = true;\n        let data",
     "        self.slot.send.work = true;\n        let data", SIMULATOR),
    ("G4", "a close does not shut down", "src/connection.rs",
     "        connection.shutdown();\n        self.count", "        self.count", SIMULATOR),
    ("G5", "the end is not latched", "src/turn.rs", "        self.slot.end = End::EofTold;\n", "", SIMULATOR),
    ("G5", "the error is not latched", "src/turn.rs",
     "        self.slot.end = End::ErrorTold;\n        self.check_open()", "        self.check_open()", SIMULATOR),
    ("G5", "a short read with the end in sight counts as the last", "src/turn.rs",
     "if event.broken || event.read_closed || event.priority {", "if event.priority {", SIMULATOR),
    ("G5", "a short read before urgent data counts as the last", "src/turn.rs",
     "if event.broken || event.read_closed || event.priority {",
     "if event.broken || event.read_closed {", SIMULATOR),
    ("G5", "a short read on a unix-domain socket counts as the last", "src/turn.rs",
     "let short_read_means_empty = connection.sock().short_read_means_empty();",
     "let short_read_means_empty = true;", SIMULATOR),
    ("G6", "the receive hook is not asked", "src/turn.rs",
     "if !self.context.handler().should_try_to_recv(self.slot.id) {", "if false {", SIMULATOR),
    ("G6", "the send hook is not asked", "src/turn.rs",
     "            if !handler.should_try_to_send(id) {\n                self.slot.send.work = false;\n                return",
     "            if false {\n                self.slot.send.work = false;\n                return", SIMULATOR),
    ("G6", "after data nothing is asked about sending", "src/turn.rs",
     "        self.slot.send.work = true;\n        let data", "        let data", SIMULATOR),
    ("G6", "room to send is latched, and nothing asked", "src/turn.rs",
     "            self.send.ready = true;\n            self.send.work = true;",
     "            self.send.ready = true;", SIMULATOR),
    ("G6", "a wake asks nothing about sending", "src/turn.rs",
     "        self.send.work = true;\n        self.send_first = true;", "        self.send_first = true;", SIMULATOR),
    ("G6", "a wake asks nothing about receiving", "src/turn.rs",
     "        self.send_first = true;\n        self.recv.work = true;\n    }",
     "        self.send_first = true;\n    }", SIMULATOR),
    ("G6", "a woken connection is not listed", "src/poll_set.rs",
     "            slot.want_turn();\n            slot.list(key, &mut self.due);",
     "            slot.want_turn();", SIMULATOR),
    ("G6", "a mark of a wake is not cleared", "src/poll_set.rs",
     "        connection.clear_woken();\n        if let Some(slot)", "        if let Some(slot)", SIMULATOR),
    ("G6", "data that is left waits for an event", "src/turn.rs",
     "if self.slot.send_first || self.slot.recv.is_due() {", "if self.slot.send_first {", SIMULATOR),
    ("G7", "who sent nothing is asked at once again", "src/turn.rs",
     "self.slot.send.work = sent;", "self.slot.send.work = true;", SIMULATOR),
    ("G7", "would-block leaves the latch up", "src/turn.rs",
     "                self.slot.recv.clear();\n                Ok(())", "                Ok(())", SIMULATOR),
    ("G7", "a deadline in the past counts in each pass", "src/socket_thread.rs",
     "if self.served_deadline.is_none_or(|served| at > served.deadline) =>", "=>", SIMULATOR),
    ("G8", "a second receive in a turn", "src/turn.rs",
     "        if next_recv == NextRecv::Proceed {\n            self.try_to_recv()?;",
     "        if next_recv == NextRecv::Proceed {\n            self.try_to_recv()?;\n            self.try_to_recv()?;", SIMULATOR),
    ("G9", "the poller does not wait for the timers of connects", "src/socket_thread.rs",
     "        if let Some(at) = self.connecting.next_timer() {\n            earlier(at);\n        }\n", "", SIMULATOR),
    ("G9", "timers that ran out are not looked at", "src/socket_thread.rs",
     "        self.connecting.list_expired(self.now);\n", "", SIMULATOR),
    ("G9", "what callbacks ask for does not keep it from sleeping", "src/inbox.rs",
     "        if self.pending.load(Ordering::SeqCst) {\n            self.sleeping",
     "        if false {\n            self.sleeping", SIMULATOR),
    ("G11", "no pause when descriptors run out", "src/accept.rs",
     "        self.pause = Some((length, now + length));\n", "        let _ = (length, now);\n", SIMULATOR),
    ("G11", "exhaustion clears the listener's latch", "src/accept.rs",
     "                counters.accept_pauses.add_owned(1);\n",
     "                counters.accept_pauses.add_owned(1);\n                self.ready = false;\n", SIMULATOR),
    ("G11", "a pause is not in the time-out", "src/socket_thread.rs",
     "            earlier(accepting.paused_until(self.now).unwrap_or(self.now));",
     "            if accepting.paused_until(self.now).is_none() {\n                earlier(self.now);\n            }", SIMULATOR),
    ("G11", "a listener that could not be registered is not tried again", "src/accept.rs",
     "(self.ready || !self.is_registered)", "self.ready", SIMULATOR),
    ("G12", "a panic leaves the connection open", "src/socket_thread.rs",
     "        if self.shared().close(id) {\n", "        if false {\n", SIMULATOR),
    ("G12", "turns that a panic cut short are lost", "src/socket_thread.rs",
     "self.connected.due.extend(self.turns.drain(..).skip(over));",
     "self.turns.clear();\n        let _ = over;", SIMULATOR),
    ("G14", "what is activated with no thread running is dropped", "src/inbox.rs",
     "Mark::Activated(connection) | Mark::Woken(connection) => !connection.is_closed(),",
     "Mark::Activated(_) | Mark::Woken(_) => false,", SIMULATOR),
    ("G14", "a close with no thread running lets go of nothing", "src/sockman.rs",
     "Run::Stopped(socket_thread) => socket_thread.forget(&self.inbox, &connection),",
     "Run::Stopped(_) => {}", SIMULATOR),
    ("queue", "a push does not wake", "src/send_queue.rs",
     "        if must_wake {\n            sockman.wake(self.id);\n        }\n        Ok(())",
     "        let _ = must_wake;\n        Ok(())", MODELS),
    ("queue", "a push sends past the queue", "src/send_queue.rs",
     "let sent = if was_empty {", "let sent = if true {", SIMULATOR),
    ("G9", "about to sleep, it does not look for marks", "src/inbox.rs",
     "        if self.pending.load(Ordering::SeqCst) {\n            self.sleeping",
     "        if false {\n            self.sleeping", MODELS),
    ("G9", "whether it sleeps is looked at before the mark is announced", "src/inbox.rs",
     "        self.pending.store(true, Ordering::SeqCst);\n        if self.sleeping.load(Ordering::SeqCst) &&",
     "        let sleeps = self.sleeping.load(Ordering::SeqCst);\n        self.pending.store(true, Ordering::SeqCst);\n        if sleeps &&", MODELS),
    ("G9", "a mark is announced before it is there", "src/inbox.rs",
     "        self.marks.lock().push(mark);\n        self.notify();",
     "        self.notify();\n        self.marks.lock().push(mark);", MODELS),
    ("G9", "marks are looked for before it is said to sleep", "src/inbox.rs",
     "        self.sleeping.store(true, Ordering::SeqCst);\n        if self.pending.load(Ordering::SeqCst) {",
     "        let pending = self.pending.load(Ordering::SeqCst);\n        self.sleeping.store(true, Ordering::SeqCst);\n        if pending {", MODELS),
    ("G9", "a mark of a wake is not cleared", "src/poll_set.rs",
     "        connection.clear_woken();\n        if let Some(slot)", "        if let Some(slot)", MODELS),
    ("queue", "the length is told before the bytes are queued", "src/send_queue.rs",
     "            queue.extend(data.get(sent..).unwrap_or_default());\n            self.publish(queue.len());",
     "            self.publish(queue.len());\n            queue.extend(data.get(sent..).unwrap_or_default());", MODELS),
    ("queue", "an embedder wakes before it queues", "simulator/tests/models.rs",
     "                handler.own_queue.lock().unwrap().extend(&data[sent..]);\n                sockman.wake(id);",
     "                sockman.wake(id);\n                handler.own_queue.lock().unwrap().extend(&data[sent..]);", MODELS),
    ("G4", "closed is not looked at before a callback", "src/turn.rs",
     "if is_closed { Err(Closed) } else { Ok(()) }", "let _ = is_closed;\n        Ok(())", MODELS),
    ("G4", "two closers both succeed", "src/connection.rs",
     "            let ById(connection) = open.or_else(|| maps.connecting.take(&id))?;",
     "            let ById(connection) = open.or_else(|| maps.connecting.take(&id))?;\n            maps.open.insert(ById(Arc::clone(&connection)));", MODELS),
    ("G14", "the end of the thread forgets what was closed", "src/threads.rs",
     "    socket_thread.remove_closed(&shared.inbox);\n    *run", "    *run", MODELS),
    ("G9", "the poller is not among the interrupt's wakers", "src/threads.rs",
     "    let wakers = watches.add_waker(&socket_thread.waker());\n    let accepting",
     "    let wakers = Vec::<crate::interrupt::WakerGuard>::new();\n    let accepting", MODELS),
    ("G9", "an interrupt does not wake sleepers", "src/interrupt.rs",
     "        self.inner.changed.notify_all();\n", "", MODELS),
    ("G14", "the interrupt is set after the wakers were looked at", "src/interrupt.rs",
     "            self.inner.epoch.store(epoch + 1, Ordering::SeqCst);\n            waiters.wakers.values().map(Arc::clone).collect()\n        };",
     "            let wakers = waiters.wakers.values().map(Arc::clone).collect();\n            drop(waiters);\n            self.inner.epoch.store(epoch + 1, Ordering::SeqCst);\n            wakers\n        };", MODELS),
    ("G14", "stopped listeners are told to nobody", "src/sockman.rs",
     "            Run::Running => self.shared.inbox.push(Mark::ListenersStopped),",
     "            Run::Running => {}", MODELS),
    ("G7", "a stopped listener keeps the loop awake", "src/accept.rs",
     "        (self.ready || !self.is_registered) && !self.listener.is_stopped()",
     "        self.ready || !self.is_registered", MODELS),
    ("G5", "a proxy's answer is read too far", "src/connect/dial.rs",
     "sock.recv(&mut buffer[..length])", "sock.recv(&mut buffer)", SIMULATOR),
    ("G9", "a proxy's answer is left when it came in pieces", "src/connect/dial.rs",
     "                            self.socks5.received(&buffer[..received])?;\n                            Ok(true)",
     "                            self.socks5.received(&buffer[..received])?;\n                            Ok(false)",
     SIMULATOR),
    ("G9", "a proxy is waited for without a deadline", "src/connect/dial.rs",
     "if is_late && !matches!(step, Step::Connected) {",
     "if is_late && !matches!(self.way, Way::Proxy(..)) && !matches!(step, Step::Connected) {", SIMULATOR),
    ("G2", "a refusal of a proxy is taken for its word", "src/connect/socks5.rs",
     "return Err(Failure::Destination(reply));", "let _ = reply;", SIMULATOR),
]


def main():
    words = sys.argv[1:]
    missed = 0
    print("| | Taken out or changed | File | Found by |\n|---|---|---|---|")
    for mutation in MUTATIONS:
        if words and not any(word in " ".join(mutation[:3]) for word in words):
            continue
        found = run(mutation)
        missed += found is None
        where = mutation[2].removeprefix("src/")
        print(f"| {mutation[0]} | {mutation[1]} | `{where}` | {found or '**nobody**'} |", flush=True)
    return 1 if missed else 0


def run(mutation):
    _, _, file, old, new, finder = mutation
    copy_project()
    path = COPY / file
    text = path.read_text()
    if text.count(old) == 0:
        sys.exit(f"STALE: {mutation[1]}: the text is gone from {file}")
    path.write_text(text.replace(old, new, 1))
    os.utime(path)
    return simulate() if finder == SIMULATOR else check_models()


def simulate():
    environment = dict(os.environ, CARGO_TARGET_DIR=str(COPY.parent / "target"), RUST_BACKTRACE="0")
    build = ["cargo", "build", "--quiet", "--release", "-p", "simulator", "--bin", "simulator"]
    must(subprocess.run(build, cwd=COPY, env=environment, capture_output=True, text=True))
    program = COPY.parent / "target" / "release" / "simulator"
    command = ["timeout", str(SECONDS), str(program), "--seeds", str(SEEDS), "--threads", "1"]
    ran = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True)
    if ran.returncode == 0:
        return None
    if ran.returncode == 124:
        return "it hangs"
    failed = re.search(r"^seed (\d+) fails after \d+ seeds: (.*)$", ran.stdout, re.MULTILINE)
    if failed is None:
        last = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[0]
        return f"a crash: {last}"
    return f"seed {failed[1]}: {failed[2]}"


def check_models():
    target = str(COPY.parent / "target-models")
    flags = "--cfg shuttle"
    environment = dict(os.environ, CARGO_TARGET_DIR=target, RUSTFLAGS=flags, RUST_BACKTRACE="0")
    build = ["cargo", "test", "--quiet", "--release", "-p", "simulator", "--test", "models"]
    must(subprocess.run([*build, "--no-run"], cwd=COPY, env=environment, capture_output=True, text=True))
    ran = subprocess.run(["timeout", str(SECONDS), *build], cwd=COPY, env=environment, capture_output=True, text=True)
    if ran.returncode == 0:
        return None
    failed = sorted(set(re.findall(r"^    (\w+)$", ran.stdout, re.MULTILINE)))
    return "model " + ", ".join(f"`{name}`" for name in failed[:2]) if failed else "the models hang"


def must(built):
    if built.returncode != 0:
        sys.exit("it does not compile: " + built.stderr)


def copy_project():
    # All of the workspace: cargo wants the manifest of each member.
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(PROJECT, COPY, ignore=shutil.ignore_patterns(".*", "target", "fuzz", "benches", "node_modules"))
    # The mutated file of the last time has come back with its old time.
    for path in [*(COPY / "src").rglob("*.rs"), *(COPY / "simulator").rglob("*.rs")]:
        path.touch()


if __name__ == "__main__":
    sys.exit(main())
