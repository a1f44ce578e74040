//! Owns what the end of a run means for its job: done, once more on another board, or back into the queue.
//! Never touches the store.

use super::model::{JobHealth, Kind};
use crate::board::FailureClass;

/// How often a job that failed by the infrastructure is given to another board.
const RETRIES: usize = 2;
/// How often a run may be lost with the lab before its job is given up.
const LOSSES: usize = 5;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Nothing where all tests passed.
    pub class: Option<FailureClass>,
    pub stage: Option<String>,
    pub message: Option<String>,
    /// The exit code that `hearth test` would have ended with.
    pub exit: u8,
    pub image: Option<String>,
    /// Whether the run was lost with the lab or ended with it, which is neither the board's nor the job's fault.
    pub lost: bool,
}

/// What comes next for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Finished(JobHealth),
    /// It waits again.
    Again,
}

/// `earlier`: the outcomes of the job's attempts before this one, as the store has them. `cancel`: whether the
/// job is to be cancelled.
pub fn next(outcome: &Outcome, kind: Kind, earlier: &[String], cancel: bool) -> Next {
    let health = match outcome.class {
        _ if outcome.lost => JobHealth::Incomplete,
        None | Some(FailureClass::Test) => JobHealth::Complete,
        Some(FailureClass::Cancelled) => JobHealth::Canceled,
        Some(_) => JobHealth::Incomplete,
    };
    if health == JobHealth::Complete {
        return Next::Finished(health);
    }
    if cancel {
        return Next::Finished(JobHealth::Canceled);
    }
    let count = |what: &str| earlier.iter().filter(|it| *it == what).count();
    let again = match outcome.class {
        // Ended by the lab itself, which was told to stop: nobody cancelled the job.
        _ if outcome.lost => count(LOST) < LOSSES,
        Some(FailureClass::Cancelled) => count("cancelled") < LOSSES,
        Some(FailureClass::Infrastructure) => {
            kind == Kind::Test && count("infrastructure") < RETRIES
        }
        _ => false,
    };
    match again {
        true => Next::Again,
        false => Next::Finished(health),
    }
}

/// How the store calls the outcome of a run that was lost.
const LOST: &str = "lost";

impl Outcome {
    /// As the store has it.
    pub fn name(&self) -> &'static str {
        match self.class {
            _ if self.lost => LOST,
            None => "passed",
            Some(class) => class.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(class: Option<FailureClass>) -> Outcome {
        Outcome {
            class,
            stage: None,
            message: None,
            exit: 0,
            image: None,
            lost: false,
        }
    }

    #[test]
    fn only_what_is_no_fault_of_the_job_is_tried_again_and_not_for_ever() {
        let say = |class, earlier: &[&str], cancel| {
            let earlier: Vec<String> = earlier.iter().map(|it| it.to_string()).collect();
            next(&outcome(class), Kind::Test, &earlier, cancel)
        };
        let infrastructure = Some(FailureClass::Infrastructure);
        assert_eq!(say(None, &[], false), Next::Finished(JobHealth::Complete));
        assert_eq!(
            say(Some(FailureClass::Test), &[], false),
            Next::Finished(JobHealth::Complete)
        );
        assert_eq!(say(infrastructure, &[], false), Next::Again);
        assert_eq!(
            say(infrastructure, &["lost", "infrastructure"], false),
            Next::Again
        );
        assert_eq!(
            say(infrastructure, &["infrastructure", "infrastructure"], false),
            Next::Finished(JobHealth::Incomplete)
        );
        for class in [
            FailureClass::Bug,
            FailureClass::Configuration,
            FailureClass::Job,
        ] {
            assert_eq!(
                say(Some(class), &[], false),
                Next::Finished(JobHealth::Incomplete)
            );
        }
        // A run that passed before the cancellation came is what it is.
        assert_eq!(say(None, &[], true), Next::Finished(JobHealth::Complete));
        assert_eq!(
            say(infrastructure, &[], true),
            Next::Finished(JobHealth::Canceled)
        );
        assert_eq!(
            say(Some(FailureClass::Cancelled), &[], true),
            Next::Finished(JobHealth::Canceled)
        );
        assert_eq!(say(Some(FailureClass::Cancelled), &[], false), Next::Again);
    }

    #[test]
    fn a_health_check_is_no_other_boards_business() {
        let failed = outcome(Some(FailureClass::Infrastructure));
        assert_eq!(
            next(&failed, Kind::Health, &[], false),
            Next::Finished(JobHealth::Incomplete)
        );
        let lost = Outcome {
            lost: true,
            ..outcome(None)
        };
        assert_eq!(next(&lost, Kind::Health, &[], false), Next::Again);
        let five = vec!["lost".to_string(); 5];
        assert_eq!(
            next(&lost, Kind::Health, &five, false),
            Next::Finished(JobHealth::Incomplete)
        );
    }
}
