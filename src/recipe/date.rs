//! Owns the dates of release files: RFC 5322 text to seconds since 1970. Never knows of time zones but UTC,
//! which the repository format demands.

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Seconds since 1970 of a date such as `Sat, 12 Sep 2026 07:55:41 UTC` (Debian's repository format,
/// "Date, Valid-Until"); `None` for anything else. The day of the week is not checked.
pub fn parse_date(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next()?;
    let day = if first.ends_with(',') {
        words.next()?
    } else {
        first
    };
    let day: u64 = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    let name = words.next()?;
    let month = 1 + MONTHS.iter().position(|month| *month == name)? as u64;
    let year: u64 = words.next()?.parse().ok()?;
    let time = words.next()?;
    if !(1970..=9999).contains(&year)
        || !matches!(words.next()?, "UTC" | "GMT" | "Z" | "+0000" | "-0000")
        || words.next().is_some()
    {
        return None;
    }
    let mut clock = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if clock.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(((days_before(year, month) + day - 1) * 24 + hour) * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 to the first of a month of the Gregorian calendar.
fn days_before(year: u64, month: u64) -> u64 {
    const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_days_before = |year: u64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    (year - 1970) * 365
        + (leap_days_before(year) - leap_days_before(1970))
        + BEFORE_MONTH[month as usize - 1]
        + u64::from(leap && month > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_release_files_are_read() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", 0),
            ("Sat, 12 Sep 2026 07:55:41 UTC", 1_789_199_741),
            ("Tue, 29 Feb 2028 23:59:59 GMT", 1_835_481_599),
            ("Mon, 1 Mar 2100 00:00:00 +0000", 4_107_542_400),
        ] {
            assert_eq!(parse_date(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "2026-09-12",
            "Sat, 12 Sep 2026 07:55:41 CEST",
            "Sat, 12 Foo 2026 07:55:41 UTC",
            "Sat, 32 Sep 2026 07:55:41 UTC",
            "Sat, 12 Sep 2026 25:55:41 UTC",
            "Sat, 12 Sep 99999999999 07:55:41 UTC",
            "Sat, 12 Sep 2026 07:55:41 UTC UTC",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }
}
