//! The guide's tables, and those of the documentation's first page, name what the library has.

use std::collections::BTreeSet;

/// Returns the names of the documented methods of the trait in this source.
fn methods(source: &str) -> BTreeSet<&str> {
    let body = source.split_once("\npub trait ").unwrap().1;
    let mut methods = BTreeSet::new();
    for (before, after) in body.match_indices("\n    fn ").map(|(at, _)| body.split_at(at)) {
        let is_hidden = before.lines().last().is_some_and(|line| line.trim() == "#[doc(hidden)]");
        let name = after.trim_start().trim_start_matches("fn ").split('(').next().unwrap();
        if !is_hidden {
            methods.insert(name);
        }
    }
    methods
}

/// Each method of both traits has a row in the chapter on handlers: when it is called, its default,
/// and what follows. The table has no other method.
#[test]
fn the_hook_table_names_each_method_of_both_traits() {
    let event_handler = methods(include_str!("../../src/event_handler.rs"));
    let handler = methods(include_str!("../../src/stateful/handler.rs"));
    assert!(event_handler.len() >= 15 && handler.len() >= 19, "{event_handler:?} {handler:?}");

    let chapter = include_str!("../../docs/guide/handler.md");
    let table = chapter.split("\n|").skip(1).take_while(|row| !row.contains("| Thread |"));
    let [mut below, mut above] = [BTreeSet::new(), BTreeSet::new()];
    for row in table.skip(2) {
        let cells: Vec<&str> = row.split('|').collect();
        let [names, short_names, when, default, follows, ..] = cells[..] else { break };
        assert!([when, default, follows].iter().all(|cell| !cell.trim().is_empty()), "{row}");
        below.extend(names.split('`').skip(1).step_by(2));
        let same = short_names.trim() == "the same";
        above.extend(if same { names } else { short_names }.split('`').skip(1).step_by(2));
    }
    assert_eq!((below, above), (event_handler, handler));
}

/// Returns what stands in `text` between each `before` and the `after` that follows it.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Vec<&'a str> {
    text.split(before).skip(1).map(|rest| rest.split(after).next().unwrap()).collect()
}

/// The first page of the documentation, and the first page of the guide, list each chapter, in the
/// order of the chapters.
#[test]
fn both_lists_of_chapters_name_each_chapter_in_order() {
    let guide = include_str!("../../src/guide.rs");
    let chapters = between(guide, "\nchapter!(", ",");
    assert!(chapters.len() >= 16, "{chapters:?}");

    let page = include_str!("../../src/lib.rs");
    assert_eq!(between(page, "](guide::", ")"), chapters, "src/lib.rs");
    let table = include_str!("../../docs/guide/README.md").split("\n[").next().unwrap();
    assert_eq!(between(table, "| [", " |").len(), chapters.len(), "docs/guide/README.md");
    assert_eq!(between(table, "][", "]"), chapters, "docs/guide/README.md");
}

/// The table of modules on the first page of the documentation has a row for each module.
#[test]
fn the_table_of_modules_names_each_public_module() {
    let page = include_str!("../../src/lib.rs");
    let mut modules = between(page, "\npub mod ", " ");
    modules.iter_mut().for_each(|module| *module = module.split(';').next().unwrap());
    let modules: BTreeSet<&str> = modules.into_iter().collect();
    assert!(modules.len() >= 11, "{modules:?}");

    let table = page.split("| Module |").nth(1).unwrap().split("//!\n").next().unwrap();
    let rows: BTreeSet<&str> = between(table, "\n//! | ", " |")
        .iter()
        .map(|name| name.trim_matches(&['[', ']', '`'][..]))
        .collect();
    assert_eq!(rows, modules);
}
