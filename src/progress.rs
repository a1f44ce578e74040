//! Owns the interface by which long work tells how far it is. Never prints: `cli` implements it.

/// What a stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Items,
}

/// Receives the stages of a piece of work. Shared between threads.
pub trait Progress: Send + Sync {
    /// A stage begins; `total` is how much there is to do, if that is known.
    fn stage(&self, name: &str, total: Option<u64>, unit: Unit) -> Box<dyn Stage>;

    /// A line for the user that is not a result, such as what is waited for.
    fn note(&self, _line: &str) {}
}

/// One stage under way. Dropping it without [`Stage::finish`] means that the stage failed.
pub trait Stage: Send + Sync {
    /// That much more is done.
    fn advance(&self, amount: u64);
    /// What is being worked on just now.
    fn message(&self, text: &str);
    /// The stage is done; `summary` is one line for the user, such as `143 packages, 61 MiB`.
    fn finish(self: Box<Self>, summary: &str);
}

/// Tells nobody anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn stage(&self, _name: &str, _total: Option<u64>, _unit: Unit) -> Box<dyn Stage> {
        Box::new(NoProgress)
    }
}

impl Stage for NoProgress {
    fn advance(&self, _amount: u64) {}
    fn message(&self, _text: &str) {}
    fn finish(self: Box<Self>, _summary: &str) {}
}
