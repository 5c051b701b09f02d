//! Worker threads and the bounded queue in front of them.
//!
//! The socket thread puts requests in, the workers take them out; the one mutex is held for a
//! moment.

use std::{
    collections::VecDeque,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Instant,
};

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_closed: bool,
    /// How many threads run.
    threads: usize,
}

struct Shared {
    limit: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
    ended: Condvar,
}

pub(crate) struct Workers {
    shared: Arc<Shared>,
}

impl Workers {
    /// # Errors
    ///
    /// A thread could not be started.
    pub(crate) fn start(count: usize, limit: usize) -> io::Result<Workers> {
        let (queue, changed, ended) = (Mutex::default(), Condvar::new(), Condvar::new());
        let workers = Workers { shared: Arc::new(Shared { limit, queue, changed, ended }) };
        for number in 0..count {
            let shared = Arc::clone(&workers.shared);
            let builder = thread::Builder::new().name(format!("httpworker.{number}"));
            workers.shared.queue.lock().threads += 1;
            // On an error, dropping `workers` ends those that run.
            if let Err(error) = builder.spawn(move || shared.work()) {
                workers.shared.queue.lock().threads -= 1;
                return Err(error);
            }
        }
        Ok(workers)
    }

    /// Hands a job to the next worker that is free. `false`: so many wait already that this one is
    /// not taken.
    #[must_use]
    pub(crate) fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        {
            let mut queue = self.shared.queue.lock();
            if queue.is_closed || queue.jobs.len() >= self.shared.limit {
                return false;
            }
            queue.jobs.push_back(Box::new(job));
        }
        self.shared.changed.notify_one();
        true
    }

    /// Jobs that no worker has begun are dropped. Waits until the others are done, or for the
    /// deadline: a job that takes longer goes on by itself, and its thread ends with it.
    ///
    /// `false`: there are such.
    pub(crate) fn stop(&self, deadline: Instant) -> bool {
        drop(self.close());
        let mut queue = self.shared.queue.lock();
        while queue.threads > 0 {
            if self.shared.ended.wait_until(&mut queue, deadline).timed_out() {
                return queue.threads == 0;
            }
        }
        true
    }

    /// What no worker has begun. (It is dropped under no lock: it holds connections.)
    fn close(&self) -> VecDeque<Job> {
        let mut queue = self.shared.queue.lock();
        queue.is_closed = true;
        self.shared.changed.notify_all();
        mem::take(&mut queue.jobs)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            // The job itself answers for its request; the worker goes on to the next.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                log::error!("a worker's job panicked");
            }
        }
        self.queue.lock().threads -= 1;
        self.ended.notify_all();
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.is_closed {
                return None;
            }
            self.changed.wait(&mut queue);
        }
    }
}
