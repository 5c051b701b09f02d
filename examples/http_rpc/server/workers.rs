//! Worker threads and the bounded queue in front of them.
//!
//! The socket thread puts requests in, the workers take them out; the one mutex is held for a
//! moment.

use std::{
    collections::VecDeque,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

struct Shared {
    limit: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// # Errors
    ///
    /// A thread could not be started.
    pub(crate) fn start(count: usize, limit: usize) -> io::Result<Workers> {
        let shared = Arc::new(Shared { limit, queue: Mutex::default(), changed: Condvar::new() });
        let workers = Workers { shared, threads: Mutex::default() };
        for number in 0..count {
            let shared = Arc::clone(&workers.shared);
            let builder = thread::Builder::new().name(format!("httpworker.{number}"));
            // On an error, dropping `workers` ends those that run.
            workers.threads.lock().push(builder.spawn(move || shared.work())?);
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

    /// Jobs that no worker has begun are dropped; returns when the others are done.
    pub(crate) fn stop(&self) {
        let unstarted = {
            let mut queue = self.shared.queue.lock();
            queue.is_closed = true;
            mem::take(&mut queue.jobs)
        };
        drop(unstarted);
        self.shared.changed.notify_all();
        let threads = mem::take(&mut *self.threads.lock());
        for thread in threads {
            // Panics are caught and logged where they happen.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
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
