//! The node on `sockman`, with `lightning-net-sockman`.
use std::{error::Error, sync::Arc};

use lightning_net_sockman::Driver;
use sockman::Options;

use super::node::Node;
use crate::server_process::announce;

pub(super) fn serve() -> Result<(), Box<dyn Error>> {
    let node = Node::new(0)?;
    let driver = Driver::new(Arc::clone(&node.manager), Options::default())?;
    let bound = driver.sockman().bind_and_start_listening("127.0.0.1:0")?;
    let address = bound.to_socket_addr().ok_or("the listener is not bound to an IP address")?;
    announce(address, &node.id.serialize());
    Ok(driver.sockman().run_sockets_thread()?)
}
