//! Owns what a person sees while a board is tested: its stages and its cases, as they come.

use hearth::board::BootState;
use hearth::job::Case;
use hearth::lab::Observer;
use hearth::sanitise;

use super::terminal::Terminal;

/// A line for every stage and every case, with the seconds since the run began.
pub struct Live<'a> {
    terminal: &'a Terminal,
}

impl<'a> Live<'a> {
    pub fn new(terminal: &'a Terminal) -> Self {
        Live { terminal }
    }

    /// A stage by its name, as a lab tells it.
    pub fn stage_named(&self, name: &str, at: f64) {
        self.terminal
            .say(&format!("{at:7.1}  {}", sanitise::line(name)));
    }
}

impl Observer for Live<'_> {
    fn stage(&mut self, state: BootState, at: f64) {
        self.stage_named(state.name(), at);
    }

    fn case(&mut self, suite: &str, case: &Case) {
        let set = case
            .set
            .as_ref()
            .map(|set| format!("{set}/"))
            .unwrap_or_default();
        let measured = match (&case.measurement, &case.units) {
            (Some(number), units) => format!("  {number} {}", units.as_deref().unwrap_or_default()),
            (None, _) => String::new(),
        };
        let line = format!(
            "{:7.1}    {:7} {suite}/{set}{}{measured}",
            case.at, case.outcome, case.id
        );
        self.terminal.say(&sanitise::line(line.trim_end()));
    }

    fn note(&mut self, text: &str) {
        self.terminal
            .say(&format!("         ! {}", sanitise::line(text)));
    }
}
