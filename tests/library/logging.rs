//! The guide's chapter on logging lists each line of the library as the sources have it.

use std::{collections::BTreeSet, fs, path::Path};

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// The targets of a line whose target depends on the way that a connect takes.
const BY_WAY: &str = "net, proxy, i2p";

/// The level, the target and the text of a line. The text has `…` in place of each value.
type Line = (String, String, String);

/// Returns the sources of the library.
fn sources() -> Vec<String> {
    fn add(folder: &Path, to: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(&path, to);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                to.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut sources = Vec::new();
    add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    sources
}

/// Reads the string literal after the first quote, and replaces its values.
fn text_of(source: &str) -> String {
    let (mut text, mut rest) = (String::new(), source.split_once('"').unwrap().1.chars());
    while let Some(char) = rest.next() {
        match char {
            '"' => return text,
            '\\' => match rest.next() {
                Some('\n') => rest = rest.as_str().trim_start().chars(),
                escaped => text.extend(escaped),
            },
            '{' => {
                rest.by_ref().find(|char| *char == '}').unwrap();
                text.push('…');
            }
            char => text.push(char),
        }
    }
    panic!("the literal does not end: {text}");
}

fn lines_of(source: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for level in LEVELS {
        for call in source.split(&format!("log::{level}!(")).skip(1) {
            let target =
                call.trim_start().strip_prefix("target: ").expect("each line has a target");
            let (target, rest) = target.split_once(',').unwrap();
            let target = target.trim_matches('"').strip_prefix("sockman::").unwrap_or(BY_WAY);
            lines.push((level.to_owned(), target.to_owned(), text_of(rest)));
        }
    }
    lines
}

fn difference(a: &BTreeSet<Line>, b: &BTreeSet<Line>) -> Vec<Line> {
    a.difference(b).cloned().collect()
}

/// Each line of the library is in the table, with its level, its target and its text, and the table
/// has no other line. The tables of the targets and the levels are complete.
#[test]
fn the_guide_lists_each_log_line_as_the_sources_have_it() {
    let sources = sources();
    assert!(sources.iter().all(|source| !source.contains("use log::")), "write `log::debug!`");
    let in_sources: BTreeSet<Line> = sources.iter().flat_map(|source| lines_of(source)).collect();
    assert!(in_sources.len() > 40, "{in_sources:?}");

    let chapter = include_str!("../../docs/guide/logging.md");
    let mut in_guide = BTreeSet::new();
    for row in chapter.split("## Each line").nth(1).unwrap().lines() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if let ["", level, target, text, _when, ""] = cells[..] {
            if LEVELS.contains(&level) {
                let text = text.trim_start_matches('`').strip_suffix('`').unwrap();
                let text = text.strip_suffix(" `").unwrap_or(text).trim();
                in_guide.insert((level.to_owned(), target.to_owned(), text.to_owned()));
            }
        }
    }
    let (missing, wrong) = (difference(&in_sources, &in_guide), difference(&in_guide, &in_sources));
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "docs/guide/logging.md lacks {missing:#?}, and the sources lack {wrong:#?}"
    );
    let targets = in_sources.iter().filter(|line| line.1 != BY_WAY);
    for target in targets.map(|line| &line.1).chain(["proxy".to_owned()].iter()) {
        assert!(chapter.contains(&format!("| `sockman::{target}` |")), "{target}");
    }
    assert!(LEVELS.iter().all(|level| chapter.contains(&format!("| `{level}` |"))));
}
