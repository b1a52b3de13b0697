//! Times in formats: strftime's specifiers, with Envoy's for fractions of a second. In UTC, or in the zone that the process runs in.

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

    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
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
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Field('Z') => out.extend_from_slice(zone.as_deref().unwrap_or("UTC").as_bytes()),
                Part::Field('z') => {
                    let minutes = u64::from(offset.unsigned_abs() / 60);
                    out.push(if offset < 0 { b'-' } else { b'+' });
                    padded(out, minutes / 60, 2);
                    padded(out, minutes % 60, 2);
                }
                Part::Field(field) => civil.write(*field, out),
                Part::Fraction(digits) => padded(out, u64::from(fraction(*digits)), *digits),
                Part::SecondsFraction(digits) => {
                    padded(out, civil.second, 2);
                    out.push(b'.');
                    padded(out, u64::from(fraction(*digits)), *digits);
                }
            }
        }
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

    fn write(&self, field: char, out: &mut Vec<u8>) {
        let month_name = MONTHS[(self.month - 1) as usize];
        let day_name = DAYS[self.weekday as usize];
        let half = if self.hour < 12 { "AM" } else { "PM" };
        match field {
            'Y' => padded(out, self.year, 1),
            'm' => padded(out, self.month, 2),
            'd' => padded(out, self.day, 2),
            'e' if self.day < 10 => out.extend_from_slice(&[b' ', b'0' + self.day as u8]),
            'e' => padded(out, self.day, 2),
            'H' => padded(out, self.hour, 2),
            'I' => padded(out, (self.hour + 11) % 12 + 1, 2),
            'M' => padded(out, self.minute, 2),
            'S' => padded(out, self.second, 2),
            'y' => padded(out, self.year % 100, 2),
            'j' => padded(out, self.day_of_year, 3),
            'p' => out.extend_from_slice(half.as_bytes()),
            'b' | 'h' => out.extend_from_slice(&month_name.as_bytes()[..3]),
            'B' => out.extend_from_slice(month_name.as_bytes()),
            'a' => out.extend_from_slice(&day_name.as_bytes()[..3]),
            'A' => out.extend_from_slice(day_name.as_bytes()),
            's' => padded(out, self.unix, 1),
            'F' => self.join(b'-', "Ymd", out),
            'T' => self.join(b':', "HMS", out),
            'D' => self.join(b'/', "mdy", out),
            'R' => self.join(b':', "HM", out),
            'u' => padded(out, (self.weekday + 6) % 7 + 1, 1),
            _ => padded(out, self.weekday, 1),
        }
    }

    fn join(&self, separator: u8, fields: &str, out: &mut Vec<u8>) {
        for (index, field) in fields.chars().enumerate() {
            if index > 0 {
                out.push(separator);
            }
            self.write(field, out);
        }
    }
}

/// A number of at least `width` digits; a line has half a dozen of them, and `write!` costs more than all the rest of it.
fn padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(format: &str, seconds: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        TimeFormat::parse(format).expect("parses").write(time, &mut out);
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
