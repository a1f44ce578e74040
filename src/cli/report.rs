//! Owns how a failure is told on standard error: one sentence, then the remedy.

use std::io::{self, Write};
use std::process::ExitCode;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use hearth::error;
use hearth::recipe::Diagnostic;
use hearth::sanitise;

/// Prints the error and gives the exit code of its class.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    // A reader that went away (`hearth … | head`) is no failure of ours to talk about.
    let closed_pipe = error.chain().any(|cause| {
        let json = || cause.downcast_ref::<serde_json::Error>()?.io_error_kind();
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        kind.or_else(json) == Some(io::ErrorKind::BrokenPipe)
    });
    if !closed_pipe {
        let mut stderr = io::stderr().lock();
        // Nothing is left to be done about a standard error that cannot be written to.
        let _ = match error.chain().find_map(|cause| {
            cause
                .downcast_ref::<Box<Diagnostic>>()
                .map(|d| &**d)
                .or_else(|| cause.downcast_ref())
        }) {
            Some(diagnostic) => writeln!(stderr, "{}", lines(&snippet(diagnostic))),
            None => writeln!(stderr, "hearth: {}", sanitise::block(&format!("{error:#}"))),
        };
        if let Some(help) = error::help_of(error) {
            let _ = writeln!(stderr, "help: {}", sanitise::block(help));
        }
    }
    ExitCode::from(error::class_of(error).exit_code())
}

/// A drawing of several lines, each fit for a terminal and where it was.
fn lines(drawing: &str) -> String {
    let lines: Vec<_> = drawing.split('\n').map(sanitise::line).collect();
    lines.join("\n")
}

/// The message, the line it is about, and a caret under the place.
fn snippet(diagnostic: &Diagnostic) -> String {
    let path = diagnostic.file.display().to_string();
    let span = diagnostic.span.start..diagnostic.span.end.min(diagnostic.text.len());
    let mut group = Level::ERROR.primary_title(&diagnostic.message).element(
        Snippet::source(&diagnostic.text)
            .path(&path)
            .annotation(AnnotationKind::Primary.span(span)),
    );
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help));
    }
    Renderer::plain().render(&[group])
}
