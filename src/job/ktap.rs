//! Owns KTAP and TAP: test results that the kernel, kselftest and TAP programs print.
//! Never drops a result, and never lets a `not ok` outside a TODO pass.
//!
//! Format: TAP 12 and 13 (as Perl's TAP::Parser reads them), TAP 14 (testanything.org), Linux
//! `Documentation/dev-tools/ktap.rst` (as `tools/testing/kunit/kunit_parser.py` reads it), and the `# ` nesting of
//! `tools/testing/selftests/kselftest/runner.sh`.

use std::collections::BTreeSet;

use super::result::Outcome;
use super::tap_line::{Item, Line, Nesting, Report};

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

/// Reads KTAP or TAP line by line. A document begins at a version line, a plan, or a result that is hardly prose; it
/// ends when the outermost plan is fulfilled, at `Bail out!`, or when [`Ktap::finish`] is called.
#[derive(Debug, Default)]
pub struct Ktap {
    /// The tests that are open, outermost first. Empty outside a document.
    levels: Vec<Level>,
    /// The name that a `# Subtest:` line gave to the level that opens next.
    subtest: Option<String>,
    /// Where the YAML block that is open began: nothing in it counts.
    yaml: Option<Nesting>,
    /// Where the last line stood if it was a result, which a YAML block may follow.
    after_report: Option<Nesting>,
    diagnostics: Vec<String>,
    /// Whether kselftest's runner prints this document: `# ` nests then also what has no version line and no plan.
    is_kselftest: bool,
    /// The document that ended last, until another one begins.
    ended: Option<Ended>,
}

/// A document whose plan was fulfilled.
#[derive(Debug)]
struct Ended {
    nesting: Nesting,
    planned: u64,
    /// How many results came after its end.
    more: u64,
}

/// A test with subtests; the outermost one is the document.
#[derive(Debug)]
struct Level {
    nesting: Nesting,
    name: Option<String>,
    planned: Option<u64>,
    /// Why the plan says that all is skipped.
    skipped: Option<String>,
    numbers: BTreeSet<u64>,
    /// A number that came twice.
    repeated: Option<u64>,
    /// How many results had no number.
    unnumbered: u64,
    /// Whether a case inside has failed.
    failed: bool,
    /// Whether a version line began it, so that a plan must come.
    has_version: bool,
    /// Cases that wait for this level's name, which its own result tells.
    held: Vec<KtapCase>,
}

impl Level {
    fn new(nesting: Nesting, name: Option<String>, has_version: bool) -> Self {
        Level {
            nesting,
            name,
            planned: None,
            skipped: None,
            numbers: BTreeSet::new(),
            repeated: None,
            unnumbered: 0,
            failed: false,
            has_version,
            held: Vec::new(),
        }
    }

    /// How many results came; two with one number are one, so that none hides a missing one.
    fn seen(&self) -> u64 {
        self.numbers.len() as u64 + self.unnumbered
    }

    /// How many of the planned results came; those with other numbers are none of them.
    fn fulfilled(&self, planned: u64) -> u64 {
        let numbered = self.numbers.iter().filter(|n| (1..=planned).contains(*n));
        numbered.count() as u64 + self.unnumbered
    }

    /// The case that says that there are more or fewer results than planned.
    fn miscount(&self, is_outermost: bool) -> Option<(&'static str, String)> {
        let seen = self.seen();
        match self.planned {
            Some(planned) if self.fulfilled(planned) < planned => Some((
                "missing",
                format!(
                    "the plan was {planned} tests, and {} reported",
                    self.fulfilled(planned)
                ),
            )),
            Some(planned) if seen > planned => Some((
                "plan",
                format!("the plan was {planned} tests, and {seen} reported"),
            )),
            Some(_) if let Some(number) = self.repeated => {
                Some(("plan", format!("two results have the number {number}")))
            }
            // What began without a version line may be prose.
            None if is_outermost && self.has_version => Some((
                "plan",
                format!("{seen} tests reported, and no plan says how many there are"),
            )),
            _ => None,
        }
    }
}

impl Ktap {
    /// Whether a document is under way.
    pub fn is_open(&self) -> bool {
        !self.levels.is_empty()
    }

    /// Takes one line and gives the cases that it completes; `None` if the line is not TAP, such as another message of
    /// the kernel in between.
    pub fn line(&mut self, line: &str) -> Option<Vec<KtapCase>> {
        let depth = self.levels.last().map(|top| top.nesting.hashes);
        let line = Line::read(line, depth, self.is_kselftest);
        if self.is_in_yaml(&line) {
            return Some(Vec::new());
        }
        if let Item::Report(report) = &line.item
            && let Some(cases) = self.after_the_end(line.nesting, report)
        {
            return Some(cases);
        }
        if !self.is_open() && !line.item.begins_a_document() {
            return None;
        }
        let after_report = self.after_report.take();
        let mut cases = Vec::new();
        match line.item {
            Item::Version => self.version(line.nesting, &mut cases),
            Item::Plan { count, skip } => self.plan(line.nesting, count, skip, &mut cases),
            Item::Subtest(name) => self.subtest(line.nesting, name),
            Item::BailOut(reason) => self.bail_out(&reason, &mut cases),
            Item::Report(report) => {
                self.report(line.nesting, &report, &mut cases);
                self.after_report = Some(line.nesting);
            }
            Item::Diagnostic(text) => {
                self.is_kselftest |= text.starts_with("selftests: ");
                self.diagnostics.push(text);
            }
            // At the result's own indent it is output, such as a diff.
            Item::YamlBegin
                if after_report.is_some_and(|report| line.nesting.is_inside(report)) =>
            {
                self.yaml = Some(line.nesting);
            }
            Item::YamlBegin | Item::YamlEnd | Item::Other => return None,
        }
        Some(cases)
    }

