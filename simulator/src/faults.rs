//! The failures of the program's system calls: each errno of the manual pages, once, several times
//! in a row, or at every call until the fault is healed.
//!
//! Runs on the test's thread. The model's mutex is held during calls to the doubles, which call no
//! code of the simulator.

use sockman::sys::errors;
use sockman::testing::Call;

use crate::{
    model::{Model, Player},
    world::World,
};

/// The errors of a lack of memory or buffers.
const LACKS: &[i32] = &[errors::ENOBUFS, errors::ENOMEM];

/// The calls that can be made to fail. Receives and sends are listed twice, so that they fail more
/// often.
const FAILING: &[Call] = &[
    Call::Recv,
    Call::Send,
    Call::Recv,
    Call::Send,
    Call::Accept,
    Call::Connect,
    Call::Socket,
    Call::Shutdown,
    Call::LocalAddress,
    Call::PeerAddress,
    Call::TakeError,
    Call::Register,
    Call::Deregister,
    Call::Poll,
    Call::CreatePoller,
    Call::Bind,
    Call::Listen,
    Call::SetReusePort,
];

/// The calls that the library repeats after a lack of memory or buffers.
const REPEATED: &[Call] = &[Call::Recv, Call::Send, Call::Connect, Call::Accept];

/// The errors of accept(2) that stand for one client that is gone. The next accept may succeed.
const LOST_CLIENT: &[i32] = &[
    errors::ECONNABORTED,
    errors::EINTR,
    errors::EPROTO,
    errors::ENETDOWN,
    errors::ENOPROTOOPT,
    errors::EHOSTDOWN,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    errors::ENONET,
    errors::EHOSTUNREACH,
    errors::EOPNOTSUPP,
    errors::ENETUNREACH,
    errors::ETIMEDOUT,
];

/// Returns whether every call can fail with this errno. A poll that a signal ends takes no time on
/// the clock of the network, so the clock would stand still.
fn can_last(call: Call, errno: i32) -> bool {
    call != Call::Poll || errno != errors::EINTR
}

/// A failure of a system call: the call, the errno, and whether every call of the kind failed.
pub type Failed = (Call, i32, bool);

/// Returns the failures that can happen in a run: each errno of each call's manual page, and the
/// errors that pass, once and at every call. A long run must reach each failure.
#[must_use]
pub fn all_failures() -> Vec<Failed> {
    let mut all = Vec::new();
    for call in Call::ALL.iter().copied().filter(|call| FAILING.contains(call)) {
        let lacks = if REPEATED.contains(&call) { LACKS } else { &[] };
        for &errno in call.errors().iter().chain(lacks) {
            for lasts in [false, true] {
                let failed = (call, errno, lasts);
                if (can_last(call, errno) || !lasts) && !all.contains(&failed) {
                    all.push(failed);
                }
            }
        }
    }
    all
}

/// Returns whether an errno passes by itself, so that the embedder never hears of it.
pub(crate) fn passes(errno: Option<i32>) -> bool {
    errno.is_some_and(|errno| LACKS.contains(&errno) || errno == errors::EINTR)
}

/// A failure of every call of a kind, until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lasting {
    call: Call,
    errno: i32,
    /// How many lasting failures came before.
    number: u64,
}

impl Lasting {
    pub(crate) fn would_block(self) -> bool {
        self.errno == errors::EAGAIN
    }

    /// Returns whether every accept fails in a way that has nothing to do with a client, so that a
    /// second accept in the same pass is wasted.
    pub(crate) fn forbids_accepts(self) -> bool {
        self.fails_accepts() && !LOST_CLIENT.contains(&self.errno)
    }

    /// Returns whether every accept fails, although a client may wait.
    pub(crate) fn fails_accepts(self) -> bool {
        self.call == Call::Accept && !self.would_block()
    }
}

impl World {
    /// Makes one call fail, mostly in a way that passes.
    pub(crate) fn fail_a_call(&self) {
        let Some(at) = self.any_peer() else { return };
        let mut model = self.model.lock();
        let call = model.choices.pick(FAILING).unwrap_or(Call::Recv);
        let errors = call.errors();
        let mut transient = vec![errors::EINTR, errors::EAGAIN];
        if matches!(call, Call::Recv | Call::Send) {
            transient.extend(LACKS);
        }
        let transient: Vec<i32> = transient.into_iter().filter(|e| errors.contains(e)).collect();
        let is_gentle = !transient.is_empty() && !model.choices.once_in(4);
        let from = if is_gentle { &transient } else { errors };
        let Some(errno) = model.choices.pick(from) else { return };
        self.order(&mut model, at, call, errno, 1);
        model.count(match errno {
            errors::ENOBUFS | errors::ENOMEM if REPEATED.contains(&call) => {
                "a call lacked buffers once"
            }
            errors::EINTR => "a call was interrupted",
            errors::EAGAIN => "a call failed with would-block",
            _ => "a call failed",
        });
    }

