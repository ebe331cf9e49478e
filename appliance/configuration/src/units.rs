//! Quantities with units, as people write them: `"4d12h"`, `"10MiB"`, `"100/1m"`.
//!
//! A number without its unit is refused, so that nobody has to know whether a
//! time-out counts seconds or milliseconds. What is printed can be read back.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest text that is looked at; longer ones are refused unread.
const LONGEST_TEXT: usize = 64;

/// Why a text is not a quantity, with an example of one that is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; expected {expected}")]
pub struct UnitError {
    /// What is wrong with the text.
    pub problem: String,
    /// What would have been right, with an example.
    pub expected: &'static str,
}

/// A length of time in whole microseconds, at most ten years when read from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(u64);

/// Units of time, largest first, in microseconds.
const TIME_UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest that a text may say: 3650 days.
    pub const LONGEST: Self = Self(3650 * 86_400_000_000);
    const EXPECTED: &'static str =
        "a duration with units, largest first, such as \"4d12h\", \"90m\", \"30s\" or \"500ms\"";

    /// So many seconds; saturates far beyond any use.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// So many milliseconds; saturates far beyond any use.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds.saturating_mul(1_000))
    }

    /// So many microseconds.
    pub const fn from_micros(microseconds: u64) -> Self {
        Self(microseconds)
    }

    /// The same length as the standard library has it.
    pub const fn as_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0)
    }

    /// Whole seconds, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// Microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whether no time is meant.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.as_std()
    }
}

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let fail = |problem: String| UnitError { problem, expected: Self::EXPECTED };
        check_length(text, Self::EXPECTED)?;
        if text.is_empty() {
            return Err(fail("the duration is empty".to_owned()));
        }
        let mut total: u64 = 0;
        let mut smallest_so_far: Option<usize> = None;
        let mut rest = text;
        while !rest.is_empty() {
            let (digits, after) = split_at_first(rest, |c| !c.is_ascii_digit());
            let (unit, after) = split_at_first(after, |c| c.is_ascii_digit());
            if digits.is_empty() {
                return Err(fail(format!("\"{}\" has no number before \"{}\"", shown(text), shown(unit))));
            }
            if unit.is_empty() {
                return Err(fail(format!("\"{}\" has a number without a unit", shown(text))));
            }
            let Some(position) = TIME_UNITS.iter().position(|(name, _)| *name == unit) else {
                return Err(fail(format!("\"{}\" is not a unit of time (d, h, m, s, ms, us)", shown(unit))));
            };
            match smallest_so_far {
                Some(previous) if previous == position => {
                    return Err(fail(format!("\"{}\" says \"{unit}\" twice", shown(text))));
                }
                Some(previous) if previous > position => {
                    let smaller = TIME_UNITS[previous].0;
                    return Err(fail(format!("\"{}\" has \"{unit}\" after \"{smaller}\"", shown(text))));
                }
                _ => smallest_so_far = Some(position),
            }
            total = digits
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(TIME_UNITS[position].1))
                .and_then(|part| total.checked_add(part))
                .filter(|sum| *sum <= Self::LONGEST.0)
                .ok_or_else(|| fail(format!("\"{}\" is longer than 3650d, the longest duration", shown(text))))?;
            rest = after;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return out.write_str("0s");
        }
        let mut left = self.0;
        for (name, length) in TIME_UNITS {
            let number = left / length;
            if number > 0 {
                write!(out, "{number}{name}")?;
                left %= length;
            }
        }
        Ok(())
    }
}

/// A number of octets, at most 1 PiB when read from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

/// Units of size, largest first; the binary ones come before the decimal ones of the same step.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// The largest that a text may say: 1024 TiB.
    pub const LARGEST: Self = Self(1 << 50);
    const EXPECTED: &'static str = "a size with its unit, such as \"10MiB\", \"64KiB\", \"10MB\" or \"500B\"";

    /// So many octets.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many units of 1024 octets.
    pub const fn kibibytes(number: u64) -> Self {
        Self(number.saturating_mul(1 << 10))
    }

    /// So many units of 1024² octets.
    pub const fn mebibytes(number: u64) -> Self {
        Self(number.saturating_mul(1 << 20))
    }

    /// Octets.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let fail = |problem: String| UnitError { problem, expected: Self::EXPECTED };
        check_length(text, Self::EXPECTED)?;
        let (digits, unit) = split_at_first(text, |c| !c.is_ascii_digit());
        if digits.is_empty() {
            return Err(fail(format!("\"{}\" does not begin with a whole number", shown(text))));
        }
        if unit.is_empty() {
            return Err(fail(format!("\"{}\" has no unit", shown(text))));
        }
        // Case is free but for one thing: nobody means bits, so "kb" is KB.
        let Some((_, length)) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
            return Err(fail(format!(
                "\"{}\" is not a unit of size (B, KiB, MiB, GiB, TiB, KB, MB, GB, TB)",
                shown(unit)
            )));
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*length))
            .filter(|bytes| *bytes <= Self::LARGEST.0)
            .map(Self)
            .ok_or_else(|| fail(format!("\"{}\" is more than 1024TiB, the largest size", shown(text))))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, length): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*length);
        let binary = SIZE_UNITS.iter().filter(|(name, _)| name.ends_with("iB")).find(fits);
        let any = SIZE_UNITS.iter().find(fits);
        match binary.or(any) {
            Some((name, length)) => write!(out, "{}{name}", self.0 / length),
            None => out.write_str("0B"),
        }
    }
}

