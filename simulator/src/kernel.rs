//! The kernels that a run can use.
//!
//! The module is pure data.

use std::{fmt, str::FromStr};

use sockman::testing::Network;

/// The kernel whose rules the network in memory follows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// [`Network::linux`].
    #[default]
    Linux,
    /// [`Network::bsd`].
    Bsd,
    /// [`Network::macos`].
    Macos,
    /// [`Network::windows`].
    Windows,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Kernel; 4] = [Kernel::Linux, Kernel::Bsd, Kernel::Macos, Kernel::Windows];

    /// Whether an event of this kind, one of [`KINDS`](crate::KINDS), can happen on this kernel. The
    /// double of Windows does not report the end of a stream behind data that waits.
    #[must_use]
    pub fn reaches(self, kind: &str) -> bool {
        self != Kernel::Windows || kind != "a connection had ended in order while data waited"
    }

    pub(crate) fn network(self) -> Network {
        match self {
            Kernel::Linux => Network::linux(),
            Kernel::Bsd => Network::bsd(),
            Kernel::Macos => Network::macos(),
            Kernel::Windows => Network::windows(),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kernel::Linux => "linux",
            Kernel::Bsd => "bsd",
            Kernel::Macos => "macos",
            Kernel::Windows => "windows",
        })
    }
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(name: &str) -> Result<Kernel, String> {
        let of_name = Kernel::ALL.into_iter().find(|kernel| kernel.to_string() == name);
        of_name.ok_or_else(|| {
            format!("unknown kernel {name:?}; linux, bsd, macos and windows are known")
        })
    }
}
