//! Writes the tables into a page, between `<!-- engines -->` and `<!-- end -->`.
use std::{error::Error, fs, path::Path};

/// The page, in the directory of the documentation.
const PAGE: &str = "performance.md";
const MARKER: &str = "<!-- engines -->\n";
const END: &str = "<!-- end -->";

pub fn write(docs_dir: &Path, section: &str) -> Result<(), Box<dyn Error>> {
    let path = docs_dir.join(PAGE);
    let page = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let page = fill_in(&page, section).ok_or_else(|| {
        format!("{} does not have {} with {END} after it", path.display(), MARKER.trim())
    })?;
    Ok(fs::write(&path, page)?)
}

/// Returns the page with the section between the markers, or `None` if the page lacks a marker.
fn fill_in(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(MARKER)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{MARKER}\n{}\n\n{END}{after}", section.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let page = "A\n<!-- engines -->\n\nold\n\n<!-- end -->\nB\n<!-- end -->\n";
        let once = fill_in(page, "new\n");
        let expected = "A\n<!-- engines -->\n\nnew\n\n<!-- end -->\nB\n<!-- end -->\n";
        assert_eq!(once.as_deref(), Some(expected));
        assert_eq!(fill_in("<!-- end -->\n", "new"), None);
    }

    #[test]
    fn the_page_of_this_checkout_has_the_markers() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(PAGE);
        let page = fs::read_to_string(page).expect("the page is read");
        assert!(fill_in(&page, "new").is_some());
    }
}
