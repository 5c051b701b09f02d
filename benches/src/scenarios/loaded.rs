//! Measures one server under one load.
use std::{io, thread};

use super::{ACCEPTS, LINES_PER_SECOND, LoadKind, STREAMS, WRITE_SIZE, idle::SETTLE};
use crate::{
    cores::Cores,
    load::{Accepts, Chat, Download, Load, PingPong, Upload},
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
    let (to, without) = (server.address, server.descriptors()?);
    let mut load: Box<dyn Load> = match kind {
        LoadKind::PingPong { connections, size, depth } => {
            Box::new(PingPong::new(to, connections, size, depth)?)
        }
        LoadKind::Upload => Box::new(Upload::new(to, STREAMS, WRITE_SIZE)?),
        LoadKind::Download => Box::new(Download::new(to, STREAMS)?),
        LoadKind::Accepts => Box::new(Accepts::new(to, ACCEPTS)?),
        LoadKind::Chat { members } => {
            let chat = Chat::new(to, members, LINES_PER_SECOND)?;
            // Only an accepted member hears a line.
            server.wait_for_descriptors(without + members)?;
            // After the accept, the server registers the member. No event says when.
            thread::sleep(SETTLE);
            Box::new(chat)
        }
    };
    measure(&server, load.as_mut(), kind.counted(), pace)
}
