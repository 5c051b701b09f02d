//! The code in the README exists and is built.

/// The README shows the echo server that is built and tested.
#[test]
fn the_readme_quotes_the_echo_example_whole() {
    let readme = include_str!("../../README.md");
    let echo = include_str!("../../examples/echo.rs");
    let quoted = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(quoted, echo, "copy examples/echo.rs into README.md");
}

/// The echo server is the smallest useful embedder: it stays under 80 lines.
#[test]
fn the_echo_example_is_under_80_lines() {
    assert!(include_str!("../../examples/echo.rs").lines().count() < 80);
}
