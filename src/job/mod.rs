//! Owns tests: definitions, console signals, KTAP, results and reports.
//! Never switches power, and never talks to a board.

#[cfg(test)]
mod apt_tests;
mod collector;
mod definition;
mod dispatcher;
mod git;
pub mod inputs;
mod judgement;
pub mod kept;
mod ktap;
mod load;
mod merge;
mod parameter;
mod pattern;
mod payload;
mod python;
pub mod report;
mod result;
mod signal;
pub mod suites;
mod tap_line;
mod work_tree;
mod yaml;

pub use collector::Collector;
pub use definition::{Definition, Install, Repository, Warning, is_variable};
pub use git::Trust;
pub use judgement::{CaseName, Criterion, Judgement, StopReason};
pub use ktap::{Ktap, KtapCase};
pub use load::{Loaded, Loader};
pub use merge::{Merger, NumberedLine};
pub use pattern::Pattern;
pub use payload::{JobSettings, Parameter, Payload, payload};
pub use result::{AttemptRecord, Case, Identity, Outcome, Report, Suite, Verdict};
pub use signal::{BadSignal, CaseSignal, Parsed, Signal, has_signal, scan};
pub use work_tree::add_tree;
