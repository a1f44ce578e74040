//! Owns the signals that a board's test scripts print: LAVA's `<LAVA_SIGNAL_…>` lines.
//! Never guesses a result: what is malformed comes back as such, with the case it seems to be about.
//!
//! Format: LAVA's documentation, "Test definitions" and its dispatcher's pattern
//! `<LAVA_SIGNAL_(\S+) ([^>]+)>`.

use std::str::FromStr;

use super::result::Outcome;

const OPENING: &str = "<LAVA_SIGNAL_";
const RUNNER: &str = "<LAVA_TEST_RUNNER ";

/// One well-formed signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    StartRun {
        name: String,
        id: String,
    },
    EndRun {
        name: String,
        id: String,
    },
    StartCase {
        id: String,
    },
    EndCase {
        id: String,
    },
    Case(CaseWords),
    SetStart {
        name: String,
    },
    SetStop,
    Reference {
        id: String,
        /// The result as it was written.
        word: String,
        url: String,
    },
    Raise {
        message: String,
    },
    /// The runner did all that it was given.
    RunnerExit,
    /// A definition's installation steps failed; its own steps do not run.
    InstallFail,
    /// A signal that LAVA knows and that has no meaning for a single board (`TESTFEEDBACK`, `TESTEVENT`).
    Ignored,
}

/// A test case's result as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseWords {
    pub id: String,
    pub word: String,
    pub measurement: Option<String>,
    pub units: Option<String>,
}

/// A test case's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseSignal {
    pub id: String,
    pub outcome: Outcome,
    /// A decimal number.
    pub measurement: Option<String>,
    pub units: Option<String>,
}

/// A signal that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSignal {
    /// The case it seems to be about.
    pub case: Option<String>,
    /// What is wrong, in words for a report.
    pub reason: String,
    /// What was received.
    pub raw: String,
}

/// What was found in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    Signal(Signal),
    Bad(BadSignal),
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// What stands around signals, never empty.
    Text(&'a str),
    Signal(Parsed),
}

/// Finds the signals in one line of console output, in order. Text around them is of no matter.
pub fn scan(line: &str) -> Vec<Parsed> {
    let signal = |piece| match piece {
        Piece::Signal(parsed) => Some(parsed),
        Piece::Text(_) => None,
    };
    pieces(line).into_iter().filter_map(signal).collect()
}

/// A line's signals and the text around them, in order.
pub fn pieces(line: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut rest = line;
    let text = |text: &'_ str| !text.trim().is_empty();
    while let Some(start) = next_opening(rest) {
        if text(&rest[..start]) {
            found.push(Piece::Text(&rest[..start]));
        }
        rest = &rest[start..];
        // A signal ends at the first `>`; if another one opens before that, this one was torn.
        let end = rest.find('>');
        let torn_at = next_opening(&rest[1..]).map(|next| next + 1);
        match (end, torn_at) {
            (Some(end), torn) if torn.is_none_or(|torn| end < torn) => {
                found.push(Piece::Signal(parse(&rest[..=end])));
                rest = &rest[end + 1..];
            }
            (_, Some(torn)) => {
                found.push(Piece::Signal(torn_signal(&rest[..torn])));
                rest = &rest[torn..];
            }
            (_, None) => {
                found.push(Piece::Signal(torn_signal(rest)));
                rest = "";
            }
        }
    }
    if text(rest) {
        found.push(Piece::Text(rest));
    }
    found
}

/// The signal that a line end may have split: what stands behind the last opening, if it has no end.
pub fn unfinished(line: &str) -> Option<&str> {
    let last = [OPENING, RUNNER]
        .iter()
        .filter_map(|opening| line.rfind(opening))
        .max()?;
    (!line[last..].contains('>')).then(|| &line[last..])
}

/// Whether a line has a signal, whole or torn.
pub fn has_signal(line: &str) -> bool {
    next_opening(line).is_some()
}

fn next_opening(text: &str) -> Option<usize> {
    [OPENING, RUNNER]
        .iter()
        .filter_map(|opening| text.find(opening))
        .min()
}

fn torn_signal(raw: &str) -> Parsed {
    let raw = raw.trim_end();
    Parsed::Bad(BadSignal {
        case: case_of(raw),
        reason: "the signal is torn: it has no end on its line".into(),
        raw: raw.into(),
    })
}

/// The case that a broken signal seems to be about.
fn case_of(raw: &str) -> Option<String> {
    let after = raw.split_once("TEST_CASE_ID=")?.1;
    let end = [" RESULT=", " MEASUREMENT=", " UNITS=", ">", "["]
        .iter()
        .filter_map(|mark| after.find(mark))
        .min()
        .unwrap_or(after.len());
    let mut id = after[..end].trim();
    // The next word may be torn itself.
    if let Some((before, rest)) = id.rsplit_once(' ')
        && ["RESULT=", "MEASUREMENT=", "UNITS="]
            .iter()
            .any(|mark| mark.starts_with(rest))
    {
        id = before.trim();
    }
    (!id.is_empty()).then(|| id.to_string())
}

