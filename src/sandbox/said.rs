//! Owns how lines that a program of an image has written become fit to be shown. Never drops a line.

/// Without what controls a terminal or turns the direction of text; what is left keeps its order.
pub fn shown(line: &str) -> String {
    line.chars()
        .map(|character| match character {
            '\t' => ' ',
            other => other,
        })
        .filter(|&character| {
            !character.is_control()
                && !matches!(character, '\u{200e}' | '\u{200f}' | '\u{061c}')
                && !('\u{2028}'..='\u{202e}').contains(&character)
                && !('\u{2066}'..='\u{2069}').contains(&character)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_a_terminal_is_gone() {
        assert_eq!(
            shown("\x1b]0;title\x07a\u{9b}2Jb\tc\r\u{202e}d"),
            "]0;titlea2Jb cd"
        );
        assert_eq!(shown("Größe 漢字"), "Größe 漢字");
    }
}