    /// Makes the next calls lack buffers, several times in a row.
    pub(crate) fn lack_several_times(&self) {
        let Some(at) = self.any_peer() else { return };
        let mut model = self.model.lock();
        let call = model.choices.pick(REPEATED).unwrap_or(Call::Send);
        let errno = model.choices.pick(LACKS).unwrap_or(errors::ENOBUFS);
        let times = 2 + model.choices.below(6) as usize;
        self.order(&mut model, at, call, errno, times);
        model.count("a call lacked buffers several times");
    }

    /// Makes the next calls fail: receives and sends of one peer's connection, other calls of any
    /// socket.
    fn order(&self, model: &mut Model, at: usize, call: Call, errno: i32, times: usize) {
        model.expect_failure(call, errno, Some(at));
        let Some(player) = model.peers.get(at) else { return };
        for _ in 0..times {
            match (call, &player.peer) {
                (Call::Recv | Call::Send, Some(peer)) => peer.fail_next(call, errno),
                _ => self.network.fail_next(call, errno),
            }
        }
        model.say(|| format!("  the next {times} of {call:?} fail with errno {errno}"));
    }

    /// Makes every call of a kind fail with one errno. The next call of this function, or the end
    /// of the run, ends the failure.
    pub(crate) fn fail_for_long(&self) {
        let mut model = self.model.lock();
        if model.lasting.take().is_some() {
            self.network.heal();
            model.count("calls work again");
            return;
        }
        let calls = if model.choices.once_in(3) { FAILING } else { REPEATED };
        let call = model.choices.pick(calls).unwrap_or(Call::Accept);
        let mut errnos = call.errors().to_vec();
        if REPEATED.contains(&call) && call != Call::Accept && !model.choices.once_in(3) {
            errnos = [LACKS, &[errors::EINTR]].concat();
        }
        let errno = model.choices.pick(&errnos).filter(|errno| can_last(call, *errno));
        let Some(errno) = errno else { return };
        model.expect_failure(call, errno, None);
        let number = model.lasting_failures;
        model.lasting_failures += 1;
        model.lasting = Some(Lasting { call, errno, number });
        self.network.fail_always(call, errno);
        model.say(|| format!("  every {call:?} fails with errno {errno}"));
        model.count(match (call, errno) {
            (_, errors::EAGAIN) => "every call of a kind would block",
            (Call::Accept, _) => "every accept failed",
            _ if REPEATED.contains(&call) && passes(Some(errno)) => "every call lacked buffers",
            _ => "every call of a kind failed",
        });
    }
}

impl Model {
    /// Notes what a failure excuses. `at` is the peer whose connection alone is affected, or `None`
    /// for all.
    fn expect_failure(&mut self, call: Call, errno: i32, at: Option<usize>) {
        let has_passed = match call {
            Call::Accept => true,
            _ if LACKS.contains(&errno) => REPEATED.contains(&call),
            _ => errno == errors::EINTR || errno == errors::EAGAIN,
        };
        self.calls_failed |= !has_passed;
        self.receives_lacked |= call == Call::Recv && at.is_none();
        match call {
            Call::Shutdown => self.shutdown_failed = true,
            Call::TakeError => self.errors_are_hidden = true,
            Call::Poll => self.poll_failed |= !has_passed,
            Call::Socket | Call::CreatePoller => self.lacks_may_end_connects = true,
            Call::Recv | Call::Send => {
                let all = 0..self.peers.len();
                let affected = at.map_or(all, |at| at..(at + 1).min(self.peers.len()));
                self.streams_fail |= !has_passed && at.is_none();
                self.streams_seem_ended |=
                    at.is_none() && call == Call::Send && errno == errors::EPIPE;
                for player in self.peers.get_mut(affected).unwrap_or_default() {
                    player.expect_failure(call, errno, has_passed);
                }
            }
            _ => {}
        }
    }
}

impl Player {
    fn expect_failure(&mut self, call: Call, errno: i32, has_passed: bool) {
        self.is_delayed |= call == Call::Recv;
        self.seems_ended |= call == Call::Send && errno == errors::EPIPE;
        self.calls_failed |= !has_passed;
    }
}
