//! The first program of the README and of the documentation, and the guide's chat server, are
//! example programs.

/// Returns `examples/first.rs` without the line for this repository's lints.
fn first_program() -> String {
    include_str!("../../examples/first.rs")
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("#![allow("))
        .collect()
}

/// The program in the README is `examples/first.rs`.
#[test]
fn the_readme_quotes_its_first_program_whole() {
    let readme = include_str!("../../README.md");
    let program = first_program();
    let quoted = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(quoted, program, "README.md differs from examples/first.rs: copy the program over");
    assert!(program.lines().count() <= 45, "the first program has more than 45 lines");
}

/// The program on the first page of the documentation is `examples/first.rs`.
#[test]
fn the_first_page_of_the_documentation_quotes_the_first_program_whole() {
    let page: String = include_str!("../../src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    let quoted = page.split("```no_run\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(quoted, first_program(), "src/lib.rs differs from examples/first.rs: copy it over");
}

/// `examples/echo.rs` is the smallest useful server with back-pressure.
#[test]
fn the_echo_example_is_under_80_lines() {
    assert!(include_str!("../../examples/echo.rs").lines().count() < 80);
}

/// The program in the guide's chapter is `examples/chat.rs`, which is a lesson of one page.
#[test]
fn the_guide_quotes_the_chat_example_whole() {
    let chapter = include_str!("../../docs/guide/chat-server.md");
    let program = include_str!("../../examples/chat.rs");
    let quoted = chapter.split("```rust,no_run\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(quoted, program, "chat-server.md differs from examples/chat.rs: copy it over");
    assert!(program.lines().count() < 100, "the chat example has more than 99 lines");
}

/// `examples/relay.rs` needs little around the library.
#[test]
fn the_relay_example_is_under_100_lines() {
    assert!(include_str!("../../examples/relay.rs").lines().count() < 100);
}
