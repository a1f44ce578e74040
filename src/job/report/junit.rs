//! Owns the JUnit form of a report. Never loses a measurement, and never shows an unknown result as passed.
//!
//! Format: the schema that CI systems share (Jenkins' `jenkins-junit.xsd`); measurements are
//! `properties` of their case, as pytest writes them.

use anyhow::Result;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::problems::{run_problems, suite_problems};
use crate::job::result::{Case, Outcome, Report, Suite};

type Xml = Writer<Vec<u8>>;

/// The report as JUnit XML.
pub fn junit(report: &Report) -> Result<String> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let tests: usize = report.suites.iter().map(|suite| suite.cases.len()).sum();
    let broken = report.failure().is_some() || !run_problems(report).is_empty();
    xml.create_element("testsuites")
        .with_attributes([
            ("name", text(&report.board).as_str()),
            ("tests", &(tests + usize::from(broken)).to_string()),
            ("failures", &report.count(Outcome::Fail).to_string()),
            (
                "errors",
                &(errors(report) + usize::from(broken)).to_string(),
            ),
            ("time", &seconds(report.duration)),
        ])
        .write_inner_content(|xml| {
            for suite in &report.suites {
                write_suite(xml, report, suite)?;
            }
            if broken {
                write_run(xml, report)?;
            }
            Ok(())
        })?;
    let mut bytes = xml.into_inner();
    bytes.push(b'\n');
    Ok(String::from_utf8(bytes)?)
}

/// What is neither passed, skipped nor failed: unknown results, and suites that did not end well.
fn errors(report: &Report) -> usize {
    report.suites.iter().map(suite_errors).sum()
}

fn suite_errors(suite: &Suite) -> usize {
    suite.count(Outcome::Unknown) + suite_problems(suite).len()
}

fn write_suite(xml: &mut Xml, report: &Report, suite: &Suite) -> std::io::Result<()> {
    xml.create_element("testsuite")
        .with_attributes([
            ("name", text(&suite.name).as_str()),
            ("hostname", &text(&report.board)),
            ("timestamp", &text(&report.started)),
            (
                "tests",
                &(suite.cases.len() + suite_problems(suite).len()).to_string(),
            ),
            ("failures", &suite.count(Outcome::Fail).to_string()),
            ("errors", &suite_errors(suite).to_string()),
            ("skipped", &suite.count(Outcome::Skip).to_string()),
            ("time", &seconds(suite.duration.unwrap_or_default())),
        ])
        .write_inner_content(|xml| {
            properties(
                xml,
                &[
                    ("board-type", Some(&report.board_type)),
                    ("image", Some(&report.image)),
                    ("hearth", Some(&report.hearth)),
                ],
            )?;
            for case in &suite.cases {
                write_case(xml, suite, case)?;
            }
            for problem in suite_problems(suite) {
                error_case(xml, &suite.name, "definition", &problem, &[])?;
            }
            Ok(())
        })?;
    Ok(())
}

fn write_case(xml: &mut Xml, suite: &Suite, case: &Case) -> std::io::Result<()> {
    let class = match &case.set {
        Some(set) => format!("{}.{set}", suite.name),
        None => suite.name.clone(),
    };
    xml.create_element("testcase")
        .with_attributes([
            ("classname", text(&class).as_str()),
            ("name", &text(&case.id)),
            ("time", &seconds(case.duration.unwrap_or_default())),
        ])
        .write_inner_content(|xml| {
            properties(
                xml,
                &[
                    ("measurement", case.measurement.as_ref()),
                    ("units", case.units.as_ref()),
                    ("reference", case.reference.as_ref()),
                ],
            )?;
            let message = case
                .problem
                .clone()
                .unwrap_or_else(|| case.outcome.name().into());
            let element = match case.outcome {
                Outcome::Pass => None,
                Outcome::Fail => Some("failure"),
                Outcome::Skip => Some("skipped"),
                Outcome::Unknown => Some("error"),
            };
            if let Some(element) = element {
                xml.create_element(element)
                    .with_attribute(("message", text(&message).as_str()))
                    .write_empty()?;
            }
            write_output(xml, &case.output)
        })?;
    Ok(())
}

/// What went wrong with the run as a whole, as a suite of its own: no case of a test is to blame.
fn write_run(xml: &mut Xml, report: &Report) -> std::io::Result<()> {
    let mut problems = run_problems(report);
    let mut console: &[String] = &[];
    if let Some(failure) = report.failure() {
        problems.insert(
            0,
            format!(
                "{} failure in {}: {}",
                failure.class.name(),
                failure.stage,
                failure.message
            ),
        );
        console = &failure.console;
    }
    xml.create_element("testsuite")
        .with_attributes([
            ("name", "hearth"),
            ("tests", "1"),
            ("failures", "0"),
            ("errors", "1"),
            ("time", "0.000"),
        ])
        .write_inner_content(|xml| {
            error_case(xml, "hearth", "run", &problems.join("; "), console)
        })?;
    Ok(())
}

fn error_case(
    xml: &mut Xml,
    class: &str,
    name: &str,
    message: &str,
    output: &[String],
) -> std::io::Result<()> {
    xml.create_element("testcase")
        .with_attributes([
            ("classname", text(class).as_str()),
            ("name", name),
            ("time", "0.000"),
        ])
        .write_inner_content(|xml| {
            xml.create_element("error")
                .with_attribute(("message", text(message).as_str()))
                .write_empty()?;
            write_output(xml, output)
        })?;
    Ok(())
}

fn properties(xml: &mut Xml, pairs: &[(&str, Option<&String>)]) -> std::io::Result<()> {
    let pairs: Vec<_> = pairs
        .iter()
        .filter_map(|(name, value)| Some((*name, (*value)?)))
        .collect();
    if pairs.is_empty() {
        return Ok(());
    }
    xml.create_element("properties")
        .write_inner_content(|xml| {
            for (name, value) in pairs {
                xml.create_element("property")
                    .with_attributes([("name", name), ("value", text(value).as_str())])
                    .write_empty()?;
            }
            Ok(())
        })?;
    Ok(())
}

fn write_output(xml: &mut Xml, lines: &[String]) -> std::io::Result<()> {
    if !lines.is_empty() {
        xml.create_element("system-out")
            .write_text_content(BytesText::new(&text(&lines.join("\n"))))?;
    }
    Ok(())
}

/// Without the characters that XML 1.0, section 2.2, does not have; consoles are full of them.
fn text(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => c,
            _ => '\u{fffd}',
        })
        .collect()
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3}")
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn nothing_is_lost_and_unknown_is_an_error() {
        let xml = junit(&example::report()).unwrap();
        for part in [
            r#"<testsuites name="neo1" tests="4" failures="1" errors="1" time="61.000">"#,
            r#"<property name="measurement" value="0.10"/>"#,
            r#"<property name="units" value="s"/>"#,
            r#"<testcase classname="0_smoke.net" name="ping" time="0.000">"#,
            r#"name="boot&lt;time&gt;" time="1.500""#,
            "<error message=\"`ok` is not a result\"/>",
            "<skipped ",
            "no &amp; route \u{fffd}[31m",
        ] {
            assert!(xml.contains(part), "{part} is not in\n{xml}");
        }
    }

    #[test]
    fn a_failed_run_is_an_error_beside_the_tests() {
        let xml = junit(&example::broken()).unwrap();
        assert!(
            xml.contains("infrastructure failure in kernel: the kernel panicked"),
            "{xml}"
        );
        assert!(xml.contains("Kernel panic - not syncing"));
    }
}
