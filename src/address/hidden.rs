//! Which characters do not show. A pure function, usable on any thread, without a lock.

/// Returns whether `c` does not show in a text: a control character, a format character such as a
/// soft hyphen or a change of direction, a space other than `' '`, a line or paragraph separator, a
/// character for private use, or one that Unicode has not assigned.
///
/// The standard library's table of general categories decides (Cc, Cf, Cn, Co, Zl, Zp, Zs). What
/// the table counts as letters, marks and symbols shows, with the exceptions of [`BLANK`]. Later
/// versions than 1.95 also count marks that combine as hidden, wherever they stand.
pub(super) fn is_hidden(c: char) -> bool {
    if matches!(c, '\\' | '"' | '\'') {
        return false;
    }
    // A mark that combines is escaped at the start of a text only, so a letter comes first.
    let mut text = [b'a'; 5];
    let length = 1 + c.encode_utf8(&mut text[1..]).len();
    let is_shown = std::str::from_utf8(&text[..length])
        .is_ok_and(|text| text.escape_debug().count() == text.chars().count());
    !is_shown || BLANK.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// The letters, marks and symbols that are blank: Unicode's property `Default_Ignorable_Code_Point`
/// (DerivedCoreProperties.txt) without the categories above, and the blank Braille pattern and the
/// null notehead.
const BLANK: [(char, char); 11] = [
    ('\u{34f}', '\u{34f}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180d}'),
    ('\u{180f}', '\u{180f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{1d159}', '\u{1d159}'),
    ('\u{e0100}', '\u{e01ef}'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_show_is_hidden_and_all_else_is_not() {
        let hidden = [
            0x0, 0x1b, 0x7f, 0x85, 0xa0, 0xad, 0x34f, 0x378, 0x600, 0x61c, 0x115f, 0x1160, 0x17b4,
            0x180e, 0x200b, 0x200d, 0x202e, 0x2028, 0x2029, 0x2065, 0x2066, 0x2800, 0x3000, 0x3164,
            0xe000, 0xfe0f, 0xfeff, 0xffa0, 0xfff9, 0xffff, 0x1bca0, 0x1d173, 0xe0001, 0xe0020,
            0xe0080, 0xe0100, 0xe01ef, 0xf0000, 0x10fffd, 0x10ffff,
        ];
        for code in hidden {
            assert!(is_hidden(char::from_u32(code).unwrap()), "U+{code:04X}");
        }
        // A mark that combines, such as U+0301, shows or not: that depends on the compiler.
        for shown in [' ', '~', 'a', '\\', '"', '\'', 'é', '日', 'ש', 'ि', '🦀', '€'] {
            assert!(!is_hidden(shown), "{shown}");
        }
    }
}
