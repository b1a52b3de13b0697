//! Times in formats: strftime's specifiers, with Envoy's for fractions of a second. In UTC, or in the zone that the process runs in.

use std::io::Write;
use std::time::SystemTime;

/// A compiled strftime format.
pub(super) struct TimeFormat {
    parts: Vec<Part>,
    /// `None`: UTC.
    zone: Option<jiff::tz::TimeZone>,
}

enum Part {
    Literal(String),
    /// strftime's letter.
    Field(char),
    /// `%3f`: that many digits of the second's fraction, 1 to 9.
    Fraction(usize),
    /// `%E3S`: seconds with that many digits behind the point.
    SecondsFraction(usize),
}

/// What is printed without a parameter: `2026-11-25T10:30:00.123Z`.
const DEFAULT: &str = "%Y-%m-%dT%H:%M:%E3SZ";
/// What `…_LOCAL` operators print without a parameter.
const DEFAULT_LOCAL: &str = "%Y-%m-%dT%H:%M:%E3S%z";
const FIELDS: &str = "YmdeHIMSyjpbBhaAsFTDRZzuw";
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl TimeFormat {
    /// In the zone that the process runs in (`TZ`, else `/etc/localtime`).
    pub(super) fn local(format: &str) -> Result<Self, String> {
        let format = if format.is_empty() { DEFAULT_LOCAL } else { format };
        Ok(Self {
            zone: Some(jiff::tz::TimeZone::system()),
            ..Self::parse(format)?
        })
    }

    pub(super) fn parse(format: &str) -> Result<Self, String> {
        let format = if format.is_empty() { DEFAULT } else { format };
        let unknown = || format!("{format:?} is not a supported time format");
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = format.chars();
        while let Some(character) = rest.next() {
            if character != '%' {
                literal.push(character);
                continue;
            }
            let part = match rest.next().ok_or_else(unknown)? {
                '%' => {
                    literal.push('%');
                    continue;
                }
                'f' => Part::Fraction(9),
                digit @ '1'..='9' if rest.clone().next() == Some('f') => {
                    rest.next();
                    Part::Fraction(digit as usize - '0' as usize)
                }
                'E' => match (rest.next(), rest.next()) {
                    (Some(digit @ '1'..='9'), Some('S')) => Part::SecondsFraction(digit as usize - '0' as usize),
                    _ => return Err(unknown()),
                },
                field if FIELDS.contains(field) => Part::Field(field),
                _ => return Err(unknown()),
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts, zone: None })
    }

    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) -> bool {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (offset, zone) = self.offset(time);
        let seconds = since.as_secs().saturating_add_signed(i64::from(offset));
        let civil = Civil {
            unix: since.as_secs(),
            ..Civil::of(seconds)
        };
        let nanos = since.subsec_nanos();
        let fraction = |digits: usize| nanos / 10u32.pow(9 - digits as u32);
        for part in &self.parts {
            let written = match part {
                Part::Literal(text) => out.write_all(text.as_bytes()),
                Part::Field('Z') => out.write_all(zone.as_deref().unwrap_or("UTC").as_bytes()),
                Part::Field('z') => {
                    let minutes = offset.unsigned_abs() / 60;
                    let sign = if offset < 0 { '-' } else { '+' };
                    write!(out, "{sign}{:02}{:02}", minutes / 60, minutes % 60)
                }
                Part::Field(field) => civil.write(*field, out),
                Part::Fraction(digits) => write!(out, "{:0digits$}", fraction(*digits)),
                Part::SecondsFraction(digits) => write!(out, "{:02}.{:0digits$}", civil.second, fraction(*digits)),
            };
            if written.is_err() {
                return false;
            }
        }
        true
    }

    /// Seconds that the zone is ahead of UTC at `time`, and its name then.
    fn offset(&self, time: SystemTime) -> (i32, Option<String>) {
        let Some(zone) = &self.zone else { return (0, None) };
        let Ok(moment) = jiff::Timestamp::try_from(time) else {
            return (0, None);
        };
        let info = zone.to_offset_info(moment);
        (info.offset().seconds(), Some(info.abbreviation().to_owned()))
    }
}

