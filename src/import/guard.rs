//! Owns keeping in the panics of crates that read what others made: a damaged image must not end hearth with a trace.
//! Never hides an error.

use std::panic::{self, AssertUnwindSafe};

use anyhow::{Result, anyhow};

/// Calls `read`; a panic of it is an error that says that the image is damaged. Nobody else should panic meanwhile: what
/// is said of that is not printed.
///
/// # Errors
/// Those of `read`.
pub fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    panic::set_hook(before);
    result.unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned());
        log::debug!("reading it panicked: {}", said.unwrap_or_default());
        Err(anyhow!("it is damaged: its reader gave up"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_rest_goes_on() {
        let error = guarded(|| -> Result<()> { panic!("index out of bounds") }).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
    }
}
