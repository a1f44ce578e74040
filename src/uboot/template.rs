//! Owns the rendering of boot scripts: Handlebars templates, and the quoting of values for U-Boot.
//! Never decides which values a board has.
//!
//! The quoting rule, for U-Boot's hush shell (U-Boot manual, "Hush shell"; `common/cli_hush.c`): a
//! value of letters, digits and `_ . / : , @ % + -` is written as it is; any other is put in single
//! quotes, inside which hush has no special characters. Hush cannot represent a single quote there,
//! loses a backslash when it parses a word a second time, and interprets control characters: values
//! with those are refused. Inside single quotes of the template a value is written as it is; inside
//! double quotes it is refused, as quoting it would end them. So a value is always one word, or
//! part of one, and never a command. A script that U-Boot could not run as written is refused: see
//! `check`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use handlebars::{Handlebars, RenderError, RenderErrorReason, TemplateError};
use serde::Serialize;
use serde_json::Value;

use super::check;
use crate::data::{self, Kind, Source};
use crate::diagnostic::Diagnostic;
use crate::error::Fault;

/// Suffix of the file names of script templates.
const SCRIPT: &str = ".cmd";
/// Suffix of the file names of extlinux templates.
const EXTLINUX: &str = ".extlinux";

const TEMPLATE: Kind = Kind {
    noun: "boot script",
    directory: "boot-scripts",
    suffix: ".hbs",
};

// Mark the begin and end of each value in rendered text, until its quoting is decided. Neither
// values nor templates can contain them: control characters are refused in both.
const BEGIN: char = '\u{1}';
const END: char = '\u{2}';

/// Templates of boot scripts, parsed once for any number of boards.
pub struct Templates {
    registry: Handlebars<'static>,
    sources: BTreeMap<String, Source>,
}

impl Templates {
    /// All templates that hearth ships or the user has added.
    ///
    /// # Errors
    /// A [`Diagnostic`] for the first mistake in a template.
    pub fn load() -> Result<Self> {
        Templates::new(data::all(TEMPLATE)?)
    }

    /// Templates by name: `nfs.cmd` is a script, `nfs.extlinux` its equivalent, others are parts.
    pub fn new(sources: BTreeMap<String, Source>) -> Result<Self> {
        let mut registry = Handlebars::new();
        registry.set_strict_mode(true);
        registry.register_escape_fn(|value| format!("{BEGIN}{value}{END}"));
        let mut templates = Templates {
            registry,
            sources: BTreeMap::new(),
        };
        for (name, source) in sources {
            templates.add(&name, source)?;
        }
        Ok(templates)
    }

    /// Adds a template from a file of the user's, as a script with this name.
    pub fn add_script(&mut self, name: &str, source: Source) -> Result<()> {
        self.add(&format!("{name}{SCRIPT}"), source)
    }

    fn add(&mut self, name: &str, mut source: Source) -> Result<()> {
        // Added by editors of other systems; for U-Boot they would be parts of words.
        let (text, taken_out) = check::mended(source.text.as_bytes());
        if !taken_out.is_empty() {
            source.text = String::from_utf8_lossy(&text).into_owned();
        }
        refuse_raw(&source)?;
        self.registry
            .register_template_string(name, &source.text)
            .map_err(|error| syntax(&source, &error))?;
        self.sources.insert(name.to_string(), source);
        Ok(())
    }

    /// Names of the available scripts.
    pub fn scripts(&self) -> Vec<&str> {
        self.sources
            .keys()
            .filter_map(|name| name.strip_suffix(SCRIPT))
            .collect()
    }

    /// Renders the script `name` for U-Boot's shell.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// use hearth::data::Source;
    /// use hearth::uboot::Templates;
    ///
    /// let source = Source {
    ///     path: "hello.cmd.hbs".into(),
    ///     text: "setenv greeting {{greeting}}\n".into(),
    /// };
    /// let templates = Templates::new(BTreeMap::from([("hello.cmd".into(), source)]))?;
    /// let values = serde_json::json!({ "greeting": "two words; reset" });
    /// let script = templates.script("hello", &values)?;
    /// assert_eq!(script, "setenv greeting 'two words; reset'\n");
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// A [`Diagnostic`] for an undefined variable; a value that U-Boot cannot represent; a value
    /// inside double quotes.
    pub fn script(&self, name: &str, values: &impl Serialize) -> Result<String> {
        let template = format!("{name}{SCRIPT}");
        if !self.sources.contains_key(&template) {
            return Err(Fault::input(format!("there is no boot script `{name}`"))
                .remedy(crate::diagnostic::suggestion(name, &self.scripts()))
                .into());
        }
        let text = quote_for_hush(&template, &self.marked(&template, values)?)?;
        check::runnable(text.as_bytes()).with_context(|| template.clone())?;
        Ok(text)
    }

