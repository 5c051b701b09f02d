//! The addresses that the node dials, and the times of the dials. Corresponds to Bitcoin Core's
//! `m_added_node_params` and `ThreadOpenAddedConnections`.
//!
//! The socket thread takes the addresses that are due, and records how connections and attempts
//! ended. Every thread may add or remove an address, and then notifies the socket thread. The one
//! mutex is held briefly.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use sockman::address::Destination;

/// The identifier of a target, which is never reused while the node runs.
pub(crate) type TargetNumber = u64;

#[derive(Debug)]
pub(crate) struct Targets {
    /// The time between the end of a connection or attempt and the next attempt.
    redial: Duration,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    targets: BTreeMap<TargetNumber, Target>,
    next_number: TargetNumber,
    is_closed: bool,
    /// The answer of `first_to_dial`, until the list changes. Each pass of the loop asks for it.
    first: Option<Option<(TargetNumber, Instant)>>,
}

#[derive(Debug)]
struct Target {
    to: Destination,
    /// The target is forgotten after one attempt or connection. Other targets are kept connected.
    is_once: bool,
    /// Version 2 of the transport is tried first.
    with_v2: bool,
    /// The next attempt uses version 1, because the peer did not know version 2 at the last one.
    falls_back: bool,
    /// The target is being dialled or is connected.
    is_open: bool,
    /// The target was removed, and is forgotten as soon as it is no longer open.
    is_removed: bool,
    /// The time to dial the target, unless it is open. `None` if it is not dialled again.
    due: Option<Instant>,
}

/// A target that is being dialled. Its end is reported to [`Targets::ended`].
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) number: TargetNumber,
    pub(crate) to: Destination,
    pub(crate) with_v2: bool,
}

/// How a connection or an attempt ended, which decides about the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The next attempt follows after the redial time.
    ForNow,
    /// This host was at fault, for example because it has no free descriptor. The next attempt
    /// follows after the redial time, also for a target of one attempt.
    ByThisHost,
    /// The address cannot be dialled with the node's options, for example because it needs a proxy.
    /// There is no next attempt.
    ForGood,
    /// The peer does not know version 2 of the transport. The next attempt follows at once and uses
    /// version 1.
    ForVersion1,
}

impl Targets {
    pub(crate) fn new(redial: Duration) -> Targets {
        Targets { redial, list: Mutex::default() }
    }

    /// Locks the list for a change.
    fn change(&self) -> MutexGuard<'_, List> {
        let mut list = self.list.lock();
        list.first = None;
        list
    }

    /// Adds an address to keep connected. Returns `false` if it was added before.
    pub(crate) fn add(&self, to: &Destination, with_v2: bool) -> bool {
        let mut list = self.change();
        if list.targets.values().any(|known| known.is_added(to)) {
            return false;
        }
        list.insert(to, false, with_v2);
        true
    }

    /// Adds an address to dial once, unless it is connected, being dialled, or waiting for its one
    /// attempt.
    pub(crate) fn try_once(&self, to: &Destination, with_v2: bool) {
        let mut list = self.change();
        if !list.targets.values().any(|known| known.to == *to && (known.is_open || known.is_once)) {
            list.insert(to, true, with_v2);
        }
    }

    /// Removes an added address. The node no longer dials it, but keeps an existing connection.
    /// Returns `false` if the address was not added.
    pub(crate) fn remove(&self, to: &Destination) -> bool {
        let mut list = self.change();
        let mut targets = list.targets.iter_mut();
        let Some((&number, target)) = targets.find(|(_, known)| known.is_added(to)) else {
            return false;
        };
        target.is_removed = true;
        if !target.is_open {
            list.targets.remove(&number);
        }
        true
    }

    /// Forgets the addresses that wait for their one attempt.
    pub(crate) fn forget_tries(&self) {
        self.change().targets.retain(|_, target| target.is_open || !target.is_once);
    }

    /// Begins the attempt that is due first. Returns `None` if no attempt is due now.
    pub(crate) fn begin_due(&self) -> Option<Attempt> {
        let mut list = self.list.lock();
        let (number, due) = list.first_to_dial()?;
        let target = list.targets.get_mut(&number).filter(|_| due <= Instant::now())?;
        target.is_open = true;
        let with_v2 = target.with_v2 && !target.falls_back;
        let attempt = Attempt { number, to: target.to.clone(), with_v2 };
        list.first = None;
        Some(attempt)
    }

    /// Returns the time of the next attempt.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.list.lock().first_to_dial().map(|(_, due)| due)
    }

    /// Records the end of a connection or of an attempt.
    pub(crate) fn ended(&self, number: TargetNumber, how: Ended) {
        let mut list = self.change();
        let Some(target) = list.targets.get_mut(&number) else { return };
        target.is_open = false;
        target.falls_back = how == Ended::ForVersion1;
        match how {
            _ if target.is_removed => drop(list.targets.remove(&number)),
            Ended::ForVersion1 => target.due = Some(Instant::now()),
            Ended::ForNow | Ended::ForGood if target.is_once => {
                list.targets.remove(&number);
            }
            Ended::ForNow | Ended::ByThisHost => target.due = Some(Instant::now() + self.redial),
            Ended::ForGood => target.due = None,
        }
    }

    /// Ends the dialling.
    pub(crate) fn close(&self) {
        self.change().is_closed = true;
    }
}

