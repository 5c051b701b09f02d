//! The handler of `examples/relay.rs`, for tests that run it over the network in memory, or that
//! look at its counters.

use sockman::error::CreateError;

#[allow(dead_code, reason = "a program of its own, with its function main")]
mod program {
    include!(concat!(env!("OUT_DIR"), "/relay.rs"));

    pub(super) fn create(
        target: Service,
        budget: SendBudget,
        options: Options,
    ) -> Result<SockMan, sockman::error::CreateError> {
        SockMan::with_state(Arc::new(Relay { target, budget }), options)
    }
}

/// Creates a `SockMan` whose handler is the relay of the example, as the example does. The queues of
/// all pairs share `budget`.
pub fn create(
    target: sockman::Service,
    budget: &sockman::helpers::SendBudget,
    options: sockman::Options,
) -> Result<sockman::SockMan, CreateError> {
    program::create(target, budget.clone(), options)
}