/// So many in any stretch of that length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many, 1 or more.
    pub count: u32,
    /// Length of the stretch, 1 s to 24 h.
    pub per: Duration,
}

impl Rate {
    const EXPECTED: &'static str =
        "a rate, COUNT/LENGTH, such as \"100/1m\", \"20/10s\", \"5/s\" or \"1000/h\", with a length of 1s to 24h";
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(24 * 3600);

    /// A rate; `None` when the count is 0 or the length is not 1 s to 24 h.
    pub const fn new(count: u32, per: Duration) -> Option<Self> {
        if count == 0 || per.0 < Self::SHORTEST.0 || per.0 > Self::LONGEST.0 {
            return None;
        }
        Some(Self { count, per })
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let fail = |problem: String| UnitError { problem, expected: Self::EXPECTED };
        check_length(text, Self::EXPECTED)?;
        let Some((count, length)) = text.split_once('/') else {
            return Err(fail(format!("\"{}\" has no \"/\"", shown(text))));
        };
        if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fail(format!("\"{}\" is not a whole number", shown(count))));
        }
        let Ok(count) = count.parse::<u32>() else {
            return Err(fail(format!("\"{}\" is more than {}", shown(count), u32::MAX)));
        };
        if count == 0 {
            return Err(fail("a rate of 0 would stop everything".to_owned()));
        }
        let per = match TIME_UNITS.iter().find(|(name, _)| *name == length) {
            Some((_, one)) => Duration(*one),
            None => length.parse::<Duration>().map_err(|error| fail(error.problem))?,
        };
        Self::new(count, per).ok_or_else(|| fail(format!("a stretch of {per} is not 1s to 24h")))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.count, self.per)
    }
}

/// Splits before the first character that `is_end`; the second part is empty when there is none.
fn split_at_first(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

fn check_length(text: &str, expected: &'static str) -> Result<(), UnitError> {
    if text.len() > LONGEST_TEXT {
        return Err(UnitError { problem: format!("the text is {} octets long", text.len()), expected });
    }
    Ok(())
}

/// A text as an error may show it: no control characters.
fn shown(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}

macro_rules! as_text {
    ($name:ident, $pattern:literal, $description:literal, $suggest:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TextVisitor;
                impl Visitor<'_> for TextVisitor {
                    type Value = $name;

                    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                        out.write_str($name::EXPECTED)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        let suggest: fn(i64) -> String = $suggest;
                        Err(E::custom(format_args!(
                            "{number} has no unit; expected {}: did you mean {}?",
                            $name::EXPECTED,
                            suggest(number)
                        )))
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
                    }
                }
                deserializer.deserialize_any(TextVisitor)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_id() -> Cow<'static, str> {
                concat!(module_path!(), "::", stringify!($name)).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}

as_text!(
    Duration,
    "^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?([0-9]+us)?$",
    "A length of time: whole numbers with units d, h, m, s, ms, us, largest first, each at most once; at most 3650d. `\"4d12h\"`, `\"90m\"`, `\"500ms\"`.",
    |number| format!("\"{number}s\"")
);
as_text!(
    ByteSize,
    "^[0-9]+([KkMmGgTt][Ii]?)?[Bb]$",
    "A size: a whole number with its unit, B, KiB, MiB, GiB, TiB (steps of 1024) or KB, MB, GB, TB (steps of 1000). `\"10MiB\"`, `\"64KiB\"`.",
    |number| format!("\"{number}B\"")
);
as_text!(
    Rate,
    "^[0-9]+/((d|h|m|s)|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?([0-9]+us)?)$",
    "A rate: so many in any stretch of that length, which is 1s to 24h. `\"100/1m\"`, `\"20/10s\"`, `\"5/s\"`, `\"1000/h\"`.",
    |number| format!("\"{number}/1s\" or \"{number}/1m\"")
);

#[cfg(test)]
mod tests;