impl Target {
    /// Returns whether this is the target that keeps `to` connected, and was not removed.
    fn is_added(&self, to: &Destination) -> bool {
        !self.is_once && !self.is_removed && self.to == *to
    }
}

impl List {
    fn insert(&mut self, to: &Destination, is_once: bool, with_v2: bool) {
        let target = Target {
            to: to.clone(),
            is_once,
            with_v2,
            falls_back: false,
            is_open: false,
            is_removed: false,
            due: Some(Instant::now()),
        };
        self.targets.insert(self.next_number, target);
        self.next_number += 1;
    }

    /// Returns the target that is due first, and its time. Skips an address that is open in another
    /// target, so that the node never dials an address twice at the same time.
    fn first_to_dial(&mut self) -> Option<(TargetNumber, Instant)> {
        if self.is_closed {
            return None;
        }
        let is_connected =
            |to: &Destination| self.targets.values().any(|other| other.is_open && other.to == *to);
        *self.first.get_or_insert_with(|| {
            self.targets
                .iter()
                .filter(|(_, target)| !target.is_open && !is_connected(&target.to))
                .filter_map(|(number, target)| Some((*number, target.due?)))
                .min_by_key(|(_, due)| *due)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_secs(3600);

    fn to(port: u16) -> Destination {
        std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()
    }

    /// Begins every attempt that is due now, and returns the port and the use of version 2 of each.
    fn due(targets: &Targets) -> Vec<(u16, bool)> {
        std::iter::from_fn(|| targets.begin_due())
            .map(|attempt| (attempt.to.service().unwrap().port(), attempt.with_v2))
            .collect()
    }

    fn end(targets: &Targets, port: u16, how: Ended) {
        let number = {
            let list = targets.list.lock();
            let open = |(number, target): (&TargetNumber, &Target)| {
                (target.is_open && target.to == to(port)).then_some(*number)
            };
            list.targets.iter().find_map(open).unwrap()
        };
        targets.ended(number, how);
    }

    #[test]
    fn an_added_address_is_dialled_again_and_a_single_try_is_forgotten() {
        let targets = Targets::new(Duration::ZERO);
        assert!(targets.add(&to(1), true));
        assert!(!targets.add(&to(1), true));
        targets.try_once(&to(2), false);
        assert_eq!(due(&targets), [(1, true), (2, false)]);
        assert_eq!(due(&targets), [], "both are open");
        end(&targets, 1, Ended::ForNow);
        end(&targets, 2, Ended::ForNow);
        assert_eq!(due(&targets), [(1, true)]);

        let targets = Targets::new(FAR);
        targets.add(&to(1), true);
        assert_eq!(due(&targets), [(1, true)]);
        end(&targets, 1, Ended::ForNow);
        assert_eq!(due(&targets), [], "the redial time has not passed");
    }

    #[test]
    fn a_lack_of_this_host_keeps_a_single_try() {
        let targets = Targets::new(Duration::ZERO);
        targets.try_once(&to(1), true);
        assert_eq!(due(&targets), [(1, true)]);
        end(&targets, 1, Ended::ByThisHost);
        assert_eq!(due(&targets), [(1, true)]);
        end(&targets, 1, Ended::ForNow);
        assert_eq!(due(&targets), []);
    }

    #[test]
    fn an_address_that_cannot_be_dialled_is_not_dialled_again() {
        let targets = Targets::new(Duration::ZERO);
        targets.add(&to(1), true);
        targets.try_once(&to(2), true);
        assert_eq!(due(&targets), [(1, true), (2, true)]);
        end(&targets, 1, Ended::ForGood);
        end(&targets, 2, Ended::ForGood);
        assert_eq!(due(&targets), []);
        assert!(targets.remove(&to(1)), "the added address can be removed");
        assert!(targets.list.lock().targets.is_empty());
    }

    #[test]
    fn a_fallback_is_immediate_and_lasts_one_attempt() {
        let targets = Targets::new(Duration::ZERO);
        targets.add(&to(1), true);
        targets.try_once(&to(2), true);
        due(&targets);
        end(&targets, 1, Ended::ForVersion1);
        end(&targets, 2, Ended::ForVersion1);
        assert_eq!(due(&targets), [(1, false), (2, false)]);
        end(&targets, 1, Ended::ForNow);
        end(&targets, 2, Ended::ForNow);
        assert_eq!(due(&targets), [(1, true)]);
    }

    #[test]
    fn an_address_is_not_dialled_twice_at_the_same_time() {
        let targets = Targets::new(FAR);
        targets.try_once(&to(1), true);
        targets.try_once(&to(1), true);
        assert!(targets.add(&to(1), true));
        assert_eq!(due(&targets), [(1, true)]);
        targets.try_once(&to(1), true);
        end(&targets, 1, Ended::ForNow);
        assert_eq!(due(&targets), [(1, true)], "the added target replaces the single try");
        end(&targets, 1, Ended::ForNow);
        assert_eq!(due(&targets), []);
    }

    #[test]
    fn only_what_was_added_is_removed() {
        let targets = Targets::new(Duration::ZERO);
        targets.try_once(&to(1), true);
        assert!(!targets.remove(&to(1)));
        targets.add(&to(1), true);
        assert!(targets.remove(&to(1)));
        assert!(!targets.remove(&to(1)));
        assert_eq!(due(&targets), [(1, true)], "the single try remains");
        end(&targets, 1, Ended::ForNow);
        assert_eq!(due(&targets), []);

        targets.add(&to(2), true);
        due(&targets);
        assert!(targets.remove(&to(2)), "a connected address can be removed");
        assert!(!targets.remove(&to(2)));
        end(&targets, 2, Ended::ForVersion1);
        assert_eq!(due(&targets), []);
        assert!(targets.list.lock().targets.is_empty());
    }

    #[test]
    fn forget_tries_drops_the_waiting_single_tries_only() {
        let targets = Targets::new(Duration::ZERO);
        targets.try_once(&to(1), true);
        targets.add(&to(2), true);
        targets.forget_tries();
        assert_eq!(due(&targets), [(2, true)]);
    }

    #[test]
    fn a_new_target_is_due_at_once_and_none_is_after_the_close() {
        let targets = Targets::new(FAR);
        assert_eq!(targets.next_due(), None);
        targets.add(&to(1), true);
        assert!(targets.next_due().unwrap() <= Instant::now());
        assert_eq!(due(&targets), [(1, true)]);
        end(&targets, 1, Ended::ForNow);
        assert!(targets.next_due().unwrap() > Instant::now(), "the redial time has not passed");
        targets.add(&to(2), true);
        targets.close();
        assert_eq!(due(&targets), []);
        assert_eq!(targets.next_due(), None);
    }
}
