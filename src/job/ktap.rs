//! Owns KTAP and TAP: test results that the kernel, kselftest and TAP programs print.
//! Never drops a result: a plan that is not fulfilled yields cases of unknown outcome.
//!
//! Format: Linux `Documentation/dev-tools/ktap.rst`, version 1; TAP versions 13 and 14.

use super::Outcome;

/// A case that a KTAP text reported, under the path of its subtests: `suite.case`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KtapCase {
    pub id: String,
    pub outcome: Outcome,
    /// Why it was skipped, or what is wrong with it.
    pub problem: Option<String>,
    /// Diagnostic lines (`# …`) since the case before.
    pub output: Vec<String>,
}

/// Reads KTAP or TAP line by line. It begins at a version line and ends when the outermost plan is
/// fulfilled, at `Bail out!`, or when [`Ktap::finish`] is called.
#[derive(Debug, Default)]
pub struct Ktap {
    /// The tests that are open, outermost first. Empty outside KTAP.
    levels: Vec<Level>,
    diagnostics: Vec<String>,
}

#[derive(Debug)]
struct Level {
    indent: usize,
    name: Option<String>,
    planned: Option<u64>,
    seen: u64,
    /// Whether a test inside this level reported, so that its own result line is only a summary.
    reported: bool,
}

impl Ktap {
    /// Whether a KTAP text is under way.
    pub fn is_open(&self) -> bool {
        !self.levels.is_empty()
    }

    /// Takes one line and gives the cases that it completes. Lines that are no KTAP, such as other messages
    /// of the kernel in between, are passed over.
    pub fn line(&mut self, line: &str) -> Vec<KtapCase> {
        let text = without_timestamp(line.trim_end());
        let indent = text.len() - text.trim_start().len();
        let text = text.trim_start();
        if is_version(text) {
            self.open(indent);
            return Vec::new();
        }
        if !self.is_open() {
            return Vec::new();
        }
        if let Some(count) = text.strip_prefix("1..") {
            self.plan(count);
            Vec::new()
        } else if let Some(name) = text.strip_prefix("# Subtest:") {
            self.subtest(indent, name.trim());
            Vec::new()
        } else if let Some(reason) = text.strip_prefix("Bail out!") {
            self.bail_out(reason.trim())
        } else if let Some((passed, rest)) = result_line(text) {
            self.result(indent, passed, rest)
        } else {
            if let Some(diagnostic) = text.strip_prefix('#') {
                self.diagnostics.push(diagnostic.trim().to_string());
            }
            Vec::new()
        }
    }

    /// The text ends here: what the plans promised and did not come is unknown.
    pub fn finish(&mut self) -> Vec<KtapCase> {
        let mut cases = Vec::new();
        while !self.levels.is_empty() {
            cases.extend(self.missing());
            self.levels.pop();
        }
        self.diagnostics.clear();
        cases
    }

    fn open(&mut self, indent: usize) {
        // In KTAP a version line opens every nested test; a `# Subtest:` line may have named it already,
        // or follow.
        if self
            .levels
            .last()
            .is_some_and(|level| level.indent == indent && level.seen == 0)
        {
            return;
        }
        self.levels.push(Level {
            indent,
            name: None,
            planned: None,
            seen: 0,
            reported: false,
        });
    }

    fn plan(&mut self, count: &str) {
        let digits = count.split_whitespace().next().unwrap_or_default();
        if let Some(level) = self.levels.last_mut() {
            level.planned = digits.parse().ok();
        }
    }

    fn subtest(&mut self, indent: usize, name: &str) {
        let at_this_level = self
            .levels
            .last()
            .is_some_and(|level| level.indent == indent);
        if !at_this_level {
            self.open(indent);
        }
        if let Some(level) = self.levels.last_mut() {
            level.name = Some(name.to_string());
        }
    }

    fn result(&mut self, indent: usize, passed: bool, rest: &str) -> Vec<KtapCase> {
        let (name, directive) = name_and_directive(rest);
        let mut cases = Vec::new();
        // A result further to the left closes what is nested inside it, and names it.
        let mut nested = false;
        while self.levels.len() > 1
            && self
                .levels
                .last()
                .is_some_and(|level| level.indent > indent)
        {
            if let Some(level) = self.levels.last_mut() {
                level.name.get_or_insert_with(|| name.clone());
            }
            cases.extend(self.missing());
            nested |= self.levels.pop().is_some_and(|level| level.reported);
        }
        if let Some(level) = self.levels.last_mut() {
            level.seen += 1;
            level.reported = true;
        }
        // The result of a test with subtests is a summary of theirs, and is no case of its own.
        if !nested {
            let (outcome, problem) = outcome_of(passed, directive);
            cases.push(KtapCase {
                id: self.path(&name),
                outcome,
                problem,
                output: std::mem::take(&mut self.diagnostics),
            });
        }
        let fulfilled = self.levels.len() == 1
            && self.levels[0]
                .planned
                .is_some_and(|planned| self.levels[0].seen >= planned);
        if fulfilled {
            self.levels.clear();
        }
        cases
    }

    fn bail_out(&mut self, reason: &str) -> Vec<KtapCase> {
        let mut cases = vec![KtapCase {
            id: self.path("bail-out"),
            outcome: Outcome::Fail,
            problem: Some(format!("the test program bailed out: {reason}")),
            output: std::mem::take(&mut self.diagnostics),
        }];
        cases.extend(self.finish());
        cases
    }

    /// A case for what the innermost plan promised and that never came.
    fn missing(&self) -> Option<KtapCase> {
        let level = self.levels.last()?;
        let planned = level.planned?;
        (level.seen < planned).then(|| KtapCase {
            id: self.path("missing"),
            outcome: Outcome::Unknown,
            problem: Some(format!(
                "the plan was {planned} tests, and {} reported",
                level.seen
            )),
            output: Vec::new(),
        })
    }