    /// The text ends here: what the plans promised and did not come has failed.
    pub fn finish(&mut self) -> Vec<KtapCase> {
        let mut cases = Vec::new();
        if self.yaml.take().is_some() {
            let problem = "a YAML block has no end, and what followed it was not read";
            self.tell("yaml", Outcome::Fail, Some(problem.into()), &mut cases);
        }
        while !self.levels.is_empty() {
            self.close(&mut cases);
        }
        self.leave();
        self.ended = None;
        cases
    }

    /// Forgets what belonged to the document that is over.
    fn leave(&mut self) {
        self.subtest = None;
        self.is_kselftest = false;
        self.diagnostics.clear();
    }

    /// A result that goes on counting after the plan was fulfilled is one too many. With the number 1 it begins another
    /// document, and with one far away it may be prose.
    fn after_the_end(&mut self, nesting: Nesting, report: &Report) -> Option<Vec<KtapCase>> {
        let ended = self
            .ended
            .as_mut()
            .filter(|ended| ended.nesting == nesting)?;
        let next = ended.planned.saturating_add(ended.more).saturating_add(1);
        let number = report.number.filter(|n| (2..=next).contains(n))?;
        ended.more += 1;
        let problem = format!(
            "the plan was {} tests, and then test {number} reported",
            ended.planned
        );
        let mut cases = Vec::new();
        let (outcome, why) = report.outcome();
        self.tell(&report.name, outcome, why, &mut cases);
        self.tell("plan", Outcome::Fail, Some(problem), &mut cases);
        Some(cases)
    }

    /// Whether a line belongs to the YAML block that is open. A line further to the left ends one that has no end.
    fn is_in_yaml(&mut self, line: &Line) -> bool {
        let Some(begin) = self.yaml else {
            return false;
        };
        let inside = line.is_blank() || line.nesting >= begin;
        if !inside || (line.nesting == begin && line.item == Item::YamlEnd) {
            self.yaml = None;
        }
        inside
    }

    fn version(&mut self, nesting: Nesting, cases: &mut Vec<KtapCase>) {
        self.close_deeper(nesting, cases);
        match self.levels.last_mut() {
            // A `# Subtest:` line came before it, or the line is there twice.
            Some(top) if top.nesting == nesting && top.seen() == 0 && top.planned.is_none() => {
                top.has_version = true;
                return;
            }
            // Another document, though this one is not over.
            Some(top) if top.nesting >= nesting => {
                self.close(cases);
            }
            _ => {}
        }
        self.open(nesting, true);
    }

    fn plan(
        &mut self,
        nesting: Nesting,
        count: u64,
        skip: Option<String>,
        cases: &mut Vec<KtapCase>,
    ) {
        self.close_deeper(nesting, cases);
        if self
            .levels
            .last()
            .is_some_and(|top| top.nesting == nesting && top.planned.is_some())
        {
            // Another document without a version line.
            self.close(cases);
        }
        self.reach(nesting);
        let Some(top) = self.levels.last_mut() else {
            return;
        };
        top.planned = Some(count);
        if count == 0 && top.seen() == 0 {
            let reason = skip.map_or_else(
                || "nothing is planned".into(),
                |reason| format!("skipped: {reason}"),
            );
            top.skipped = Some(reason.clone());
            if self.levels.len() == 1 {
                self.tell("all", Outcome::Skip, Some(reason), cases);
            }
        }
        self.end_if_fulfilled(cases);
    }

    fn subtest(&mut self, nesting: Nesting, name: String) {
        let is_nested = self.levels.len() > 1;
        match self.levels.last_mut() {
            // The kernel prints it inside the subtest, TAP 14 before it.
            Some(top) if is_nested && top.nesting == nesting && top.seen() == 0 => {
                top.name = Some(name);
            }
            _ => self.subtest = Some(name),
        }
    }