/// `text` is `<…>` with one of the openings.
fn parse(text: &str) -> Parsed {
    let inner = &text[1..text.len() - 1];
    let result = match inner.strip_prefix("LAVA_TEST_RUNNER ") {
        Some("EXIT") => Ok(Signal::RunnerExit),
        Some("INSTALL_FAIL") => Ok(Signal::InstallFail),
        Some(other) => Err(format!("unknown message of the test runner: {other}")),
        None => signal(inner.strip_prefix("LAVA_SIGNAL_").unwrap_or(inner)),
    };
    match result {
        Ok(signal) => Parsed::Signal(signal),
        Err(reason) => Parsed::Bad(BadSignal {
            case: case_of(text),
            reason,
            raw: text.into(),
        }),
    }
}

fn signal(text: &str) -> Result<Signal, String> {
    let (name, rest) = text
        .split_once(char::is_whitespace)
        .ok_or("a signal needs parameters")?;
    let parameters: Vec<&str> = rest.split_whitespace().collect();
    match (name, parameters.as_slice()) {
        ("STARTRUN", [name, id]) => Ok(Signal::StartRun {
            name: (*name).into(),
            id: (*id).into(),
        }),
        ("ENDRUN", [name, id]) => Ok(Signal::EndRun {
            name: (*name).into(),
            id: (*id).into(),
        }),
        ("STARTTC", [id, ..]) => Ok(Signal::StartCase { id: (*id).into() }),
        ("ENDTC", [id, ..]) => Ok(Signal::EndCase { id: (*id).into() }),
        ("TESTCASE", parameters) => case(parameters).map(Signal::Case),
        ("TESTSET", ["START", name, ..]) => Ok(Signal::SetStart {
            name: (*name).into(),
        }),
        ("TESTSET", ["STOP", ..]) => Ok(Signal::SetStop),
        ("TESTREFERENCE", [id, word, url]) => Ok(Signal::Reference {
            id: (*id).into(),
            word: (*word).into(),
            url: (*url).into(),
        }),
        ("TESTRAISE", [_, ..]) => Ok(Signal::Raise {
            message: rest.trim().into(),
        }),
        ("TESTFEEDBACK" | "TESTEVENT", _) => Ok(Signal::Ignored),
        (
            "STARTRUN" | "ENDRUN" | "STARTTC" | "ENDTC" | "TESTSET" | "TESTREFERENCE" | "TESTRAISE",
            _,
        ) => Err(format!("wrong parameters for {name}: {}", rest.trim())),
        _ => Err(format!("unknown signal {name}")),
    }
}

/// As LAVA's dispatcher reads them: keys in any case, the last of equal ones, and no word about others.
fn case(parameters: &[&str]) -> Result<CaseWords, String> {
    let (mut id, mut word, mut measurement, mut units) = (None, None, None, None);
    for parameter in parameters {
        // A value may hold `=`; a second one is therefore no mistake here, unlike in LAVA.
        let (key, value) = parameter.split_once('=').ok_or_else(|| {
            format!("`{parameter}` is not KEY=VALUE: a space in an id or a unit?")
        })?;
        let field = match key.to_ascii_uppercase().as_str() {
            "TEST_CASE_ID" => &mut id,
            "RESULT" => &mut word,
            "MEASUREMENT" => &mut measurement,
            "UNITS" => &mut units,
            _ => continue,
        };
        *field = Some(value.to_string());
    }
    Ok(CaseWords {
        id: id
            .filter(|id| !id.is_empty())
            .ok_or("TEST_CASE_ID is missing")?,
        word: word.ok_or("RESULT is missing")?,
        measurement,
        units,
    })
}

impl CaseWords {
    /// The result, with the word for it translated by the definition's `fixupdict`.
    ///
    /// # Errors
    /// If the word is no result, or the measurement no finite number.
    pub fn read<'a>(&'a self, fixed: impl Fn(&'a str) -> &'a str) -> Result<CaseSignal, String> {
        Ok(CaseSignal {
            id: self.id.clone(),
            outcome: outcome(fixed(&self.word))?,
            measurement: self.measurement.as_deref().map(number).transpose()?,
            units: self.units.clone(),
        })
    }
}

/// A result in any case: programs shout.
pub fn outcome(word: &str) -> Result<Outcome, String> {
    Outcome::from_str(&word.to_ascii_lowercase()).map_err(|_| format!("`{word}` is not a result"))
}

