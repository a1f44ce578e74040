//! Owns points in time: the clock, `SOURCE_DATE_EPOCH`, and how dates are read and written. Never uses a time zone
//! other than UTC.
//!
//! Source: the Source Date Epoch specification (reproducible-builds.org).

use std::env;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use crate::error::Fault;

/// `SOURCE_DATE_EPOCH`, in seconds since 1970; `None` if it is not set.
///
/// # Errors
/// If it is no number, or does not fit the 32 bits of a uImage header: one rule for all that hearth writes.
pub fn source_date_epoch() -> Result<Option<u32>, Fault> {
    env::var_os("SOURCE_DATE_EPOCH")
        .map(|value| from_environment(&value.to_string_lossy()))
        .transpose()
}

/// The time for a uImage made now: `SOURCE_DATE_EPOCH` if it is set, else the clock. Seconds since 1970.
///
/// # Errors
/// As [`source_date_epoch`]; if the clock does not fit 32 bits.
pub fn image_time() -> Result<u32, Fault> {
    if let Some(epoch) = source_date_epoch()? {
        return Ok(epoch);
    }
    u32::try_from(now()).map_err(|_| {
        Fault::input("the clock is past 2106, which a uImage cannot hold")
            .remedy("set SOURCE_DATE_EPOCH")
    })
}

/// The time for an image that must be the same whenever it is made: `SOURCE_DATE_EPOCH` if it is set, else the
/// beginning of 1970.
///
/// # Errors
/// As [`source_date_epoch`].
pub fn reproducible() -> Result<u32, Fault> {
    Ok(source_date_epoch()?.unwrap_or(0))
}

/// The clock, in seconds since 1970; a clock before that reads as 0.
pub fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

fn from_environment(value: &str) -> Result<u32, Fault> {
    let remedy = "set it to seconds since 1970, at most 4294967295, or unset it";
    // `parse` alone would take a leading +.
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(
            Fault::input(format!("SOURCE_DATE_EPOCH is {value:?}, which is no time"))
                .remedy(remedy),
        );
    }
    value.parse().map_err(|_| {
        Fault::input(format!(
            "SOURCE_DATE_EPOCH is {value}, which does not fit the 32 bits of a uImage"
        ))
        .remedy(remedy)
    })
}

/// As C's `asctime` has it, and so mkimage in UTC: `Tue Nov 14 22:13:20 2023`.
pub fn asctime(time: u32) -> String {
    timestamp(i64::from(time))
        .strftime("%a %b %e %H:%M:%S %Y")
        .to_string()
}

/// As RFC 3339 has it: `2023-11-14T22:13:20Z`. A time that jiff cannot hold (before -9999 or after 9999) reads as 1970.
pub fn rfc3339(time: i64) -> String {
    timestamp(time).to_string()
}

fn timestamp(time: i64) -> Timestamp {
    Timestamp::from_second(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Seconds since 1970 of a date such as `Sat, 12 Sep 2026 07:55:41 UTC` (RFC 5322; Debian's repository format, "Date,
/// Valid-Until", demands UTC); `None` for anything else, and for another time zone or a date before 1970. The day of
/// the week is not checked.
pub fn parse_date(text: &str) -> Option<u64> {
    static PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);
    let (date, zone) = text.trim().rsplit_once(' ')?;
    if !matches!(zone, "UTC" | "GMT" | "Z" | "+0000" | "-0000") {
        return None;
    }
    let time = PARSER.parse_timestamp(format!("{date} +0000")).ok()?;
    u64::try_from(time.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_the_calendar_has_them() {
        assert_eq!(asctime(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(asctime(1_700_000_000), "Tue Nov 14 22:13:20 2023");
        assert_eq!(asctime(u32::MAX), "Sun Feb  7 06:28:15 2106");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_789_199_741), "2026-09-12T07:55:41Z");
    }

    #[test]
    fn a_date_epoch_that_is_no_number_or_too_large_is_refused() {
        assert_eq!(from_environment("4294967295").unwrap(), u32::MAX);
        for bad in ["", "abc", "-1", "+1", "4294967296", "1 "] {
            let error = from_environment(bad).unwrap_err();
            assert!(error.to_string().contains("SOURCE_DATE_EPOCH"), "{bad}");
        }
    }

    #[test]
    fn dates_of_release_files_are_read() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", 0),
            ("Sat, 12 Sep 2026 07:55:41 UTC", 1_789_199_741),
            ("Tue, 29 Feb 2028 23:59:59 GMT", 1_835_481_599),
            ("Mon, 1 Mar 2100 00:00:00 +0000", 4_107_542_400),
            ("1 Mar 2100 00:00:00 Z", 4_107_542_400),
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
            "Sat, 12 Sep 2026 07:55:41 +0200",
            "Sat, 12 Foo 2026 07:55:41 UTC",
            "Sat, 32 Sep 2026 07:55:41 UTC",
            "Sat, 12 Sep 2026 25:55:41 UTC",
            "Sat, 12 Sep 99999999999 07:55:41 UTC",
            "Sat, 12 Sep 2026 07:55:41 UTC UTC",
            "Wed, 31 Dec 1969 23:59:59 UTC",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }
}
