//! Owns how the lab learns what a run came to: from the report it left, or from the file that says why there is none.
//! Never judges it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::board::FailureClass;
use crate::job::{Report, Verdict, report};
use crate::lab::queue::Outcome;

/// The name of [`End`]'s file in the directory of an attempt.
pub const END: &str = "end.json";

/// What a run says at its end; written last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Where the report is: the attempt's directory, unless its disk was full.
    pub report: Option<PathBuf>,
    /// Why there is none.
    pub class: Option<FailureClass>,
    pub message: Option<String>,
}

/// What the run in this directory came to.
pub(super) fn outcome(directory: &Path) -> Outcome {
    let end: Option<End> = fs::read_to_string(directory.join(END))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok());
    let place = end.as_ref().and_then(|end| end.report.clone());
    // A run that was killed after its report and before its end is whole.
    if let Ok(report) = report::load(place.as_deref().unwrap_or(directory)) {
        return reported(&report);
    }
    match end {
        Some(end) => failed(end),
        None => lost(),
    }
}

fn reported(report: &Report) -> Outcome {
    let class = match report.verdict() {
        Verdict::Passed => None,
        Verdict::Failed(class) => Some(class),
    };
    let failure = report.failure();
    Outcome {
        class,
        stage: failure.map(|failure| failure.stage.clone()),
        message: match failure {
            Some(failure) => Some(failure.message.clone()),
            None => class.map(|_| "tests failed".into()),
        },
        exit: class.map_or(0, |class| class.exit_class().exit_code()),
        image: Some(report.image.clone()),
        lost: false,
    }
}

fn failed(end: End) -> Outcome {
    let class = end.class.unwrap_or(FailureClass::Bug);
    Outcome {
        class: Some(class),
        stage: None,
        message: end.message,
        exit: class.exit_class().exit_code(),
        image: None,
        lost: false,
    }
}

fn lost() -> Outcome {
    Outcome {
        class: Some(FailureClass::Infrastructure),
        stage: None,
        message: Some(
            "its run ended without a result: the process was killed, or the host went down".into(),
        ),
        exit: FailureClass::Infrastructure.exit_class().exit_code(),
        image: None,
        lost: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_what_its_report_says_or_why_there_is_none_or_lost() {
        let dir = tempfile::tempdir().unwrap();
        assert!(outcome(dir.path()).lost);
        let end = End {
            report: None,
            class: Some(FailureClass::Configuration),
            message: Some("no such recipe".into()),
        };
        fs::write(dir.path().join(END), serde_json::to_string(&end).unwrap()).unwrap();
        let said = outcome(dir.path());
        assert_eq!((said.exit, said.lost), (2, false));
        // Torn by a full disk.
        fs::write(dir.path().join(END), "{\"report\": nu").unwrap();
        assert!(outcome(dir.path()).lost);
        let report = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/reports/everything.json");
        fs::copy(report, dir.path().join("report.json")).unwrap();
        let said = outcome(dir.path());
        assert!(!said.lost && said.class.is_some() && said.image.is_some());
    }
}
