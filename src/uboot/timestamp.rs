//! Owns the time written into an image: where it comes from, and how it reads. Never uses a time zone other than UTC.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Fault;

/// The time for an image made now: `SOURCE_DATE_EPOCH` if it is set, else the clock. Seconds since 1970.
///
/// # Errors
/// If `SOURCE_DATE_EPOCH` is no number, or either does not fit the header's 32 bits.
///
/// Source: the Source Date Epoch specification (reproducible-builds.org).
pub fn now() -> Result<u32, Fault> {
    if let Some(value) = env::var_os("SOURCE_DATE_EPOCH") {
        return from_environment(&value.to_string_lossy());
    }
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    u32::try_from(seconds).map_err(|_| {
        Fault::input("the clock is past 2106, which a uImage cannot hold")
            .remedy("set SOURCE_DATE_EPOCH")
    })
}

/// The time for an image that must come out the same whenever it is made: `SOURCE_DATE_EPOCH` if it is set, else
/// the beginning of 1970.
///
/// # Errors
/// If `SOURCE_DATE_EPOCH` is no number, or does not fit the header's 32 bits.
pub fn reproducible() -> Result<u32, Fault> {
    env::var_os("SOURCE_DATE_EPOCH")
        .map_or(Ok(0), |value| from_environment(&value.to_string_lossy()))
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

/// A time taken apart, in UTC.
struct Civil {
    year: u64,
    month: usize,
    day: u64,
    weekday: usize,
    hour: u32,
    minute: u32,
    second: u32,
}

/// Days to date by eras of 400 years that begin in March, so that the leap day is a year's last.
fn civil(time: u32) -> Civil {
    let days = u64::from(time / 86_400);
    let since_march_of_year_0 = days + 719_468;
    let era = since_march_of_year_0 / 146_097;
    let day_of_era = since_march_of_year_0 % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = (month_from_march + 2) % 12;
    Civil {
        year: era * 400 + year_of_era + u64::from(month < 2),
        month: usize::try_from(month).expect("a month is below 12"),
        day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
        weekday: usize::try_from((days + 4) % 7).expect("a weekday is below 7"),
        hour: time / 3_600 % 24,
        minute: time / 60 % 60,
        second: time % 60,
    }
}

/// As C's `asctime` has it, and so mkimage in UTC: `Tue Nov 14 22:13:20 2023`.
pub fn asctime(time: u32) -> String {
    const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let t = civil(time);
    format!(
        "{} {} {:2} {:02}:{:02}:{:02} {}",
        WEEKDAYS[t.weekday], MONTHS[t.month], t.day, t.hour, t.minute, t.second, t.year
    )
}

/// As RFC 3339 has it: `2023-11-14T22:13:20Z`.
pub fn rfc3339(time: u32) -> String {
    let t = civil(time);
    format!(
        "{}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        t.year,
        t.month + 1,
        t.day,
        t.hour,
        t.minute,
        t.second
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_the_calendar_has_them() {
        assert_eq!(asctime(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(asctime(1_700_000_000), "Tue Nov 14 22:13:20 2023");
        assert_eq!(asctime(u32::MAX), "Sun Feb  7 06:28:15 2106");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(951_868_799), "2000-02-29T23:59:59Z");
        assert_eq!(rfc3339(1_704_067_199), "2023-12-31T23:59:59Z");
    }

    #[test]
    fn a_date_epoch_that_is_no_number_or_too_large_is_refused() {
        assert_eq!(from_environment("4294967295").unwrap(), u32::MAX);
        for bad in ["", "abc", "-1", "+1", "4294967296", "1 "] {
            let error = from_environment(bad).unwrap_err();
            assert!(error.to_string().contains("SOURCE_DATE_EPOCH"), "{bad}");
        }
    }
}
