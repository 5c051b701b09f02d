//! Runs a test in a process of its own (for a lowered limit, a working directory, a logger, counts
//! of allocations or descriptors): the test binary runs itself again with one test.

use std::{
    any::type_name,
    env,
    process::{Child, Command, Stdio},
};
#[cfg(target_os = "linux")]
use std::{
    sync::mpsc::{Sender, channel},
    thread,
};

const MARK: &str = "SOCKMAN_TEST_CHILD";

/// Returns whether this process is such a child.
pub fn is_child() -> bool {
    env::var_os(MARK).is_some()
}

/// Returns the name under which the test binary knows the test function `T`: its path without the
/// crate.
fn name_of<T>() -> &'static str {
    type_name::<T>()
        .split_once("::")
        .expect("`test` must be a test function, not a pointer to one")
        .1
}

fn command<T>() -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name_of::<T>(), "--nocapture", "--test-threads=1"]).env(MARK, "1");
    command
}

/// Runs `body` in a child process and prints the child's output. `test` is the calling test; the
/// child runs that test alone.
pub fn in_child<T: Fn()>(_test: T, body: impl FnOnce()) {
    if is_child() {
        // Before the body lowers the limit, as the body's helpers would raise it again.
        crate::limits::make_room_for_all_tests();
        return body();
    }
    let output = command::<T>().output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}\n{err}");
    assert!(output.status.success(), "the child failed:\n{out}\n{err}");
    assert!(out.contains("1 passed"), "the child ran no test named {}:\n{out}", name_of::<T>());
}

/// Runs `body` in a child process that has a network of its own: a loopback interface that is up,
/// and what the shell commands of `setup` change. Needs root, `unshare` and `ip`, and fails without
/// them.
pub fn in_namespace<T: Fn()>(_test: T, setup: &str, body: impl FnOnce()) {
    if is_child() {
        return body();
    }
    let test = command::<T>();
    let script = format!("set -e\nip link set lo up\n{setup}\nexec \"$@\"");
    let mut child = Command::new("unshare");
    child.args(["--net", "sh", "-c", &script, "sh"]).arg(test.get_program()).args(test.get_args());
    let output = child.env(MARK, "1").output().expect("the program `unshare` must be installed");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}\n{err}");
    assert!(output.status.success(), "the child failed (it needs root):\n{out}\n{err}");
    assert!(out.contains("1 passed"), "the child ran no test named {}:\n{out}", name_of::<T>());
}

/// Runs shell commands in the network of the calling thread. Panics if one fails.
pub fn shell(commands: &str) {
    let output = Command::new("sh").args(["-ec", commands]).output().unwrap();
    assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network of its own, for the peers of a test. A thread lives in it. Needs root.
#[cfg(target_os = "linux")]
pub struct OtherNetwork {
    jobs: Sender<Box<dyn FnOnce() + Send>>,
}

#[cfg(target_os = "linux")]
impl OtherNetwork {
    pub fn new() -> OtherNetwork {
        let (jobs, to_do) = channel::<Box<dyn FnOnce() + Send>>();
        thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            to_do.into_iter().for_each(|job| job());
        });
        OtherNetwork { jobs }
    }

    /// Runs `job` in the other network, and returns its result. Sockets that it makes stay there.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (result, done) = channel();
        let job = move || drop(result.send(job()));
        self.jobs.send(Box::new(job)).unwrap();
        done.recv().expect("the job panicked, or the process has no right to make a network")
    }

    /// Runs shell commands in the other network. `$PPID` names this process.
    pub fn shell(&self, commands: &'static str) {
        self.run(move || shell(commands));
    }
}

/// Starts a child that runs `test`, with pipes to its standard input and output.
pub fn start<T: Fn()>(_test: T) -> Child {
    command::<T>().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}