    fn report(&mut self, nesting: Nesting, report: &Report, cases: &mut Vec<KtapCase>) {
        self.lower(nesting);
        let nested = self.close_reported(nesting, &report.name, cases);
        self.reach(nesting);
        if let Some(top) = self.levels.last_mut() {
            match report.number {
                Some(number) => {
                    if !top.numbers.insert(number) {
                        top.repeated = Some(number);
                    }
                }
                None => top.unnumbered += 1,
            }
        }
        let (outcome, problem) = report.outcome();
        match nested {
            // A summary of its subtests, unless it says worse of them than they do themselves.
            Some(inside) if inside.seen() > 0 || inside.failed => {
                if outcome == Outcome::Fail && !inside.failed {
                    let problem = problem.unwrap_or_else(|| "none of its subtests failed".into());
                    let problem = Some(format!("reported as failed: {problem}"));
                    self.tell(&report.name, outcome, problem, cases);
                }
            }
            Some(inside) if outcome == Outcome::Pass && inside.skipped.is_some() => {
                self.tell(&report.name, Outcome::Skip, inside.skipped, cases);
            }
            Some(inside) if outcome == Outcome::Pass && inside.has_version => {
                let problem = "its subtests began, and none reported";
                self.tell(&report.name, Outcome::Fail, Some(problem.into()), cases);
            }
            _ => self.tell(&report.name, outcome, problem, cases),
        }
        self.end_if_fulfilled(cases);
    }

    fn bail_out(&mut self, reason: &str, cases: &mut Vec<KtapCase>) {
        let problem = match reason {
            "" => "the test program bailed out".into(),
            reason => format!("the test program bailed out: {reason}"),
        };
        self.tell("bail-out", Outcome::Fail, Some(problem), cases);
        cases.extend(self.finish());
    }

    fn open(&mut self, nesting: Nesting, has_version: bool) {
        // The document itself has no name.
        let name = if self.is_open() {
            self.subtest.take()
        } else {
            self.ended = None;
            None
        };
        self.levels.push(Level::new(nesting, name, has_version));
    }

    /// Opens a level at `nesting` if none is: a document or a subtest that began without a version line.
    fn reach(&mut self, nesting: Nesting) {
        if self.levels.last().is_none_or(|top| nesting > top.nesting) {
            self.open(nesting, false);
        }
    }

    /// Puts a level for the document below the first one, if that turns out to be a subtest: its lines came first.
    fn lower(&mut self, nesting: Nesting) {
        if self
            .levels
            .first()
            .is_some_and(|first| first.nesting > nesting)
        {
            self.levels.insert(0, Level::new(nesting, None, false));
        }
    }

    /// Closes subtests that are deeper than `nesting`, and whose own result did not come.
    fn close_deeper(&mut self, nesting: Nesting, cases: &mut Vec<KtapCase>) {
        while self.levels.len() > 1 && self.levels.last().is_some_and(|top| top.nesting > nesting) {
            self.close(cases);
        }
    }

    /// Closes what a result at `nesting` is the summary of; gives the test that it names.
    fn close_reported(
        &mut self,
        nesting: Nesting,
        name: &str,
        cases: &mut Vec<KtapCase>,
    ) -> Option<Level> {
        let first = self
            .levels
            .iter()
            .skip(1)
            .position(|level| level.nesting > nesting)?
            + 1;
        while self.levels.len() > first + 1 {
            self.close(cases);
        }
        self.levels[first].name.get_or_insert_with(|| name.into());
        self.close(cases)
    }

    /// Closes the innermost level.
    fn close(&mut self, cases: &mut Vec<KtapCase>) -> Option<Level> {
        let is_outermost = self.levels.len() == 1;
        if let Some((name, problem)) = self.levels.last()?.miscount(is_outermost) {
            self.tell(name, Outcome::Fail, Some(problem), cases);
        }
        let mut closed = self.levels.pop()?;
        for mut case in std::mem::take(&mut closed.held) {
            if let Some(name) = &closed.name {
                case.id = format!("{}.{}", word(name), case.id);
            }
            self.emit(case, cases);
        }
        Some(closed)
    }

    fn end_if_fulfilled(&mut self, cases: &mut Vec<KtapCase>) {
        if let [outermost] = &self.levels[..]
            && let Some(planned) = outermost.planned
            && outermost.fulfilled(planned) >= planned
        {
            self.ended = Some(Ended {
                nesting: outermost.nesting,
                planned,
                more: 0,
            });
            self.close(cases);
            self.leave();
        }
    }

    /// Reports a case of the innermost level, with the diagnostics so far.
    fn tell(
        &mut self,
        name: &str,
        outcome: Outcome,
        problem: Option<String>,
        cases: &mut Vec<KtapCase>,
    ) {
        if outcome == Outcome::Fail {
            for level in &mut self.levels {
                level.failed = true;
            }
        }
        let case = KtapCase {
            id: word(name),
            outcome,
            problem,
            output: std::mem::take(&mut self.diagnostics),
        };
        self.emit(case, cases);
    }

    /// Gives a case its path; below a level whose name is not known yet, it waits for it.
    fn emit(&mut self, mut case: KtapCase, cases: &mut Vec<KtapCase>) {
        for level in self.levels.iter_mut().skip(1).rev() {
            match &level.name {
                Some(name) => case.id = format!("{}.{}", word(name), case.id),
                None => {
                    level.held.push(case);
                    return;
                }
            }
        }
        cases.push(case);
    }
}

/// A name as part of an id, which has no white space.
fn word(name: &str) -> String {
    name.replace(char::is_whitespace, "-")
}

#[cfg(test)]
mod tests;
