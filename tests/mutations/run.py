#!/usr/bin/env python3
"""Removes or changes, one by one, the lines that keep the guarantees, and runs the test that must fail for each.

The mutations are listed in mutations.py. The program makes them in copies of the project under
target/mutations, several at a time. It prints a line for each mutation, and at the end the counts and the
time:

    killed    a test fails, or hangs
    SURVIVED  no test notices the change
    STALE     the text is gone from the source, the test is gone, or the change does not compile

The exit code is 1 if any mutation is SURVIVED or STALE, or if none was selected.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, Queue

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
from mutations import MUTATIONS

PROJECT = Path(__file__).resolve().parent.parent.parent
COPIES = PROJECT / "target" / "mutations"
# A test that takes longer counts as failed, because it hangs. No test takes this long without a mutation.
SECONDS = 150
# The number of seeds within which the simulator finds each of its mutations.
SEEDS = 10_000
# The kernel on which the simulator runs for each of these targets.
KERNELS = {
    "simulator:seeds": "linux",
    "simulator:bsd": "bsd",
    "simulator:macos": "macos",
    "simulator:windows": "windows",
}
# The files with the deadline of the tests' waits. It is shortened, because half of the mutations make a test
# wait until its deadline.
PATIENCE = [
    "tests/support/src/lib.rs",
    "examples/http_rpc/tests/support/mod.rs",
    "examples/node/src/testing.rs",
    "crates/lightning-net-sockman/src/tests.rs",
]
LONG, SHORT = "DEADLINE: Duration = Duration::from_secs(60)", "DEADLINE: Duration = Duration::from_secs(8)"
NOT_COPIED = {"target", ".git", "node_modules", "corpus", "fuzz", "benches"}


class Copy:
    """A copy of the project, with one mutation at a time."""

    def __init__(self, number):
        self.root = COPIES / f"copy-{number}"
        self.target = COPIES / f"target-{number}"
        self.names = {}
        shutil.rmtree(self.root, ignore_errors=True)
        ignore = lambda _, names: [name for name in names if name in NOT_COPIED]
        shutil.copytree(PROJECT, self.root, ignore=ignore)
        for name in PATIENCE:
            path = self.root / name
            patient = path.read_text()
            hasty = patient.replace(LONG, SHORT)
            assert hasty != patient, f"{name} does not contain {LONG!r}: change LONG in run.py"
            path.write_text(hasty)

    def cargo(self, *arguments, command="test", seconds=None):
        environment = dict(
            os.environ,
            CARGO_TARGET_DIR=str(self.target),
            CARGO_PROFILE_DEV_DEBUG="0",
            CARGO_BUILD_JOBS="1",
            RUST_BACKTRACE="0",
        )
        # `timeout` ends the children of the tests, too.
        limit = ["timeout", "-k", "5", str(seconds)] if seconds else []
        command = [*limit, "cargo", command, "--quiet", *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)

    def tests_of(self, mutation):
        """Returns the names of the tests that must notice the mutation, or None for all tests."""
        module, part = mutation["tests"]
        if not module and not part:
            return None
        target = mutation["test"]
        if target == "miri:weak_memory":
            return [part]
        if target not in self.names:
            listed = self.cargo(*selection(target), "--", "--list", "--format", "terse").stdout
            self.names[target] = re.findall(r"^(\S+): test$", listed, re.MULTILINE)
        prefix = f"{module}::" if module else ""
        return [name for name in self.names[target] if name.startswith(prefix) and part in name]

    def run(self, mutation):
        tests = self.tests_of(mutation)
        if tests == []:
            return "STALE: no test has this name"
        path = self.root / mutation["file"]
        before = path.read_text()
        old, new = mutation["old"], mutation["new"]
        if old not in before:
            return "STALE: the file does not contain the text"
        path.write_text(before.replace(old, new) if mutation.get("every") else before.replace(old, new, 1))
        try:
            if path.parent.name == "examples":
                # The tests run the program. Cargo does not build it for a single test program.
                self.cargo("-p", "sockman", "--example", path.stem, command="build")
            return self.outcome(mutation["test"], tests)
        finally:
            path.write_text(before)

    def outcome(self, target, tests):
        if target in KERNELS:
            return self.seeds(KERNELS[target])
        if target == "simulator:models":
            return self.models()
        if target == "miri:weak_memory":
            return self.miri(tests)
        built = self.cargo(*selection(target), "--no-run")
        if built.returncode != 0:
            errors = [line for line in built.stderr.splitlines() if line.startswith("error")]
            return "STALE: it does not compile: " + (errors or ["?"])[0]
        names = [] if tests is None else ["--exact", *tests]
        tested = self.cargo(*selection(target), "--", *names, seconds=SECONDS)
        if tested.returncode == 0:
            return "SURVIVED"
        if tested.returncode in (124, 137):
            return f"killed: {target} hangs"
        failed = sorted(set(re.findall(r"^    ([\w:]+)$", tested.stdout, re.MULTILINE)))
        return "killed: " + ", ".join(failed[:3] or [f"{target} fails"]) + (" …" if len(failed) > 3 else "")

    def seeds(self, kernel):
        environment = dict(os.environ, CARGO_TARGET_DIR=str(self.target), CARGO_BUILD_JOBS="1", RUST_BACKTRACE="0")
        build = ["cargo", "build", "--quiet", "--release", "-p", "simulator", "--bin", "simulator"]
        built = subprocess.run(build, cwd=self.root, env=environment, capture_output=True, text=True)
        if built.returncode != 0:
            return "STALE: it does not compile: " + built.stderr.strip().splitlines()[0]
        program = str(self.target / "release" / "simulator")
        command = ["timeout", "-k", "5", str(SECONDS), program, "--kernel", kernel, "--seeds", str(SEEDS), "--threads", "1"]
        ran = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        if ran.returncode == 0:
            return "SURVIVED"
        if ran.returncode in (124, 137):
            return "killed: the simulator hangs"
        # On the other kernels, 10,000 seeds do not reach every kind of event.
        if kernel != "linux" and "never happened" in ran.stdout:
            return "SURVIVED"
        failed = re.search(r"^seed (\d+) fails after \d+ seeds: (.*)$", ran.stdout, re.MULTILINE)
        if failed:
            return f"killed: seed {failed[1]}: {failed[2]}"
        return f"killed: a crash: {(ran.stderr.strip().splitlines() or [ran.returncode])[0]}"

    def miri(self, tests):
        environment = dict(
            os.environ,
            CARGO_TARGET_DIR=str(self.target) + "-miri",
            MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-many-seeds=0..40",
            RUST_BACKTRACE="0",
        )
        test = ["cargo", "+nightly", "miri", "test", "--quiet", "-p", "sockman", "--test", "weak_memory", "--", *tests]
        command = ["timeout", "-k", "5", str(4 * SECONDS), *test]
        ran = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        if ran.returncode == 0:
            return "SURVIVED"
        found = re.search(r"error: (the evaluated program deadlocked|Undefined Behavior.*|could not compile.*)", ran.stderr)
        found = found[1] if found else "a test fails"
        return f"STALE: {found}" if found.startswith("could not") else f"killed: Miri: {found}"

    def models(self):
        target = str(self.target) + "-models"
        environment = dict(
            os.environ, CARGO_TARGET_DIR=target, CARGO_BUILD_JOBS="1", RUSTFLAGS="--cfg shuttle", RUST_BACKTRACE="0"
        )
        build = ["cargo", "test", "--quiet", "--release", "-p", "simulator", "--test", "models"]
        built = subprocess.run([*build, "--no-run"], cwd=self.root, env=environment, capture_output=True, text=True)
        if built.returncode != 0:
            return "STALE: it does not compile: " + built.stderr.strip().splitlines()[0]
        limit = ["timeout", "-k", "5", str(SECONDS)]
        ran = subprocess.run([*limit, *build], cwd=self.root, env=environment, capture_output=True, text=True)
        if ran.returncode == 0:
            return "SURVIVED"
        failed = sorted(set(re.findall(r"^    (\w+)$", ran.stdout, re.MULTILINE)))
        return "killed: model " + ", ".join(failed[:2]) if failed else "killed: the models hang"


def selection(target):
    package, program = target.split(":")
    return ["-p", package, *(["--lib"] if program == "lib" else ["--test", program])]


def document(outcomes, summary):
    """Returns the outcomes as a Markdown table, in the order of the list. `outcomes` maps indices to outcomes."""
    lines = [
        "# The mutations, and what notices each",
        "",
        "Written by `tests/mutations/run.py --document tests/mutations/README.md`.",
        "[testing.md](../../docs/testing.md#mutations) explains the mutations. " + summary,
        "",
        "| | Change | File | Noticed by |",
        "|---|---|---|---|",
    ]
    for index in sorted(outcomes):
        mutation, outcome = MUTATIONS[index], outcomes[index].removeprefix("killed: ").replace("|", "\\|")
        outcome = re.sub(r"\b\w+(::\w+)+", lambda name: f"`{name[0]}`", outcome)
        lines.append(f"| {mutation['guarantee']} | {mutation['what']} | `{mutation['file']}` | {outcome} |")
    return "\n".join(lines) + "\n"


def check():
    """Prints the entries that do not fit the source, and returns the exit code."""
    found = []
    for entry in ast.walk(ast.parse(Path(__file__).with_name("mutations.py").read_text())):
        if isinstance(entry, ast.Dict):
            keys = [key.value for key in entry.keys if isinstance(key, ast.Constant)]
            if len(keys) != len(set(keys)):
                found.append(f"line {entry.lineno}: two entries have run together")
    for mutation in MUTATIONS:
        if mutation["old"] not in (PROJECT / mutation["file"]).read_text():
            found.append(f"{mutation['what']} ({mutation['file']}): the file does not contain the text")
    print("\n".join(found + [f"{len(found)} of {len(MUTATIONS)} mutations do not fit the source"]))
    return int(bool(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
        help="run N copies at a time (default: the number of processors)",
    )
    parser.add_argument(
        "--document", type=Path, metavar="FILE",
        help="write a table of all outcomes to FILE (README.md here has that of a whole run)",
    )
    parser.add_argument(
        "--check", action="store_true",
        help="run nothing; show that the list fits the source and that no two entries have run together",
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORD",
        help="run only the mutations whose guarantee, sentence or file contains a WORD",
    )
    arguments = parser.parse_args()
    if arguments.check:
        return check()

    began = time.monotonic()
    waiting, printing, outcomes = Queue(), threading.Lock(), {}
    for index, mutation in enumerate(MUTATIONS):
        text = " ".join([mutation["guarantee"], mutation["what"], mutation["file"]])
        if not arguments.words or any(word in text for word in arguments.words):
            waiting.put((index, mutation))

    def work(number):
        copy = Copy(number)
        while True:
            try:
                index, mutation = waiting.get_nowait()
            except Empty:
                return
            outcome = copy.run(mutation)
            with printing:
                outcomes[index] = outcome
                print(f"{mutation['guarantee']:9} {mutation['what']} ({mutation['file']}): {outcome}", flush=True)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(arguments.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    killed = sum(outcome.startswith("killed") for outcome in outcomes.values())
    minutes = (time.monotonic() - began) / 60
    summary = (
        f"{len(outcomes)} mutations, {killed} noticed, {len(outcomes) - killed} not, in {minutes:.0f} minutes "
        f"with {arguments.jobs} at a time"
    )
    print(summary)
    if arguments.document:
        arguments.document.write_text(document(outcomes, f"The run: {summary}."))
    return 0 if outcomes and killed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
