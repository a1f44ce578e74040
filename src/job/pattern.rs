//! Owns the `parse` section of a test definition: a pattern that finds results in plain output.
//! Never decides where a line belongs.

use std::collections::BTreeMap;

use regex::Regex;

use super::Outcome;
use super::signal::CaseSignal;

/// A compiled pattern with named groups `test_case_id`, `result`, `measurement`, `units`, and the words that
/// a program uses for LAVA's results.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    fixups: BTreeMap<String, String>,
}

impl Pattern {
    /// Python's and Rust's regular expressions agree on what definitions use; look-around and
    /// back-references are refused with the engine's own message.
    pub fn new(pattern: &str, fixups: BTreeMap<String, String>) -> Result<Self, String> {
        let regex = regex::RegexBuilder::new(pattern)
            .multi_line(true)
            .size_limit(1 << 20)
            .build()
            .map_err(|error| error.to_string())?;
        if !regex
            .capture_names()
            .flatten()
            .any(|name| name == "test_case_id")
        {
            return Err("the pattern has no group named `test_case_id`".into());
        }
        Ok(Pattern { regex, fixups })
    }

    /// The result that a line reports, if it reports one; `Err` names the case and what is wrong with it.
    pub fn find(&self, line: &str) -> Option<Result<CaseSignal, (String, String)>> {
        let found = self.regex.captures(line)?;
        let group = |name: &str| {
            found
                .name(name)
                .map(|text| text.as_str().trim().to_string())
        };
        let id = group("test_case_id")?.replace(char::is_whitespace, "-");
        let word = match (group("result"), group("measurement")) {
            (Some(word), _) => word,
            // A line that only measures has passed, as in LAVA.
            (None, Some(_)) => "pass".into(),
            (None, None) => "unknown".into(),
        };
        let word = self.fixups.get(&word).cloned().unwrap_or(word);
        // Programs shout: `PASS` is LAVA's `pass`. A word that stays unknown is shown as it was.
        let Ok(outcome) = word.to_ascii_lowercase().parse::<Outcome>() else {
            return Some(Err((
                id,
                format!("`{word}` is not a result, and `fixupdict` does not translate it"),
            )));
        };
        Some(Ok(CaseSignal {
            id,
            outcome,
            measurement: group("measurement"),
            units: group("units"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixups_translate_a_programs_words() {
        let pattern = Pattern::new(
            r"^(?P<test_case_id>[\w ]+):\s+(?P<result>\w+)$",
            BTreeMap::from([("PASSED".into(), "pass".into())]),
        )
        .unwrap();
        let case = pattern.find("some test: PASSED").unwrap().unwrap();
        assert_eq!(
            (case.id.as_str(), case.outcome),
            ("some-test", Outcome::Pass)
        );
        let (id, problem) = pattern.find("b: BROKEN").unwrap().unwrap_err();
        assert_eq!(id, "b");
        assert!(problem.contains("BROKEN"));
        assert!(pattern.find("nothing of the kind").is_none());
    }

    #[test]
    fn a_pattern_without_a_case_is_refused() {
        assert!(Pattern::new("(?P<result>x)", BTreeMap::new()).is_err());
        assert!(Pattern::new("(", BTreeMap::new()).is_err());
    }
}
