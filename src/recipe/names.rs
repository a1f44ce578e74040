//! Owns which names a lab file may give: to labs and boards, and to a board's values. Never reads a file.

/// A label of a host name (RFC 1123, 2.1), in lower case: a board's name is its host name.
pub(super) fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

pub(super) fn bad_name(what: &str, name: &str) -> String {
    format!(
        "`{name}` cannot name a {what}: use lower-case letters, digits and inner hyphens, at most 63"
    )
}

pub(super) fn is_value_key(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}
