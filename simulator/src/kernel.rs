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
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Kernel; 3] = [Kernel::Linux, Kernel::Bsd, Kernel::Macos];

    pub(crate) fn network(self) -> Network {
        match self {
            Kernel::Linux => Network::linux(),
            Kernel::Bsd => Network::bsd(),
            Kernel::Macos => Network::macos(),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kernel::Linux => "linux",
            Kernel::Bsd => "bsd",
            Kernel::Macos => "macos",
        })
    }
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(name: &str) -> Result<Kernel, String> {
        let of_name = Kernel::ALL.into_iter().find(|kernel| kernel.to_string() == name);
        of_name.ok_or_else(|| format!("unknown kernel {name:?}; linux, bsd and macos are known"))
    }
}
