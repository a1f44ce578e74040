//! Owns shell patterns (`*`, `?`, `[a-z]`) as module aliases and firmware names use them.
//! Never looks at the file system.

/// Whether `text` as a whole matches `pattern`, as `fnmatch(3)` without flags: `*` matches `/` too.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Position to resume at after a mismatch: behind the last `*`, which then matches one more
    // byte.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            None if t == text.len() => return true,
            Some(_) if t < text.len() => one(&pattern[p..], text[t]),
            _ => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, from))) if from < text.len() => {
                retry = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// How many bytes of `pattern` match `byte`; `None` if it does not match. `pattern` is not empty.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'[' => match set(pattern, byte) {
            Some((length, true)) => Some(length),
            Some((_, false)) => None,
            // A `[` without a closing bracket is literal.
            None => (byte == b'[').then_some(1),
        },
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        plain => (plain == byte).then_some(1),
    }
}

/// The length of the `[…]` at the start of `pattern`, and whether it contains `byte`.
fn set(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    let close = (first + 1..pattern.len()).find(|&at| pattern[at] == b']')?;
    let members = &pattern[first..close];
    let mut found = false;
    let mut at = 0;
    while at < members.len() {
        if members.get(at + 1) == Some(&b'-') && at + 2 < members.len() {
            found |= (members[at]..=members[at + 2]).contains(&byte);
            at += 3;
        } else {
            found |= members[at] == byte;
            at += 1;
        }
    }
    Some((close + 1, found != negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_fnmatch_does() {
        for (pattern, text, expected) in [
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d00000001v*", "virtio:d00000002v00001AF4", false),
            ("usb:v*p*d*", "usb:v0424pEC00d0200", true),
            (
                "mdio:0000000000100010????",
                "mdio:00000000001000100110",
                true,
            ),
            ("a[0-9A-F]c", "aBc", true),
            ("a[!0-9]c", "a5c", false),
            ("*a*b", "xaxbxb", true),
            ("*", "", true),
            ("", "x", false),
            ("?", "", false),
            ("a[", "a[", true),
            ("brcm/*-sdio.bin", "brcm/43430/x-sdio.bin", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_panics_and_a_text_matches_itself(pattern: String, text in "[a-z0-9:,-]*") {
            matches(&pattern, &text);
            proptest::prop_assert!(matches(&text, &text));
        }
    }
}
