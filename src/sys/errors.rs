//! The numbers of the operating system's errors, under the names that POSIX gives them. The module
//! holds constants only.
//!
//! [`io::Error`](std::io::Error) returns such a number (`raw_os_error`), and is made from one
//! (`from_raw_os_error`). On Unix, each
//! constant is the constant of the C library. On Windows, each constant is the number that Winsock
//! or the file system reports for the same failure. The C library of Windows has constants of the
//! same names with other numbers, which no system call reports.
//!
//! # Examples
//!
//! ```
//! use std::io;
//! use sockman::sys::errors;
//!
//! let error = io::Error::from_raw_os_error(errors::ECONNREFUSED);
//! assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
//! ```

/// Defines one constant for each line: the name of POSIX, and the number and the name on Windows.
macro_rules! errors {
    ($($name:ident = $number:literal $windows:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "`. `", $windows, "` on Windows.")]
            #[cfg(not(windows))]
            pub const $name: i32 = libc::$name;
            #[doc = concat!("`", $windows, "`. `", stringify!($name), "` on Unix.")]
            #[cfg(windows)]
            pub const $name: i32 = $number;
        )*
    };
}

errors! {
    EACCES = 10013 "WSAEACCES";
    EADDRINUSE = 10048 "WSAEADDRINUSE";
    EADDRNOTAVAIL = 10049 "WSAEADDRNOTAVAIL";
    EAFNOSUPPORT = 10047 "WSAEAFNOSUPPORT";
    EAGAIN = 10035 "WSAEWOULDBLOCK";
    EALREADY = 10037 "WSAEALREADY";
    EBADF = 10009 "WSAEBADF";
    ECONNABORTED = 10053 "WSAECONNABORTED";
    ECONNREFUSED = 10061 "WSAECONNREFUSED";
    ECONNRESET = 10054 "WSAECONNRESET";
    EDESTADDRREQ = 10039 "WSAEDESTADDRREQ";
    EEXIST = 183 "ERROR_ALREADY_EXISTS";
    EFAULT = 10014 "WSAEFAULT";
    EHOSTDOWN = 10064 "WSAEHOSTDOWN";
    EHOSTUNREACH = 10065 "WSAEHOSTUNREACH";
    EINPROGRESS = 10036 "WSAEINPROGRESS";
    EINTR = 10004 "WSAEINTR";
    EINVAL = 10022 "WSAEINVAL";
    EIO = 1117 "ERROR_IO_DEVICE";
    EISCONN = 10056 "WSAEISCONN";
    ELOOP = 10062 "WSAELOOP";
    EMFILE = 10024 "WSAEMFILE";
    EMSGSIZE = 10040 "WSAEMSGSIZE";
    ENAMETOOLONG = 10063 "WSAENAMETOOLONG";
    ENETDOWN = 10050 "WSAENETDOWN";
    ENETUNREACH = 10051 "WSAENETUNREACH";
    ENFILE = 4 "ERROR_TOO_MANY_OPEN_FILES";
    ENOBUFS = 10055 "WSAENOBUFS";
    ENODEV = 55 "ERROR_DEV_NOT_EXIST";
    ENOENT = 2 "ERROR_FILE_NOT_FOUND";
    ENOMEM = 8 "ERROR_NOT_ENOUGH_MEMORY";
    ENOPROTOOPT = 10042 "WSAENOPROTOOPT";
    ENOSPC = 112 "ERROR_DISK_FULL";
    ENOSYS = 120 "ERROR_CALL_NOT_IMPLEMENTED";
    ENOTCONN = 10057 "WSAENOTCONN";
    ENOTDIR = 267 "ERROR_DIRECTORY";
    ENOTSOCK = 10038 "WSAENOTSOCK";
    ENXIO = 20 "ERROR_BAD_UNIT";
    EOPNOTSUPP = 10045 "WSAEOPNOTSUPP";
    EPERM = 5 "ERROR_ACCESS_DENIED";
    EPFNOSUPPORT = 10046 "WSAEPFNOSUPPORT";
    EPIPE = 109 "ERROR_BROKEN_PIPE";
    EPROTO = 1233 "ERROR_PROTOCOL_UNREACHABLE";
    EPROTONOSUPPORT = 10043 "WSAEPROTONOSUPPORT";
    EPROTOTYPE = 10041 "WSAEPROTOTYPE";
    EROFS = 19 "ERROR_WRITE_PROTECT";
    ESHUTDOWN = 10058 "WSAESHUTDOWN";
    ESOCKTNOSUPPORT = 10044 "WSAESOCKTNOSUPPORT";
    ETIMEDOUT = 10060 "WSAETIMEDOUT";
}

/// `ENONET`, an error of Linux: the host is not on the network.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub const ENONET: i32 = libc::ENONET;
/// `ENOSR`, an error of Linux: no resources of the kind that streams need.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub const ENOSR: i32 = libc::ENOSR;