    /// Renders the `extlinux.conf` equivalent to the script `name`, if there is one.
    ///
    /// # Errors
    /// As [`Templates::script`].
    pub fn extlinux(&self, name: &str, values: &impl Serialize) -> Result<Option<String>> {
        let template = format!("{name}{EXTLINUX}");
        if !self.sources.contains_key(&template) {
            return Ok(None);
        }
        let marked = self.marked(&template, values)?;
        Ok(Some(escape_for_extlinux(&marked)))
    }

    fn marked(&self, template: &str, values: &impl Serialize) -> Result<String> {
        let values = serde_json::to_value(values)?;
        refuse_values("", &values)?;
        self.registry
            .render(template, &values)
            .map_err(|error| self.rendering(template, &error).into())
    }

    fn rendering(&self, template: &str, error: &RenderError) -> Box<Diagnostic> {
        let name = error.template_name.as_deref().unwrap_or(template);
        let message = match error.reason() {
            RenderErrorReason::MissingVariable(Some(name)) => {
                format!("`{name}` is not defined for this board")
            }
            RenderErrorReason::MissingVariable(None) => {
                "a variable is not defined for this board".to_string()
            }
            other => other.to_string(),
        };
        let source = self
            .sources
            .get(name)
            .unwrap_or_else(|| &self.sources[template]);
        place(
            source,
            error.line_no.unwrap_or(1),
            error.column_no.unwrap_or(1),
            message,
        )
    }
}

fn syntax(source: &Source, error: &TemplateError) -> Box<Diagnostic> {
    let (line, column) = error.pos().unwrap_or((1, 1));
    place(source, line, column, error.reason().to_string())
}

/// A diagnostic at a line and column, both from 1.
fn place(source: &Source, line: usize, column: usize, message: String) -> Box<Diagnostic> {
    let before: usize = source
        .text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let rest = source.text[before..].lines().next().unwrap_or_default();
    let start = rest
        .char_indices()
        .nth(column.saturating_sub(1))
        .map_or(rest.len(), |(offset, _)| offset);
    let end = rest[start..]
        .find("}}")
        .map_or(rest.len(), |length| start + length + 2);
    Box::new(Diagnostic {
        file: source.path.clone(),
        text: source.text.clone(),
        span: before + start..before + end,
        message,
        help: None,
    })
}

/// Refuses expressions that bypass the quoting: `{{{x}}}` and `{{&x}}`.
fn refuse_raw(source: &Source) -> Result<(), Box<Diagnostic>> {
    let text = &source.text;
    let wrong = |offset: usize, length: usize, message: &str| {
        Box::new(Diagnostic {
            file: PathBuf::from(&source.path),
            text: text.clone(),
            span: offset..offset + length,
            message: message.into(),
            help: None,
        })
    };
    for (offset, _) in text.match_indices("{{") {
        let inside = text[offset + 2..].trim_start_matches('~').trim_start();
        if inside.starts_with(['{', '&']) {
            return Err(wrong(offset, 3, "a value must not go around the quoting")
                .help("write {{name}}; a value is quoted where that is needed"));
        }
    }
    if let Some((offset, c)) = text
        .char_indices()
        .find(|(_, c)| c.is_control() && !matches!(c, '\n' | '\t'))
    {
        return Err(wrong(
            offset,
            c.len_utf8(),
            "a boot script has no control characters",
        ));
    }
    Ok(())
}

/// Refuses strings that U-Boot's shell cannot represent, anywhere in `values`.
fn refuse_values(name: &str, values: &Value) -> Result<(), Fault> {
    match values {
        Value::String(text) => match text.chars().find(|c| !is_representable(*c)) {
            None => Ok(()),
            Some(c) => Err(Fault::input(format!(
                "the value of `{name}` has {c:?} in it, which U-Boot's shell cannot quote"
            ))),
        },
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| refuse_values(&format!("{name}[{index}]"), item)),
        Value::Object(map) => map.iter().try_for_each(|(key, item)| {
            let inner = if name.is_empty() {
                key.clone()
            } else {
                format!("{name}.{key}")
            };
            if key.chars().all(is_representable) {
                refuse_values(&inner, item)
            } else {
                Err(Fault::input(format!(
                    "{inner:?} cannot be the name of a value"
                )))
            }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn is_representable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\'' | '\\')
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_./:,@%+-".contains(c)
}

/// Quotes a value as a word, or a part of a word, of U-Boot's shell. It must be representable.
fn quoted(value: &str) -> String {
    if !value.is_empty() && value.chars().all(is_plain) {
        value.to_string()
    } else {
        format!("'{value}'")
    }
}

/// Escapes a value for extlinux.conf: the format has no quotes, and a line is a keyword and the
/// rest; but U-Boot expands variables in it (`common/cli_simple.c`) unless a backslash precedes the
/// dollar sign.
fn escape_for_extlinux(marked: &str) -> String {
    let mut out = String::with_capacity(marked.len());
    let mut in_value = false;
    for c in marked.chars() {
        match c {
            BEGIN | END => in_value = c == BEGIN,
            '$' if in_value => out.push_str("\\$"),
            _ => out.push(c),
        }
    }
    out
}

/// The lexical context of a character in a script.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between words, where `#` begins a comment.
    Blank,
    Word,
    SingleQuotes,
    DoubleQuotes,
    /// A single quote between double quotes begins a quotation of its own: see `check`.
    SingleInDouble,
    Comment,
}