/// A measurement as a decimal number: as it was written where that is plain, else as Python's `float` shows it.
///
/// # Errors
/// If Python's `decimal.Decimal` would not take it, or it is not finite.
pub fn number(text: &str) -> Result<String, String> {
    let wrong = || format!("measurement `{text}` is not a number");
    // `Decimal` takes `_` anywhere.
    let grouped = text.replace('_', "");
    let value: f64 = grouped.parse().map_err(|_| wrong())?;
    if !value.is_finite() {
        return Err(wrong());
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_plain = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    Ok(if is_plain {
        text.to_string()
    } else {
        super::python::float(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(line: &str) -> Parsed {
        let mut found = scan(line);
        assert_eq!(found.len(), 1, "{line}");
        found.remove(0)
    }

    #[test]
    fn the_facts_sheet_examples_are_understood() {
        assert_eq!(
            one("<LAVA_SIGNAL_STARTRUN 0_smoke 1_1.1.3.1>"),
            Parsed::Signal(Signal::StartRun {
                name: "0_smoke".into(),
                id: "1_1.1.3.1".into()
            })
        );
        assert_eq!(
            one(
                "[ 3.1] <LAVA_SIGNAL_TESTCASE TEST_CASE_ID=meas RESULT=pass UNITS=bottles MEASUREMENT=99.5>\r"
            ),
            Parsed::Signal(Signal::Case(CaseWords {
                id: "meas".into(),
                word: "pass".into(),
                measurement: Some("99.5".into()),
                units: Some("bottles".into()),
            }))
        );
        assert_eq!(
            one("<LAVA_SIGNAL_TESTRAISE no more disk>"),
            Parsed::Signal(Signal::Raise {
                message: "no more disk".into()
            })
        );
        assert_eq!(
            one("<LAVA_TEST_RUNNER EXIT>"),
            Parsed::Signal(Signal::RunnerExit)
        );
        assert_eq!(scan("nothing here <b>").len(), 0);
    }

    #[test]
    fn what_lava_drops_is_kept_with_its_reason() {
        for (line, case, reason) in [
            (
                "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=a RESULT=ok>",
                "a",
                "`ok` is not a result",
            ),
            (
                "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=a b RESULT=pass>",
                "a b",
                "a space in an id",
            ),
            (
                "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=a RESULT=pass MEASUREMENT=many>",
                "a",
                "`many` is not a number",
            ),
            (
                "<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=a RESU[   12.5] usb 1-1: new device",
                "a",
                "torn",
            ),
        ] {
            match one(line) {
                Parsed::Bad(bad) => {
                    assert_eq!(bad.case.as_deref(), Some(case), "{line}");
                    assert!(bad.reason.contains(reason), "{line}: {}", bad.reason);
                }
                Parsed::Signal(Signal::Case(words)) => {
                    let said = words.read(|word| word).unwrap_err();
                    assert_eq!(words.id, case, "{line}");
                    assert!(said.contains(reason), "{line}: {said}");
                }
                Parsed::Signal(signal) => panic!("{line} became {signal:?}"),
            }
        }
    }

    #[test]
    fn a_torn_signal_does_not_take_the_next_one_along() {
        let found =
            scan("<LAVA_SIGNAL_TESTCASE TEST_CASE_ID=a <LAVA_SIGNAL_ENDTC b> <LAVA_SIGNAL_NEW x>");
        assert_eq!(found.len(), 3);
        assert!(matches!(&found[0], Parsed::Bad(bad) if bad.reason.contains("torn")));
        assert_eq!(found[1], Parsed::Signal(Signal::EndCase { id: "b".into() }));
        assert!(matches!(&found[2], Parsed::Bad(bad) if bad.reason.contains("unknown signal")));
    }

    #[test]
    fn cases_are_read_as_the_dispatcher_reads_them() {
        let read = |parameters: &str| match one(&format!("<LAVA_SIGNAL_TESTCASE {parameters}>")) {
            Parsed::Signal(Signal::Case(words)) => words.read(|word| word).unwrap(),
            other => panic!("{parameters}: {other:?}"),
        };
        assert_eq!(read("test_case_id=a result=PASS").outcome, Outcome::Pass);
        assert_eq!(
            read("TEST_CASE_ID=a RESULT=Skip X=y").outcome,
            Outcome::Skip
        );
        assert_eq!(
            read("TEST_CASE_ID=a RESULT=fail RESULT=pass").outcome,
            Outcome::Pass
        );
        for (written, shown) in [
            ("99.50", "99.50"),
            ("1e3", "1000.0"),
            (".5", "0.5"),
            ("5.", "5.0"),
            ("+1", "1.0"),
            ("1_000", "1000.0"),
            ("_1__0_", "10.0"),
            ("-3", "-3"),
            ("0.1000000000000000055511", "0.1000000000000000055511"),
        ] {
            let case = read(&format!("TEST_CASE_ID=a RESULT=pass MEASUREMENT={written}"));
            assert_eq!(case.measurement.as_deref(), Some(shown), "{written}");
        }
        for wrong in ["nan", "inf", "-inf", "x", "", "_", "1,5", "0x10"] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "(<LAVA_SIGNAL_|<LAVA_TEST_RUNNER |TESTCASE |TEST_CASE_ID=|RESULT=|>| |[a-zé\u{0}]){0,30}") {
            scan(&line);
        }
    }
}
