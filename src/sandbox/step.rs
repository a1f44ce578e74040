//! Owns the steps: pieces of hearth's own work that run in a process inside, with a typed input and output.
//! Never starts a process.

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::progress::Progress;

/// A step that takes an `I` and gives an `O`, both of which go between the processes as JSON. Made by `steps!`
/// only, so that each is in a list.
pub struct Step<I, O> {
    name: &'static str,
    run: fn(I, &dyn Progress) -> Result<O>,
}

impl<I, O> Step<I, O> {
    /// For `steps!`.
    pub(crate) const fn new(name: &'static str, run: fn(I, &dyn Progress) -> Result<O>) -> Self {
        Step { name, run }
    }

    /// What it is called between the processes: unique in hearth.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }
}

/// A [`Step`] whose types only it knows itself: for lists.
pub trait ErasedStep {
    fn name(&self) -> &'static str;

    /// # Errors
    /// The step's own; and if the input is not of its type.
    fn run(&self, input: Value, progress: &dyn Progress) -> Result<Value>;
}

impl<I: DeserializeOwned, O: Serialize> ErasedStep for Step<I, O> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, input: Value, progress: &dyn Progress) -> Result<Value> {
        let input =
            serde_json::from_value(input).with_context(|| format!("the input of {}", self.name))?;
        Ok(serde_json::to_value((self.run)(input, progress)?)?)
    }
}

/// The steps of a module. `NAME: Input => Output = function;` makes the constant `NAME`, a [`Step`] that runs the function,
/// and each is in the module's list `STEPS`; the compiler warns of a list that [`crate::inside`] does not have.
///
/// ```ignore
/// steps! {
///     /// Counts the files of a directory of the image.
///     COUNT: PathBuf => u64 = count;
/// }
///
/// fn count(directory: PathBuf, progress: &dyn Progress) -> Result<u64>
///
/// let files = Namespaces::new().step(&COUNT, &directory, progress)?;
/// ```
macro_rules! steps {
    ($($(#[$doc:meta])* $visibility:vis $name:ident: $input:ty => $output:ty = $run:path;)+) => {
        $(
            $(#[$doc])*
            $visibility const $name: $crate::sandbox::Step<$input, $output> =
                $crate::sandbox::Step::new(concat!(module_path!(), "::", stringify!($name)), $run);
        )+

        /// All steps of this module.
        pub(crate) const STEPS: &[&dyn $crate::sandbox::ErasedStep] = &[$(&$name),+];
    };
}
pub(crate) use steps;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;

    steps! {
        HALF: u64 => Option<u64> = half;
        NOTHING: () => () = nothing;
    }

    fn half(number: u64, _: &dyn Progress) -> Result<Option<u64>> {
        Ok(number.is_multiple_of(2).then_some(number / 2))
    }

    fn nothing(_: (), _: &dyn Progress) -> Result<()> {
        Ok(())
    }

    #[test]
    fn each_step_is_in_the_list_under_its_own_name_and_takes_nothing_but_its_type() {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name()).collect();
        assert_eq!(names, [HALF.name(), NOTHING.name()]);
        assert!(HALF.name().ends_with("::HALF"), "{}", HALF.name());
        let run = |input: Value| STEPS[0].run(input, &NoProgress);
        assert_eq!(run(Value::from(6)).unwrap(), Value::from(3));
        assert_eq!(run(Value::from(7)).unwrap(), Value::Null);
        let error = run(Value::from("six")).unwrap_err();
        assert!(error.to_string().contains(HALF.name()), "{error}");
    }
}