/// Parses a rendered script by hush's rules and quotes the marked values.
fn quote_for_hush(template: &str, marked: &str) -> Result<String> {
    let mut out = String::with_capacity(marked.len());
    let mut state = State::Blank;
    let mut rest = marked.chars();
    while let Some(c) = rest.next() {
        if c == BEGIN {
            let value: String = rest.by_ref().take_while(|c| *c != END).collect();
            match state {
                State::Blank | State::Word => {
                    out.push_str(&quoted(&value));
                    state = State::Word;
                }
                // A value contains no character that ends the comment or the quotation.
                State::Comment | State::SingleQuotes => out.push_str(&value),
                State::DoubleQuotes | State::SingleInDouble => {
                    return Err(misplaced(template, &out, &value).into());
                }
            }
            continue;
        }
        out.push(c);
        if c == '\\' && matches!(state, State::Blank | State::Word | State::DoubleQuotes) {
            match rest.next() {
                Some(BEGIN) => return Err(misplaced(template, &out, "").into()),
                Some(escaped) => out.push(escaped),
                None => {}
            }
            if state == State::Blank {
                state = State::Word;
            }
            continue;
        }
        state = after(state, c);
    }
    Ok(out)
}

/// The context after the character `c`, which is not escaped.
fn after(state: State, c: char) -> State {
    match (state, c) {
        (State::SingleQuotes, '\'') | (State::DoubleQuotes, '"') => State::Word,
        (State::DoubleQuotes, '\'') => State::SingleInDouble,
        (State::SingleInDouble, '\'') => State::DoubleQuotes,
        (State::SingleQuotes | State::DoubleQuotes | State::SingleInDouble, _) => state,
        (_, '\n') => State::Blank,
        (State::Comment, _) | (State::Blank, '#') => State::Comment,
        (_, '\'') => State::SingleQuotes,
        (_, '"') => State::DoubleQuotes,
        (_, ' ' | '\t' | ';' | '&' | '|') => State::Blank,
        _ => State::Word,
    }
}

