//! The simulated embedder over the layer `stateful`: each callback checks that it gets the value of
//! its own connection, and then does what the handler without the layer does.
//!
//! Runs on the simulated socket thread.

use std::{any::Any, io, sync::Arc, time::Instant};

use sockman::{
    ConnectionId, EventHandler, NextRecv, Service, SockMan,
    address::Destination,
    error::ConnectError,
    stateful::{Handler, Link},
};

use crate::handler::Embedder;

/// The value of a connection.
#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) id: ConnectionId,
}

/// The handler of the layer.
#[derive(Debug)]
pub(crate) struct WithValues {
    pub(crate) embedder: Arc<Embedder>,
}

impl WithValues {
    fn check(&self, id: ConnectionId, value: &Value) {
        let mut model = self.embedder.world.model.lock();
        model.require(value.id == id, || format!("{id} got the value of {}", value.id));
    }
}

impl Handler for WithValues {
    type Connection = Value;

    fn accepted(&self, link: Link<'_, Value>, me: &Service, them: &Service) -> Option<Value> {
        let id = link.id();
        let accepts = self.embedder.event_new_connection_accepted(link.sockman(), id, me, them);
        accepts.then_some(Value { id })
    }
    fn connected(&self, link: Link<'_, Value>, to: &Destination, me: &Service) -> Option<Value> {
        let id = link.id();
        self.embedder.event_connect_completed(link.sockman(), id, to, Ok(me));
        Some(Value { id })
    }
    fn connected_with(
        &self,
        link: Link<'_, Value>,
        to: &Destination,
        me: &Service,
        value: Box<dyn Any + Send>,
    ) -> Option<Value> {
        let (sockman, id) = (link.sockman(), link.id());
        self.embedder.event_connect_completed_with(sockman, id, to, Ok(me), value);
        Some(Value { id })
    }
    fn connect_failed_with(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        error: ConnectError,
        value: Box<dyn Any + Send>,
    ) {
        self.embedder.event_connect_completed_with(sockman, id, to, Err(error), value);
    }
    fn connect_failed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        error: ConnectError,
    ) {
        self.embedder.event_connect_completed(sockman, id, to, Err(error));
    }
    fn got_data(&self, link: Link<'_, Value>, value: &mut Value, data: &[u8]) {
        self.check(link.id(), value);
        self.embedder.event_got_data(link.sockman(), link.id(), data);
    }
    fn got_eof(&self, link: Link<'_, Value>, value: &mut Value) {
        self.check(link.id(), value);
        self.embedder.event_got_eof(link.sockman(), link.id());
    }
    fn read_error(&self, link: Link<'_, Value>, value: &mut Value, error: &io::Error) {
        self.check(link.id(), value);
        self.embedder.event_got_permanent_read_error(link.sockman(), link.id(), error);
    }
    fn should_try_to_send(&self, link: Link<'_, Value>, value: &mut Value) -> bool {
        self.check(link.id(), value);
        self.embedder.should_try_to_send(link.id())
    }
    fn should_try_to_recv(&self, link: Link<'_, Value>, value: &mut Value) -> bool {
        self.check(link.id(), value);
        self.embedder.should_try_to_recv(link.id())
    }
    fn ready_to_send(&self, link: Link<'_, Value>, value: &mut Value) -> NextRecv {
        self.check(link.id(), value);
        self.embedder.event_ready_to_send(link.sockman(), link.id())
    }
    fn turn_completed(&self, link: Link<'_, Value>, value: &mut Value) {
        self.check(link.id(), value);
        self.embedder.event_io_loop_completed_for_one(link.sockman(), link.id());
    }
    fn closed(&self, sockman: &SockMan, id: ConnectionId, value: Value) {
        self.check(id, &value);
        self.embedder.event_closed(sockman, id);
    }
    fn closed_after_panic(&self, sockman: &SockMan, id: ConnectionId) {
        self.embedder.event_closed_after_panic(sockman, id);
    }
    fn loop_completed(&self, sockman: &SockMan) {
        self.embedder.event_io_loop_completed_for_all(sockman);
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.embedder.next_deadline()
    }
}