    fn path(&self, name: &str) -> String {
        let mut path: Vec<&str> = self
            .levels
            .iter()
            .filter_map(|level| level.name.as_deref())
            .collect();
        path.push(name);
        path.join(".").replace(char::is_whitespace, "-")
    }
}

fn is_version(text: &str) -> bool {
    ["KTAP version ", "TAP version "]
        .iter()
        .any(|start| text.starts_with(start))
}

/// Cuts off the time that the kernel's log puts before a line: `[   12.345678] `.
fn without_timestamp(line: &str) -> &str {
    let Some((stamp, rest)) = line
        .strip_prefix('[')
        .and_then(|line| line.split_once("] "))
    else {
        return line;
    };
    // With CONFIG_PRINTK_CALLER a second bracket names the task.
    let is_time = !stamp.is_empty()
        && stamp
            .chars()
            .all(|c| c.is_ascii_digit() || c == '.' || c == ' ');
    if is_time { rest } else { line }
}

fn result_line(text: &str) -> Option<(bool, &str)> {
    let (passed, rest) = match text.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("ok")?),
    };
    (rest.is_empty() || rest.starts_with(char::is_whitespace)).then_some((passed, rest.trim()))
}

/// Splits `3 - name # SKIP reason` into the name (or the number, where there is no name) and
/// the directive.
fn name_and_directive(rest: &str) -> (String, Option<&str>) {
    let (head, directive) = match rest.split_once(" # ").or_else(|| rest.split_once("\t# ")) {
        Some((head, directive)) => (head, Some(directive.trim())),
        None => match rest.strip_prefix("# ") {
            Some(directive) => ("", Some(directive.trim())),
            None => (rest, None),
        },
    };
    let head = head.trim();
    let digits = head.chars().take_while(char::is_ascii_digit).count();
    let (number, name) = head.split_at(digits);
    let name = name.trim_start().trim_start_matches("- ").trim();
    let name = if name.is_empty() { number } else { name };
    (
        if name.is_empty() {
            "unnamed".into()
        } else {
            name.into()
        },
        directive,
    )
}

fn outcome_of(passed: bool, directive: Option<&str>) -> (Outcome, Option<String>) {
    let Some(directive) = directive else {
        return (if passed { Outcome::Pass } else { Outcome::Fail }, None);
    };
    let (word, reason) = directive
        .split_once(char::is_whitespace)
        .unwrap_or((directive, ""));
    let note = |kind: &str| {
        Some(
            format!("{kind}: {}", reason.trim())
                .trim_end_matches(": ")
                .to_string(),
        )
    };
    match word.to_ascii_uppercase().trim_end_matches(':') {
        "SKIP" => (Outcome::Skip, note("skipped")),
        // An expected failure is no failure; an unexpected success is still one worth a look.
        "XFAIL" | "TODO" => (Outcome::Skip, note("expected to fail")),
        "TIMEOUT" => (Outcome::Fail, note("timed out")),
        "ERROR" => (Outcome::Fail, note("error")),
        _ if passed => (Outcome::Pass, None),
        _ => (Outcome::Fail, Some(directive.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, Outcome)> {
        let mut ktap = Ktap::default();
        let mut cases: Vec<KtapCase> = text.lines().flat_map(|line| ktap.line(line)).collect();
        cases.extend(ktap.finish());
        cases
            .into_iter()
            .map(|case| (case.id, case.outcome))
            .collect()
    }

    fn case(id: &str, outcome: Outcome) -> (String, Outcome) {
        (id.into(), outcome)
    }

    #[test]
    fn nested_kunit_output_is_read_with_the_path_of_its_suites() {
        let text = "\
[    1.000000] KTAP version 1
[    1.000000] 1..2
[    1.000001]     KTAP version 1
[    1.000002]     # Subtest: time
[    1.000002]     1..2
[    1.000003]     ok 1 leap_years
usb 1-1: a message of the kernel in between
[    1.000004]     # why: because
[    1.000004]     not ok 2 - month_days
[    1.000005] # time: pass:1 fail:1
[    1.000005] not ok 1 time
[    1.000006] ok 2 - lists # SKIP not built";
        assert_eq!(
            read(text),
            [
                case("time.leap_years", Outcome::Pass),
                case("time.month_days", Outcome::Fail),
                case("lists", Outcome::Skip),
            ]
        );
    }

    #[test]
    fn what_the_plan_promised_and_did_not_come_is_unknown() {
        assert_eq!(
            read("TAP version 13\n1..3\nok 1 a\n"),
            [case("a", Outcome::Pass), case("missing", Outcome::Unknown)]
        );
        assert_eq!(
            read("TAP version 13\n1..3\nok\nBail out! no disk"),
            [
                case("unnamed", Outcome::Pass),
                case("bail-out", Outcome::Fail),
                case("missing", Outcome::Unknown)
            ]
        );
    }

    #[test]
    fn a_fulfilled_plan_ends_the_text_and_other_lines_are_not_ktap() {
        let mut ktap = Ktap::default();
        assert!(ktap.line("ok 1 not in any plan").is_empty());
        ktap.line("TAP version 14");
        ktap.line("1..1");
        assert_eq!(ktap.line("ok 1 - one two").len(), 1);
        assert!(!ktap.is_open());
        assert!(ktap.line("okay then").is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(KTAP version 1|TAP version 13|1\\.\\.[0-9]{1,20}|ok|not ok|# Subtest: x|Bail out!|#| |\n|    |[0-9a-zé\\[\\]]){0,60}") {
            read(&text);
        }
    }
}
