//! When a request is made again, and after how long.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use ureq::Body;
use ureq::http::{Response, StatusCode};

/// How often a request is made before its failure is final.
pub const ATTEMPTS: u32 = 4;
/// The longest that a registry can make us wait between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether the same request may be answered otherwise a little later.
pub fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Longer each time, and never the same: clients that failed together shall not come back together.
pub fn backoff(attempt: u32) -> Duration {
    let base = 200_u64 << attempt.min(6);
    let random = RandomState::new().build_hasher().finish();
    Duration::from_millis(base / 2 + random % base)
}

/// The pause that a registry asks for, as seconds or as a date (RFC 9110, "Retry-After").
pub fn asked_for(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().ok()?;
    Some(pause(value.trim(), jiff::Timestamp::now())?.min(LONGEST_PAUSE))
}

fn pause(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = value.strip_suffix("GMT").map(|rest| format!("{rest}+0000"))?;
    let then = jiff::fmt::rfc2822::parse(&date).ok()?.timestamp();
    Some(Duration::try_from(then.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        for (value, expected) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("Sun, 01 Mar 2026 12:00:30 GMT", Some(30)),
            ("Sun, 01 Mar 2026 11:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(pause(value, now).map(|pause| pause.as_secs()), expected, "{value}");
        }
    }

    #[test]
    fn pauses_grow_and_differ() {
        let times: Vec<Duration> = (0..20).map(|_| backoff(3)).collect();
        assert!(times.iter().all(|time| (800..2400).contains(&(time.as_millis() as u64))), "{times:?}");
        assert!(times.iter().any(|time| *time != times[0]));
        assert!(backoff(100) < Duration::from_secs(20));
    }
}
