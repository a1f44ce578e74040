//! Owns the type of a step: a piece of hearth's own work that a child process does inside the namespaces.
//! Never starts a process.

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::progress::Progress;

/// A step with the types of its input and output, which cross the process boundary as JSON. Steps are declared by
/// `steps!` only, so that none is missing in its module's list.
pub struct Step<I, O> {
    pub(super) name: &'static str,
    run: fn(I, &dyn Progress) -> Result<O>,
}

impl<I, O> Step<I, O> {
    /// For `steps!`. `name` is unique in hearth.
    pub const fn new(name: &'static str, run: fn(I, &dyn Progress) -> Result<O>) -> Self {
        Step { name, run }
    }
}

/// A step of any type, for the lists of [`crate::inside`].
pub trait AnyStep: Sync {
    fn name(&self) -> &'static str;

    /// Runs the step in this process.
    ///
    /// # Errors
    /// The step's own; if `input` is not of the step's input type.
    fn call(&self, input: Value, progress: &dyn Progress) -> Result<Value>;
}

impl<I: DeserializeOwned, O: Serialize> AnyStep for Step<I, O> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn call(&self, input: Value, progress: &dyn Progress) -> Result<Value> {
        let output = (self.run)(serde_json::from_value(input)?, progress)?;
        Ok(serde_json::to_value(output)?)
    }
}

/// Declares a module's steps: a constant for each, and `STEPS`, the list of them all.
macro_rules! steps {
    ($($(#[$doc:meta])* $visibility:vis $constant:ident = $name:literal: $run:path, $input:ty => $output:ty;)+) => {
        $(
            $(#[$doc])*
            $visibility const $constant: $crate::sandbox::Step<$input, $output> =
                $crate::sandbox::Step::new($name, $run);
        )+

        /// All steps of this module. A list that [`crate::inside`] does not have is unused, of which the compiler warns.
        pub(crate) const STEPS: &[&dyn $crate::sandbox::AnyStep] = &[$(&$constant),+];
    };
}
pub(crate) use steps;
