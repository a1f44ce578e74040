//! Owns the order of Debian versions (Debian Policy 5.6.12, deb-version(7)).
//! Never checks whether a version is well formed.

use std::cmp::Ordering;

/// Compares two versions as `dpkg --compare-versions` does. A missing epoch or revision counts as
/// 0.
///
/// ```
/// use std::cmp::Ordering;
///
/// use hearth::archive::version::compare;
///
/// assert_eq!(compare("1.10-1", "1.9-1"), Ordering::Greater);
/// assert_eq!(compare("2.0~rc1-1", "2.0-1"), Ordering::Less);
/// assert_eq!(compare("1:0.1", "99"), Ordering::Greater);
/// ```
pub fn compare(a: &str, b: &str) -> Ordering {
    let (epoch_a, upstream_a, revision_a) = split(a);
    let (epoch_b, upstream_b, revision_b) = split(b);
    compare_digits(epoch_a, epoch_b)
        .then_with(|| compare_part(upstream_a, upstream_b))
        .then_with(|| compare_part(revision_a, revision_b))
}

/// Epoch, upstream version, revision.
fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Compares alternately a run of non-digits by [`order`] and a run of digits by value.
fn compare_part(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, rest_a) = a.split_at(a.find(|c: char| c.is_ascii_digit()).unwrap_or(a.len()));
        let (text_b, rest_b) = b.split_at(b.find(|c: char| c.is_ascii_digit()).unwrap_or(b.len()));
        // The end of a run counts as 0: after `~`, before everything else.
        for i in 0..text_a.len().max(text_b.len()) {
            let at = |text: &str| text.as_bytes().get(i).copied().map_or(0, order);
            match at(text_a).cmp(&at(text_b)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        }
        let digits = |rest: &str| {
            rest.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len())
        };
        let (number_a, rest_a) = rest_a.split_at(digits(rest_a));
        let (number_b, rest_b) = rest_b.split_at(digits(rest_b));
        match compare_digits(number_a, number_b) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

/// `~` sorts before the end, letters before all other characters.
fn order(c: u8) -> i32 {
    match c {
        b'~' => -1,
        c if c.is_ascii_alphabetic() => i32::from(c),
        c => i32::from(c) + 256,
    }
}

/// Compares numbers of any length.
fn compare_digits(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_policy_says() {
        let rising = [
            "0~~",
            "0~",
            "0",
            "1~rc1-1",
            "1-1",
            "1-1+b1",
            "1.0-1",
            "1.16.2+ds-1",
            "1.16.10-1",
            "2a-1",
            "2+a-1",
            "1:0-1",
            "99999999999999999999999:1",
        ];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
        assert_eq!(compare("0:1.0-0", "1.0"), Ordering::Equal);
        assert_eq!(compare("1.00", "1.0"), Ordering::Equal);
        assert_eq!(compare("1.16.2+ds-1", "1.16.2+ds0-1"), Ordering::Equal);
    }
}
