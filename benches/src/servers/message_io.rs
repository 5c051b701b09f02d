//! message-io with its node API: the network thread reports all events to one callback.
//!
//! message-io cannot keep these parts of the contract. Its `send` spins until the kernel accepts
//! everything, so there are no leftovers and no back-pressure. `TCP_NODELAY` cannot be set. The
//! backlog is 1024. message-io reads until the kernel has no more data, so one peer can delay the
//! others. Both threads of message-io wake every 50 ms. message-io does not report that a
//! connection can be written to, so a `source` has a thread that only sends.
use std::{collections::HashMap, error::Error, sync::mpsc, thread};

use message_io::{
    network::{Endpoint, NetEvent, ResourceId, SendStatus, Transport},
    node::{self, NodeHandler},
};

use super::{Contract, Task, announce};

pub(super) fn serve(task: Task) -> Result<(), Box<dyn Error>> {
    let (handler, listener) = node::split::<()>();
    let (_, bound) = handler.network().listen(Transport::Tcp, "127.0.0.1:0")?;
    let (tell_sender, accepted) = mpsc::channel();
    if task.contract == Contract::Source {
        let (handler, zeroes) = (handler.clone(), vec![0; task.send_size]);
        thread::Builder::new()
            .name("source".into())
            .spawn(move || send_without_end(&handler, &accepted, &zeroes))?;
    }
    announce(bound)?;
    listener.for_each(move |event| match event.network() {
        NetEvent::Message(endpoint, data) => {
            if task.contract == Contract::Echo {
                handler.network().send(endpoint, data);
            }
        }
        NetEvent::Accepted(endpoint, _) => {
            // Only a source has a receiver.
            let _ = tell_sender.send(endpoint);
        }
        NetEvent::Connected(..) | NetEvent::Disconnected(_) => {}
    });
    Ok(())
}

fn send_without_end(handler: &NodeHandler<()>, accepted: &mpsc::Receiver<Endpoint>, zeroes: &[u8]) {
    let mut endpoints: HashMap<ResourceId, Endpoint> = HashMap::new();
    loop {
        if endpoints.is_empty() {
            let Ok(endpoint) = accepted.recv() else { return };
            endpoints.insert(endpoint.resource_id(), endpoint);
        }
        endpoints.extend(accepted.try_iter().map(|endpoint| (endpoint.resource_id(), endpoint)));
        endpoints.retain(|_, endpoint| {
            handler.network().send(*endpoint, zeroes) != SendStatus::ResourceNotFound
        });
    }
}
