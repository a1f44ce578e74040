//! Owns the words of the lab's queue, and who gets which board next. Pure values and functions.
//! Never reads the store or a clock.

mod health;
mod model;
mod outcome;
mod schedule;

pub use health::{After, BoardHealth, Due, Health, is_due};
pub use model::{
    AttemptInfo, Job, JobHealth, JobPhase, Kind, Lease, Priority, Submission, WaitingJob,
};
pub use outcome::{Next, Outcome, next};
pub use schedule::{BoardFact, Input, Plan, Standing, Start, explain, fits, plan};
