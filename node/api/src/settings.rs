//! What can be turned while the store runs: write quorum, simulated delay, write timeout.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{SignedDuration, fmt::friendly::Spacing, fmt::friendly::SpanPrinter};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Number of follower acknowledgements a write waits for, the leader's own copy not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteQuorum(pub u8);

impl fmt::Display for WriteQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: write a number with a unit (ns, us, ms, s, m, h), such as 10ms or 1.5s")]
pub struct DurationError {
    text: String,
}

/// Parses `10ms`, `1.5s`, `1m30s`, or `0`; the notation of Go and Kubernetes.
///
/// # Errors
/// Text that is no such notation, a bare number other than zero, and negative durations.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let refused = || DurationError { text: text.to_owned() };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    // jiff also reads ISO 8601, words ("1 hour") and signs; those would not pass the CRD's pattern.
    let plain = text.chars().all(|c| c.is_ascii_digit() || ".nuµmsh".contains(c));
    if !plain || !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(refused());
    }
    let parsed = SignedDuration::from_str(text).map_err(|_| refused())?;
    Duration::try_from(parsed).map_err(|_| refused())
}

/// Prints a duration in the notation that [`parse_duration`] and the resource definition read, without spaces and in
/// ASCII: `10ms`, `1s500ms`, `500us`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let printer = SpanPrinter::new().spacing(Spacing::None);
    let text = SignedDuration::try_from(duration).map(|signed| printer.duration_to_string(&signed));
    text.map_or_else(|_| "0s".to_owned(), |text| text.replace('µ', "u"))
}

fn serialize_duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_duration(*duration))
}

fn deserialize_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

/// Simulated replication round trip, drawn uniformly from `[min, max]` per write and follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// Shortest round trip.
    #[serde(serialize_with = "serialize_duration", deserialize_with = "deserialize_duration")]
    pub min: Duration,
    /// Longest round trip.
    #[serde(serialize_with = "serialize_duration", deserialize_with = "deserialize_duration")]
    pub max: Duration,
}

impl Delay {
    /// No simulated delay: the only round trip is the real one.
    pub const ZERO: Self = Self { min: Duration::ZERO, max: Duration::ZERO };

    /// Whether nothing is simulated.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.max.is_zero()
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", format_duration(self.min), format_duration(self.max))
    }
}

/// The settings in force. They travel in the log, so that a recovery knows which quorum it has to respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Follower acknowledgements per write.
    pub write_quorum: WriteQuorum,
    /// Simulated replication round trip.
    pub delay: Delay,
    /// How long a write waits for its quorum before it answers "Quorum not reached".
    #[serde(serialize_with = "serialize_duration", deserialize_with = "deserialize_duration")]
    pub write_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { write_quorum: WriteQuorum(3), delay: Delay::ZERO, write_timeout: Duration::from_secs(5) }
    }
}

/// Why settings are refused. Each message says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// The quorum is zero or above the number of followers.
    #[error(
        "writeQuorum {quorum} is outside 1..{followers}: a write can wait for at most every follower and at least one"
    )]
    Quorum {
        /// What was asked for.
        quorum: u8,
        /// How many followers there are.
        followers: usize,
    },
    /// The range is empty.
    #[error("delay.min {} is above delay.max {}", format_duration(*.min), format_duration(*.max))]
    DelayRange {
        /// Asked-for minimum.
        min: Duration,
        /// Asked-for maximum.
        max: Duration,
    },
    /// No write could ever finish in time.
    #[error("delay.max {} must be below writeTimeout {}, or no write can be confirmed in time", format_duration(*.max), format_duration(*.timeout))]
    DelayAboveTimeout {
        /// Asked-for maximum delay.
        max: Duration,
        /// Asked-for timeout.
        timeout: Duration,
    },
    /// The timeout is zero.
    #[error("writeTimeout must be above zero")]
    Timeout,
}

