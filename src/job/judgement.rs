//! Owns what a run says about a change that is hunted by bisecting: good, bad, or nothing.
//! Never decides what a run's own verdict is: see [`Report::verdict`].

use std::str::FromStr;

use super::result::{Case, Outcome, Report, Suite, Verdict};
use crate::board::FailureClass;
use crate::error::{Class, Fault};
use crate::recipe::{nearest, suggestion};

/// Which result decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criterion {
    /// The cases that decide; the whole run otherwise.
    pub case: Option<CaseName>,
    /// Whether a boot that fails once the kernel has started is bad, and not a failure of the board.
    pub boot: bool,
}

/// A case as a user names it: `SUITE/CASE`, where the suite may lack its number and the case its test set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseName {
    pub suite: String,
    pub case: String,
}

/// What a run says about what it tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Good,
    /// With the reason, as the other two.
    Bad(String),
    /// It could not be tested: board, network or host failed, or nothing decided.
    Untestable(String),
    /// It makes no sense to go on: the command has a mistake, or the user stopped the run.
    Stop(String, StopReason),
}

/// Why a bisection has to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Mistake,
    Cancelled,
    Bug,
}

impl StopReason {
    /// Above 127, where `git bisect run` stops: 129, 130 as a shell has it for Ctrl-C, 198.
    pub const fn exit_code(self) -> u8 {
        match self {
            StopReason::Mistake => 129,
            StopReason::Cancelled => 130,
            StopReason::Bug => 128 + Class::Internal.exit_code(),
        }
    }

    /// Whose fault it is, for a command that is no step of a bisection.
    pub const fn class(self) -> Class {
        match self {
            StopReason::Mistake => Class::Input,
            StopReason::Cancelled => Class::Infrastructure,
            StopReason::Bug => Class::Internal,
        }
    }

    /// The reason of a process that ended with this code, if that is above 127.
    pub fn of_exit_code(code: i32) -> Option<StopReason> {
        match code {
            129 => Some(StopReason::Mistake),
            198 => Some(StopReason::Bug),
            128.. => Some(StopReason::Cancelled),
            _ => None,
        }
    }
}

impl Judgement {
    /// What `git bisect run` expects (git-bisect(1), "Bisect run").
    pub const fn exit_code(&self) -> u8 {
        match self {
            Judgement::Good => 0,
            Judgement::Bad(_) => 1,
            Judgement::Untestable(_) => 125,
            Judgement::Stop(_, reason) => reason.exit_code(),
        }
    }

    /// The judgement over a command that came to no report.
    pub fn of_error(class: Class, message: String) -> Judgement {
        match class {
            Class::Tests => Judgement::Bad(message),
            Class::Host | Class::Infrastructure => Judgement::Untestable(message),
            Class::Input => Judgement::Stop(message, StopReason::Mistake),
            Class::Internal => Judgement::Stop(message, StopReason::Bug),
        }
    }

    /// `good`, `bad: REASON`, ….
    pub fn sentence(&self) -> String {
        match self {
            Judgement::Good => "good".into(),
            Judgement::Bad(why) => format!("bad: {why}"),
            Judgement::Untestable(why) => format!("cannot be tested: {why}"),
            Judgement::Stop(why, _) => format!("stopped: {why}"),
        }
    }
}

impl FromStr for CaseName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((suite, case)) if !suite.is_empty() && !case.is_empty() => Ok(CaseName {
                suite: suite.into(),
                case: case.into(),
            }),
            _ => Err("a case is named SUITE/CASE".into()),
        }
    }
}

impl CaseName {
    fn names_suite(&self, suite: &str) -> bool {
        suite == self.suite || without_number(suite) == self.suite
    }

    fn names_case(&self, case: &Case) -> bool {
        case.id == self.case || case.full_name() == self.case
    }
}

/// `0_smoke` as its definition names it.
pub(super) fn without_number(suite: &str) -> &str {
    match suite.split_once('_') {
        Some((number, name)) if number.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => suite,
    }
}