/// A calendar time.
struct Civil {
    unix: u64,
    year: u64,
    month: u64,
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// 0 is Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// The proleptic Gregorian calendar by 400-year eras that begin in March.
    fn of(unix: u64) -> Self {
        let (days, second_of_day) = (unix / 86_400, unix % 86_400);
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_march_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_march_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap = u64::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)));
        let day_of_year = if month <= 2 {
            day_of_march_year - 306 + 1
        } else {
            day_of_march_year + 59 + leap + 1
        };
        Self {
            unix,
            year,
            month,
            day: day_of_march_year - (153 * march_month + 2) / 5 + 1,
            day_of_year,
            weekday: (days + 4) % 7,
            hour: second_of_day / 3_600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }

    fn write(&self, field: char, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
            ..
        } = self;
        let month_name = MONTHS[(month - 1) as usize];
        let day_name = DAYS[self.weekday as usize];
        match field {
            'Y' => write!(out, "{year}"),
            'm' => write!(out, "{month:02}"),
            'd' => write!(out, "{day:02}"),
            'e' => write!(out, "{day:2}"),
            'H' => write!(out, "{hour:02}"),
            'I' => write!(out, "{:02}", (hour + 11) % 12 + 1),
            'M' => write!(out, "{minute:02}"),
            'S' => write!(out, "{second:02}"),
            'y' => write!(out, "{:02}", year % 100),
            'j' => write!(out, "{:03}", self.day_of_year),
            'p' => write!(out, "{}", if *hour < 12 { "AM" } else { "PM" }),
            'b' | 'h' => write!(out, "{}", &month_name[..3]),
            'B' => write!(out, "{month_name}"),
            'a' => write!(out, "{}", &day_name[..3]),
            'A' => write!(out, "{day_name}"),
            's' => write!(out, "{}", self.unix),
            'F' => write!(out, "{year}-{month:02}-{day:02}"),
            'T' => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            'D' => write!(out, "{month:02}/{day:02}/{:02}", year % 100),
            'R' => write!(out, "{hour:02}:{minute:02}"),
            'u' => write!(out, "{}", (self.weekday + 6) % 7 + 1),
            _ => write!(out, "{}", self.weekday),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(format: &str, seconds: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        assert!(TimeFormat::parse(format).expect("parses").write(time, &mut out));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn times_print_as_strftime_does() {
        let noon = 1_709_208_000; // 2024-02-29T12:00:00Z, a leap day and a Thursday
        let cases = [
            ("", noon, "2024-02-29T12:00:00.123Z"),
            ("%s.%3f", noon, "1709208000.123"),
            ("%Y/%m/%dT%H:%M:%S%z %s", noon, "2024/02/29T12:00:00+0000 1709208000"),
            (
                "%a %A %b %B %e %I%p %j %y",
                noon,
                "Thu Thursday Feb February 29 12PM 060 24",
            ),
            ("%f %1f %6f", noon, "123456789 1 123456"),
            ("%F %T %D %R%%", 0, "1970-01-01 00:00:00 01/01/70 00:00%"),
            ("%F %j", 1_735_603_200, "2024-12-31 366"),
            ("%F %j", 951_868_800, "2000-03-01 061"),
        ];
        for (format, seconds, expected) in cases {
            assert_eq!(at(format, seconds, 123_456_789), expected, "{format}");
        }
        for format in ["%", "%Q", "%E*", "%0f"] {
            assert!(TimeFormat::parse(format).is_err(), "{format}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_time_is_written(seconds in 0u64..20_000_000_000) {
            at("%F %j %a", seconds, 0);
        }
    }
}
