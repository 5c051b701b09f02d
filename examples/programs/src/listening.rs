//! Listening on a unix-domain path that a killed program has left behind. The packages in this folder
//! share this file.

use sockman::{
    Service, SockMan,
    error::{BindError, BindErrorKind},
    options::SocketOptions,
};

/// Starts to listen on an address, and returns the actual address. A socket file with the name of a
/// unix-domain path is replaced if no process listens on it, as after a SIGKILL.
///
/// # Errors
///
/// Listening failed, for example because another process listens on the address.
pub fn listen(sockman: &SockMan, address: &Service) -> Result<Service, BindError> {
    listen_with(sockman, address, &SocketOptions::default())
}

/// Works as [`listen`], with options of the sockets.
///
/// # Errors
///
/// As [`listen`].
pub fn listen_with(
    sockman: &SockMan,
    address: &Service,
    options: &SocketOptions,
) -> Result<Service, BindError> {
    let error = match sockman.bind_and_start_listening_with(address, options) {
        Err(error) if matches!(error.kind(), BindErrorKind::AddressInUse { .. }) => error,
        other => return other,
    };
    // The library has no unix-domain addresses on Windows.
    #[cfg(unix)]
    if crate::unused::remove(address) {
        log::warn!("replaced {address}: no process listened on it");
        return sockman.bind_and_start_listening_with(address, options);
    }
    Err(error)
}
