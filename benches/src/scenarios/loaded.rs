//! Measures one server under one load.
use std::io;

use super::{ACCEPTS, LoadKind, STREAMS, WRITE_SIZE};
use crate::{
    cores::Cores,
    load::{Accepts, Download, Load, PingPong, Upload},
    measure::{Pace, Sample, measure},
    server_process::ServerProcess,
    servers::{Peer, Task},
};

pub(super) fn run(
    peer: Peer,
    task: Task,
    kind: LoadKind,
    pace: Pace,
    cores: Cores,
) -> io::Result<Sample> {
    // In the scenario about several cores, the kernel places the threads.
    let core = (task.work == 0).then_some(cores.server);
    let server = ServerProcess::start(peer, task, core)?;
    let to = server.address;
    let mut load: Box<dyn Load> = match kind {
        LoadKind::PingPong { connections, size, depth } => {
            Box::new(PingPong::new(to, connections, size, depth)?)
        }
        LoadKind::Upload => Box::new(Upload::new(to, STREAMS, WRITE_SIZE)?),
        LoadKind::Download => Box::new(Download::new(to, STREAMS)?),
        LoadKind::Accepts => Box::new(Accepts::new(to, ACCEPTS)?),
    };
    measure(&server, load.as_mut(), kind.counted(), pace)
}