impl Settings {
    /// Checks these settings for a store with so many followers.
    ///
    /// # Errors
    /// See [`InvalidSettings`].
    pub fn validate(&self, followers: usize) -> Result<(), InvalidSettings> {
        let Self { write_quorum, delay, write_timeout } = *self;
        if write_quorum.0 == 0 || usize::from(write_quorum.0) > followers {
            return Err(InvalidSettings::Quorum { quorum: write_quorum.0, followers });
        }
        if delay.min > delay.max {
            return Err(InvalidSettings::DelayRange { min: delay.min, max: delay.max });
        }
        if write_timeout.is_zero() {
            return Err(InvalidSettings::Timeout);
        }
        if delay.max >= write_timeout {
            return Err(InvalidSettings::DelayAboveTimeout { max: delay.max, timeout: write_timeout });
        }
        Ok(())
    }
}

/// A change of some settings; what is absent stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettingsPatch {
    /// New write quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_quorum: Option<WriteQuorum>,
    /// New simulated delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// New write timeout, as text such as `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_duration")]
    pub write_timeout: Option<Duration>,
}

impl SettingsPatch {
    /// The settings that result when this patch is laid over `base`.
    #[must_use]
    pub fn over(&self, base: Settings) -> Settings {
        Settings {
            write_quorum: self.write_quorum.unwrap_or(base.write_quorum),
            delay: self.delay.unwrap_or(base.delay),
            write_timeout: self.write_timeout.unwrap_or(base.write_timeout),
        }
    }
}

impl From<Settings> for SettingsPatch {
    fn from(settings: Settings) -> Self {
        let Settings { write_quorum, delay, write_timeout } = settings;
        Self { write_quorum: Some(write_quorum), delay: Some(delay), write_timeout: Some(write_timeout) }
    }
}

mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize_duration(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| super::parse_duration(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("10ms", 10_000_000)]
    #[case("0", 0)]
    #[case("0ms", 0)]
    #[case("1.5s", 1_500_000_000)]
    #[case("1m30s", 90_000_000_000)]
    #[case("250us", 250_000)]
    fn durations_read_like_kubernetes_writes_them(#[case] text: &str, #[case] nanos: u64) {
        assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)));
    }

    #[rstest]
    #[case("")]
    #[case("10")]
    #[case("-5ms")]
    #[case("soon")]
    #[case("PT5S")]
    #[case("5 s")]
    #[case("ms")]
    fn garbage_is_no_duration(#[case] text: &str) {
        let error = parse_duration(text).expect_err("refused");
        assert!(error.to_string().contains("such as 10ms"), "{error}");
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(nanos in 0_u64..10_000_000_000_000) {
            let duration = Duration::from_nanos(nanos);
            let text = format_duration(duration);
            prop_assert!(text.is_ascii(), "{text}: the resource definition knows no other letters");
            prop_assert_eq!(parse_duration(&text), Ok(duration));
        }
    }

    #[test]
    fn invalid_settings_say_what_to_change() {
        let base = Settings::default();
        let quorum = Settings { write_quorum: WriteQuorum(6), ..base };
        assert!(quorum.validate(5).expect_err("six of five").to_string().contains("1..5"));
        let delay = Delay { min: Duration::from_millis(9), max: Duration::from_millis(3) };
        assert!(
            Settings { delay, ..base }
                .validate(5)
                .expect_err("empty range")
                .to_string()
                .contains("above delay.max 3ms")
        );
        let delay = Delay { min: Duration::ZERO, max: Duration::from_secs(5) };
        assert!(
            Settings { delay, ..base }.validate(5).expect_err("too slow").to_string().contains("below writeTimeout 5s")
        );
    }

    #[test]
    fn a_patch_leaves_what_it_does_not_name() {
        let patch: SettingsPatch = serde_json::from_str(r#"{"writeQuorum":5}"#).expect("valid");
        let result = patch.over(Settings::default());
        assert_eq!(result, Settings { write_quorum: WriteQuorum(5), ..Settings::default() });
        assert!(
            serde_json::from_str::<SettingsPatch>(r#"{"writeQorum":5}"#).is_err(),
            "a typo is not silently nothing"
        );
    }
}
