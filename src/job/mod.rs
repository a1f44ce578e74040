//! Owns tests: definitions, console signals, KTAP, results and reports.
//! Never switches power, and never talks to a board.

mod collector;
mod definition;
mod ktap;
mod merge;
mod pattern;
mod payload;
pub mod report;
mod result;
mod signal;
mod tap_line;

pub use collector::Collector;
pub use definition::{Definition, Install, Loaded, Warning};
pub use ktap::{Ktap, KtapCase};
pub use merge::{Merger, NumberedLine};
pub use pattern::Pattern;
pub use payload::{Payload, payload};
pub use result::{Attempt, Case, Identity, Outcome, Report, Suite, Verdict};
pub use signal::{BadSignal, CaseSignal, Parsed, Signal, has_signal, scan};