impl Criterion {
    /// Whether these suites can decide at all.
    ///
    /// # Errors
    /// If the case is of none of them.
    pub fn check(&self, suites: &[String]) -> Result<(), Fault> {
        let Some(name) = &self.case else {
            return Ok(());
        };
        if suites.iter().any(|suite| name.names_suite(suite)) {
            return Ok(());
        }
        let known: Vec<&str> = suites.iter().map(|suite| without_number(suite)).collect();
        let sentence = format!(
            "the case {}/{} is to decide, but no definition here is named `{}`",
            name.suite, name.case, name.suite
        );
        Err(Fault::input(sentence).remedy(suggestion(&name.suite, &known)))
    }

    /// What a run says.
    pub fn judge(&self, report: &Report) -> Judgement {
        if let Some(failure) = report.failure()
            && failure.class == FailureClass::Cancelled
        {
            return Judgement::Stop(failure.message.clone(), StopReason::Cancelled);
        }
        if let Some(name) = &self.case
            && let Some(judgement) = by_case(name, report)
        {
            return judgement;
        }
        if let Some(failure) = report.failure()
            && failure.class != FailureClass::Test
        {
            let why = format!("{} in {}", failure.message, failure.stage);
            if self.boot && failure.class == FailureClass::Infrastructure && booted(&failure.stage)
            {
                return Judgement::Bad(why);
            }
            return Judgement::of_error(failure.class.exit_class(), why);
        }
        match &self.case {
            Some(name) => Judgement::Untestable(missing(name, report)),
            None => by_verdict(report),
        }
    }
}

/// Whether a stage of the boot is one in which the kernel runs.
fn booted(stage: &str) -> bool {
    ["kernel", "userspace", "checked-in", "running"].contains(&stage)
}

/// What the cases of that name say, if any has come to a result; a failed one counts more than others.
fn by_case(name: &CaseName, report: &Report) -> Option<Judgement> {
    let cases: Vec<(&Suite, &Case)> = report
        .suites
        .iter()
        .filter(|suite| name.names_suite(&suite.name))
        .flat_map(|suite| suite.cases.iter().map(move |case| (suite, case)))
        .filter(|(_, case)| name.names_case(case))
        .collect();
    let with = |outcome| cases.iter().find(|(_, case)| case.outcome == outcome);
    let told =
        |(suite, case): &(&Suite, &Case), how| format!("{}/{} {how}", suite.name, case.full_name());
    if let Some(found) = with(Outcome::Fail) {
        return Some(Judgement::Bad(told(found, "failed")));
    }
    if let Some(found) = with(Outcome::Unknown) {
        return Some(Judgement::Bad(told(found, "has an unknown result")));
    }
    if with(Outcome::Pass).is_some() {
        return Some(Judgement::Good);
    }
    let skipped = with(Outcome::Skip)?;
    Some(Judgement::Untestable(told(skipped, "was skipped")))
}

fn missing(name: &CaseName, report: &Report) -> String {
    let suites = report.suites.iter();
    let cases: Vec<&Case> = suites
        .filter(|suite| name.names_suite(&suite.name))
        .flat_map(|suite| &suite.cases)
        .collect();
    let mut names: Vec<String> = cases.iter().map(|case| case.full_name()).collect();
    names.extend(cases.iter().map(|case| case.id.clone()));
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = match nearest(&name.case, known.iter().copied()) {
        Some(_) => suggestion(&name.case, &known),
        None => format!("{} others did", cases.len()),
    };
    format!(
        "the case {}/{} came to no result ({hint})",
        name.suite, name.case
    )
}

fn by_verdict(report: &Report) -> Judgement {
    let Verdict::Failed(_) = report.verdict() else {
        return Judgement::Good;
    };
    let failed: Vec<String> = report
        .suites
        .iter()
        .flat_map(|suite| suite.cases.iter().map(move |case| (suite, case)))
        .filter(|(_, case)| matches!(case.outcome, Outcome::Fail | Outcome::Unknown))
        .map(|(suite, case)| format!("{}/{}", suite.name, case.full_name()))
        .collect();
    Judgement::Bad(match (&failed[..], report.failure()) {
        (_, Some(failure)) => failure.message.clone(),
        ([], None) => "a definition did not run as it should".into(),
        ([one], None) => format!("{one} did not pass"),
        ([first, rest @ ..], None) => format!("{first} and {} others did not pass", rest.len()),
    })
}

#[cfg(test)]
mod tests;
