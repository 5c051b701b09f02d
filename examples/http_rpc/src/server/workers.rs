//! The worker threads and their bounded queue of jobs.
//!
//! The socket thread adds jobs, and the workers take them. The queue has one mutex, which is held
//! only to add or take a job.

use std::{
    collections::VecDeque,
    fmt, io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Instant,
};

use parking_lot::{Condvar, Mutex};
use sockman::ConnectionId;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    /// The jobs, each with the connection that it belongs to.
    jobs: VecDeque<(ConnectionId, Job)>,
    is_closed: bool,
    /// The number of running threads.
    threads: usize,
}

struct Shared {
    limit: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
    ended: Condvar,
}

/// The worker threads. Dropping the value ends them, after their jobs.
pub struct Workers {
    shared: Arc<Shared>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

impl Workers {
    /// Starts `count` threads. At most `limit` jobs wait.
    ///
    /// # Errors
    ///
    /// A thread did not start.
    pub fn start(count: usize, limit: usize) -> io::Result<Workers> {
        let (queue, changed, ended) = (Mutex::default(), Condvar::new(), Condvar::new());
        let workers = Workers { shared: Arc::new(Shared { limit, queue, changed, ended }) };
        for number in 0..count {
            let shared = Arc::clone(&workers.shared);
            let builder = thread::Builder::new().name(format!("httpworker.{number}"));
            workers.shared.queue.lock().threads += 1;
            // On an error, dropping `workers` ends the running threads.
            if let Err(error) = builder.spawn(move || shared.work()) {
                workers.shared.queue.lock().threads -= 1;
                return Err(error);
            }
        }
        Ok(workers)
    }

    /// Queues a job of connection `of` for the next free worker. Returns `false` if the queue is
    /// full or closed.
    #[must_use]
    pub fn submit(&self, of: ConnectionId, job: impl FnOnce() + Send + 'static) -> bool {
        {
            let mut queue = self.shared.queue.lock();
            if queue.is_closed || queue.jobs.len() >= self.shared.limit {
                return false;
            }
            queue.jobs.push_back((of, Box::new(job)));
        }
        self.shared.changed.notify_one();
        true
    }

    /// Removes the waiting job of connection `of`, if there is one, so that it neither runs nor takes
    /// a place in the queue. May be called from any thread.
    pub fn withdraw(&self, of: ConnectionId) {
        // The job holds a connection, so it is dropped without the lock.
        drop({
            let mut queue = self.shared.queue.lock();
            let position = queue.jobs.iter().position(|(other, _)| *other == of);
            position.and_then(|position| queue.jobs.remove(position))
        });
    }

    /// Drops the waiting jobs, and waits until the running ones are done or until the deadline.
    /// Returns whether all threads have ended. A job that runs longer continues, and its thread
    /// ends after it.
    pub fn stop(&self, deadline: Instant) -> bool {
        drop(self.close());
        let mut queue = self.shared.queue.lock();
        while queue.threads > 0 {
            if self.shared.ended.wait_until(&mut queue, deadline).timed_out() {
                return queue.threads == 0;
            }
        }
        true
    }

    /// Closes the queue and returns the waiting jobs. The caller drops the jobs without the lock,
    /// because the jobs hold connections.
    fn close(&self) -> VecDeque<(ConnectionId, Job)> {
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
            // A panic of the service is caught in the job. A panic of the job itself must not end
            // the worker.
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                log::error!("a job panicked on a worker thread; its request gets no answer");
            }
        }
        self.queue.lock().threads -= 1;
        self.ended.notify_all();
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if let Some((_, job)) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.is_closed {
                return None;
            }
            self.changed.wait(&mut queue);
        }
    }
}
