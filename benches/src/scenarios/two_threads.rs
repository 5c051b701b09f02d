//! `two threads/64 × 64 B`: two `SockMan`s of one process, on two cores, that listen on one port,
//! against one. It waits for `Options::reuse_port`.
use crate::report::Report;

const NAME: &str = "two threads/64 × 64 B";

pub(super) fn run(only: &dyn Fn(&str) -> bool, report: &mut Report) {
    if only(NAME) {
        let why = "this version of sockman cannot share a port between two of its managers";
        report.not_measured.push(format!("{NAME}: {why}."));
    }
}
