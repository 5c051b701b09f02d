//! The ladder: one server with a growing number of idle connections. On each step the server first
//! has no traffic for a while, and then a few other connections are active.
use std::{io, thread, time::Duration};

use super::{ACTIVE, Pacing, SMALL, Step, record::Recorder};
use crate::{
    cores::Cores,
    load::{Holders, PingPong},
    measure::{Counted, measure, measure_quiet},
    report::Metric,
    server_process::ServerProcess,
    servers::{Contract, Peer, Task},
};

/// Time for the work that follows an accept: timers of new connections, a table that grew.
pub(super) const SETTLE: Duration = Duration::from_millis(60);

pub(super) fn run(
    peer: Peer,
    steps: &[Step],
    pacing: Pacing,
    cores: Cores,
    recorder: &mut Recorder<'_>,
) -> io::Result<()> {
    let server = ServerProcess::start(peer, Task::of(Contract::Echo), Some(cores.server))?;
    let without = server.descriptors()?;
    let memory_without = server.private_memory()?;
    let mut holders = Holders::of(server.address);
    for step in steps {
        holders.grow_to(step.idle)?;
        server.wait_for_descriptors(without + step.idle)?;
        // The server's lists and the kernel's timers settle. No event says when.
        thread::sleep(SETTLE);
        if step.quiet && recorder.wants(peer, &step.quiet_name()) {
            let quiet = measure_quiet(&server, pacing.quiet)?;
            let name = step.quiet_name();
            recorder.value(&name, peer, Metric::CpuPerSecond, quiet.cpu);
            recorder.value(&name, peer, Metric::WakeUps, quiet.wake_ups);
        }
        if step.memory {
            let added = server.private_memory()?.saturating_sub(memory_without);
            let each = added as f64 / step.idle as f64;
            recorder.value(&step.quiet_name(), peer, Metric::BytesPerConnection, each);
        }
        if step.active && peer != Peer::SockmanNoSweep {
            let mut load = PingPong::new(server.address, ACTIVE, SMALL, 1)?;
            let sample = measure(&server, &mut load, Counted::Messages, pacing.active)?;
            recorder.sample(&step.active_name(), peer, &sample);
            drop(load);
            server.wait_for_descriptors(without + step.idle)?;
        }
    }
    Ok(())
}
