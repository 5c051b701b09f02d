//! Prints errors with their sources. `{}` prints the error's own message, `{:#}` appends the
//! messages of its sources.

use std::{error::Error, fmt};

/// Appends the messages of all sources if the formatter asks for the alternate form (`{:#}`).
pub(crate) fn write_sources(f: &mut fmt::Formatter<'_>, error: &dyn Error) -> fmt::Result {
    if !f.alternate() {
        return Ok(());
    }
    let mut source = error.source();
    while let Some(error) = source {
        write!(f, ": {error}")?;
        source = error.source();
    }
    Ok(())
}
