//! The node on tokio, with LDK's own `lightning-net-tokio`.
use std::{error::Error, sync::Arc};

use tokio::{net::TcpListener, runtime::Builder};

use super::node::Node;
use crate::server_process::announce;

pub(super) fn serve(runtime: &mut Builder) -> Result<(), Box<dyn Error>> {
    let node = Node::new(0)?;
    runtime.enable_all().build()?.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?, &node.id.serialize());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let manager = Arc::clone(&node.manager);
            let ended = lightning_net_tokio::setup_inbound(manager, stream.into_std()?);
            // The tasks of the connection go on without this future.
            drop(ended);
        }
    })
}