fn misplaced(template: &str, before: &str, value: &str) -> Fault {
    let line = before.matches('\n').count() + 1;
    Fault::input(format!(
        "{template}: the value `{value}` stands inside double quotes or after a backslash (line {line} of the script)"
    ))
    .remedy("close the quotes before a value and open them after it: \"board \" {{board}} \" boots\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn templates(name: &str, text: &str) -> Result<Templates> {
        let source = Source {
            path: format!("boot-scripts/{name}.hbs").into(),
            text: text.into(),
        };
        Templates::new(BTreeMap::from([(name.to_string(), source)]))
    }

    fn render(text: &str, values: Value) -> Result<String> {
        templates("t.cmd", text)?.script("t", &values)
    }

    #[test]
    fn values_are_quoted_where_they_stand() {
        let values = json!({"a": "x y", "b": "10.0.2.2", "c": "$(reset); #"});
        for (template, expected) in [
            ("setenv a {{a}}", "setenv a 'x y'"),
            ("setenv a p={{b}}:/{{a}}", "setenv a p=10.0.2.2:/'x y'"),
            (
                "echo {{c}} \"z\" 'y'{{a}}",
                "echo '$(reset); #' \"z\" 'y''x y'",
            ),
            ("# it's {{a}}\nrun {{b}}", "# it's x y\nrun 10.0.2.2"),
            ("a#{{a}}", "a#'x y'"),
            (
                "setenv a 'p={{a}} q={{c}}'",
                "setenv a 'p=x y q=$(reset); #'",
            ),
            ("setenv e \\' {{a}}", "setenv e \\' 'x y'"),
        ] {
            assert_eq!(render(template, values.clone()).unwrap(), expected);
        }
        assert_eq!(
            render("setenv a {{a}}", json!({"a": ""})).unwrap(),
            "setenv a ''"
        );
    }

    #[test]
    fn a_value_between_quotes_is_refused() {
        for template in [
            "echo \"{{a}}\"",
            "\necho \\{{{a}}}",
            "echo \"x\\\" {{a}}\"",
            "echo \"it's\" {{a}} \"it's\"",
        ] {
            assert!(render(template, json!({"a": "x"})).is_err(), "{template}");
        }
        let told = render("\necho \"{{a}}\"", json!({"a": "x"}))
            .unwrap_err()
            .to_string();
        assert!(told.contains("line 2 of the script"), "{told}");
    }

    #[test]
    fn an_undefined_variable_is_told_with_its_place() {
        let told = render("a\nb {{nonsense}}\n", json!({}))
            .unwrap_err()
            .to_string();
        assert_eq!(
            told,
            "boot-scripts/t.cmd.hbs:2:3: `nonsense` is not defined for this board"
        );
        let told = render("{{#if a}}\nb\n", json!({})).unwrap_err().to_string();
        assert!(told.starts_with("boot-scripts/t.cmd.hbs:"), "{told}");
        for raw in ["b {{{a}}}", "b {{&a}}", "b {{~ & a}}"] {
            let told = render(raw, json!({"a": "x"})).unwrap_err().to_string();
            assert!(
                told.starts_with("boot-scripts/t.cmd.hbs:1:3: a value must not"),
                "{told}"
            );
        }
    }

    #[test]
    fn extlinux_does_not_expand_a_value() {
        let templates = templates("t.extlinux", "append a={{a}} ${b}").unwrap();
        let text = templates.extlinux("t", &json!({"a": "x $(y)"})).unwrap();
        assert_eq!(text.as_deref(), Some("append a=x \\$(y) ${b}"));
        assert_eq!(templates.extlinux("u", &json!({})).unwrap(), None);
    }

    #[test]
    fn what_hush_cannot_quote_is_refused() {
        for bad in [
            "it's", "a\nb", "a\0b", "a\\b", "a\u{85}b", "\u{1}", "\u{7f}",
        ] {
            let told = render("{{a.b}}", json!({"a": {"b": bad}}))
                .unwrap_err()
                .to_string();
            assert!(told.contains("`a.b`"), "{told}");
        }
    }

    /// Splits a line like hush, without expansions: returns the words of a simple command, or
    /// nothing if the line is more than that.
    fn words(line: &str) -> Option<Vec<String>> {
        let mut words: Vec<String> = Vec::new();
        let mut word: Option<String> = None;
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                ' ' | '\t' => words.extend(word.take()),
                '\'' => {
                    let inside: String = chars.by_ref().take_while(|c| *c != '\'').collect();
                    word.get_or_insert_default().push_str(&inside);
                }
                '"' | '\\' | '$' | ';' | '&' | '|' | '\n' | '#' | '(' | ')' | '<' | '>' | '`' => {
                    return None;
                }
                _ => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        Some(words)
    }

    #[test]
    fn a_template_of_another_system_is_mended_and_one_that_cannot_run_is_refused() {
        let values = json!({"a": "1", "many": vec!["k=1"; 63]});
        assert_eq!(
            render(
                "\u{feff}if test {{a}} = 1; then\r\n  boot\r\nfi\r\n",
                values.clone()
            )
            .unwrap(),
            "if test 1 = 1; then\n  boot\nfi\n"
        );
        let many = "setenv x{{#each many}} {{this}}{{/each}}\n";
        for (text, what) in [
            (
                "echo a\nsetenv b 'c {{a}}\n",
                "line 2 of the script has a single quote",
            ),
            ("if true; then\n{{a}}\n", "line 1 of the script has an `if`"),
            (many, "a command of 65 words"),
        ] {
            let told = format!("{:#}", render(text, values.clone()).unwrap_err());
            assert!(told.contains(what) && told.contains("t.cmd"), "{told}");
        }
        let quoted = "setenv x '{{#each many}} {{this}}{{/each}}'\n";
        assert!(render(quoted, values).is_ok());
    }

    proptest! {
        #[test]
        fn no_value_breaks_out_of_its_word(a in "\\PC{0,12}|[ -~\\n]{0,12}", b in "[ -~]{0,8}") {
            match render("setenv x p{{a}}s {{b}} end", json!({"a": a, "b": b})) {
                Ok(line) => prop_assert_eq!(
                    words(&line),
                    Some(vec!["setenv".into(), "x".into(), format!("p{a}s"), b, "end".into()])
                ),
                Err(_) => prop_assert!(!a.chars().chain(b.chars()).all(is_representable)),
            }
        }
    }
}
