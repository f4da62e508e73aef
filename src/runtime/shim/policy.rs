//! What the supervisor decides, as pure functions: when an ended container is started again, and what a check's result
//! makes of its health.

use std::time::Duration;

use crate::runtime::container::{Budget, Config, Health, HealthCheck, Restart};

/// A run at least this long counts as a success: the next pause is short again.
const GOOD_RUN: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long to pause before the next start, or `None` when there is none. `failures` counts starts in a row that
/// ended too early, before the last one; the pause is the one that is asked for, else docker's back-off: 100 ms, doubled each time, a minute
/// at most.
pub fn restart_after(config: &Config, code: i32, by_hand: bool, restarts: u32, failures: u32) -> Option<Duration> {
    let again = match &config.restart {
        Restart::No => false,
        Restart::Always | Restart::UnlessStopped => true,
        Restart::OnFailure { max_retries } => code != 0 && max_retries.is_none_or(|max| restarts < max),
    };
    let back_off = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    (again && !by_hand).then_some(config.restart_delay_ms.map_or(back_off, Duration::from_millis))
}

/// How many pauses there have been in a row, with the one that comes now, after a start that ran this long. After a good
/// run it is the first again.
pub fn failures_after(config: &Config, failures: u32, ran: Duration) -> u32 {
    let good = config.restart_window_ms.map_or(GOOD_RUN, Duration::from_millis);
    if ran >= good { 1 } else { failures + 1 }
}

/// What is known of a container's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthState {
    pub health: Health,
    /// Failed checks in a row.
    pub streak: u32,
}

/// After a check that passed or failed, `age` after the container's start. Failures during the start period do not
/// count until one check has passed.
pub fn health_after(state: HealthState, check: &HealthCheck, passed: bool, age: Duration) -> HealthState {
    let starting = state.health == Health::Starting && age < Duration::from_millis(check.start_period_ms);
    if passed {
        return HealthState { health: Health::Healthy, streak: 0 };
    }
    if starting {
        return state;
    }
    let streak = state.streak + 1;
    let health = if streak >= check.retries.max(1) { Health::Unhealthy } else { state.health };
    HealthState { health, streak }
}

/// The pause before the next check.
pub fn next_check(state: HealthState, check: &HealthCheck, age: Duration) -> Duration {
    let starting = state.health == Health::Starting && age < Duration::from_millis(check.start_period_ms);
    Duration::from_millis(if starting && check.start_interval_ms > 0 {
        check.start_interval_ms
    } else {
        check.interval_ms
    })
}

/// Takes one from what may still be done about a container that is unhealthy; `spent` are the moments that count.
pub fn spend(budget: Option<Budget>, spent: &mut Vec<u64>, now_ms: u64) -> bool {
    let Some(budget) = budget else { return true };
    spent.retain(|at| budget.within_ms.is_none_or(|within| at + within > now_ms));
    let allowed = spent.len() < budget.max as usize;
    if allowed {
        spent.push(now_ms);
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_dockers() {
        let on_failure = |max_retries| Restart::OnFailure { max_retries };
        for (policy, code, by_hand, restarts, again) in [
            (Restart::No, 1, false, 0, false),
            (Restart::Always, 0, false, 9, true),
            (Restart::Always, 0, true, 0, false),
            (Restart::UnlessStopped, 1, true, 0, false),
            (on_failure(None), 0, false, 0, false),
            (on_failure(None), 1, false, 99, true),
            (on_failure(Some(2)), 1, false, 1, true),
            (on_failure(Some(2)), 1, false, 2, false),
        ] {
            let config = Config { restart: policy, ..Config::default() };
            assert_eq!(restart_after(&config, code, by_hand, restarts, 0).is_some(), again, "{config:?} {code}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let config = Config { restart: Restart::Always, ..Config::default() };
        let pause = |failures| restart_after(&config, 1, false, 0, failures).unwrap().as_millis();
        assert_eq!([0, 1, 2, 9, 10, 40].map(pause), [100, 200, 400, 51_200, 60_000, 60_000]);
        assert_eq!(failures_after(&config, 5, Duration::from_secs(10)), 1);
        assert_eq!(failures_after(&config, 5, Duration::from_secs(1)), 6);
    }

    /// As docker has it: the pause after a good run is the first, and the one after that the second.
    #[test]
    fn a_good_run_begins_a_new_row() {
        let config = Config { restart: Restart::Always, ..Config::default() };
        let mut failures = 0;
        let mut pauses = Vec::new();
        for ran in [0, 1, 2, 10, 1, 9, 60, 3] {
            failures = failures_after(&config, failures, Duration::from_secs(ran));
            pauses.push(restart_after(&config, 1, false, 0, failures - 1).unwrap().as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 100, 200, 400, 100, 200]);
    }

    #[test]
    fn a_pause_and_a_window_that_are_asked_for_win() {
        let config = Config {
            restart: Restart::Always,
            restart_delay_ms: Some(5000),
            restart_window_ms: Some(500),
            ..Config::default()
        };
        assert_eq!(restart_after(&config, 1, false, 0, 9), Some(Duration::from_secs(5)));
        assert_eq!(failures_after(&config, 5, Duration::from_secs(1)), 1);
    }

    #[test]
    fn a_budget_is_of_a_time_and_comes_back() {
        let budget = Some(Budget { max: 2, within_ms: Some(1000) });
        let mut spent = Vec::new();
        let allowed = [0, 10, 20, 999, 1001, 1002].map(|now| spend(budget, &mut spent, now));
        assert_eq!(allowed, [true, true, false, false, true, false]);
        let (once, mut spent) = (Some(Budget { max: 1, within_ms: None }), Vec::new());
        assert_eq!([0, u64::MAX].map(|now| spend(once, &mut spent, now)), [true, false]);
        assert!(spend(None, &mut vec![1; 9], 2));
    }

    #[test]
    fn failures_count_after_the_start_period() {
        let check = HealthCheck { retries: 2, start_period_ms: 1000, ..HealthCheck::default() };
        let start = HealthState { health: Health::Starting, streak: 0 };
        let early = health_after(start, &check, false, Duration::from_millis(500));
        assert_eq!(early, start);
        let once = health_after(early, &check, false, Duration::from_millis(1500));
        assert_eq!((once.health, once.streak), (Health::Starting, 1));
        let twice = health_after(once, &check, false, Duration::from_millis(1600));
        assert_eq!(twice.health, Health::Unhealthy);
        assert_eq!(health_after(twice, &check, true, Duration::from_secs(9)).health, Health::Healthy);
    }
}
