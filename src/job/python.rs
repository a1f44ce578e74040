//! Owns what LAVA, which is Python, makes of a YAML value when it writes it into a shell script.
//! Never reads YAML: see `yaml`.
//!
//! Format: the implicit types of YAML 1.1 as PyYAML's `resolver.py` has them, and `str()` and `repr()` of Python 3.

use std::sync::LazyLock;

use regex::Regex;

use super::yaml::{Node, Yaml};

static INT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^(?P<sign>[-+]?)(?:0b(?P<bin>[0-1_]+)|0x(?P<hex>[0-9a-fA-F_]+)|0(?P<oct>[0-7_]+)|(?P<dec>0|[1-9][0-9_]*)|(?P<sexa>[1-9][0-9_]*(?::[0-5]?[0-9])+))$",
    )
    .expect("the pattern is a constant")
});
static FLOAT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    )
    .expect("the pattern is a constant")
});
static TIME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^(\d{4})-(\d\d?)-(\d\d?)(?:(?:[Tt]|[ \t]+)(\d\d?):(\d\d):(\d\d)(?:\.(\d*))?(?:[ \t]*(?:(Z)|([-+])(\d\d?)(?::(\d\d))?))?)?$",
    )
    .expect("the pattern is a constant")
});

/// What `repr()` escapes in a string: all that `str.isprintable` does not hold for.
static UNPRINTABLE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}--[ ]]").expect("the pattern is a constant"));

/// A value of Python.
#[derive(Clone, Debug, PartialEq)]
pub enum Python {
    None,
    Bool(bool),
    /// In decimal, of any size.
    Int(String),
    Float(f64),
    Str(String),
    /// A date or a time: what `str()` and `repr()` give.
    Time(String, String),
    List(Vec<Python>),
    Dict(Vec<(Python, Python)>),
}

impl Python {
    pub fn of(node: &Node) -> Python {
        match &node.value {
            Yaml::Scalar { text, plain, tag } => scalar(text, *plain, tag.as_deref()),
            Yaml::Sequence(values) => Python::List(values.iter().map(Python::of).collect()),
            Yaml::Mapping(pairs) => Python::Dict(
                pairs
                    .iter()
                    .map(|(key, value)| (Python::of(key), Python::of(value)))
                    .collect(),
            ),
        }
    }

    /// Whether `if value:` holds.
    pub fn is_true(&self) -> bool {
        match self {
            Python::None => false,
            Python::Bool(value) => *value,
            Python::Int(digits) => digits != "0",
            Python::Float(value) => *value != 0.0,
            Python::Str(text) => !text.is_empty(),
            Python::Time(..) => true,
            Python::List(values) => !values.is_empty(),
            Python::Dict(pairs) => !pairs.is_empty(),
        }
    }

    /// `str(value)`.
    pub fn str(&self) -> String {
        match self {
            Python::Str(text) => text.clone(),
            Python::Time(text, _) => text.clone(),
            other => other.repr(),
        }
    }

    fn repr(&self) -> String {
        let joined = |parts: Vec<String>| parts.join(", ");
        match self {
            Python::None => "None".into(),
            Python::Bool(true) => "True".into(),
            Python::Bool(false) => "False".into(),
            Python::Int(digits) => digits.clone(),
            Python::Float(value) => float(*value),
            Python::Str(text) => quoted(text),
            Python::Time(_, repr) => repr.clone(),
            Python::List(values) => {
                format!("[{}]", joined(values.iter().map(Python::repr).collect()))
            }
            Python::Dict(pairs) => {
                let pairs = pairs
                    .iter()
                    .map(|(key, value)| format!("{}: {}", key.repr(), value.repr()));
                format!("{{{}}}", joined(pairs.collect()))
            }
        }
    }
}

fn scalar(text: &str, plain: bool, tag: Option<&str>) -> Python {
    match tag {
        Some("str") => return Python::Str(text.into()),
        // Of another type of its own: only its text can be meant.
        Some(tag) if !["int", "float", "bool", "null", "timestamp"].contains(&tag) => {
            return Python::Str(text.into());
        }
        Some("float") if let Ok(value) = text.parse() => return Python::Float(value),
        Some("null") => return Python::None,
        None if !plain => return Python::Str(text.into()),
        _ => {}
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Python::None,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Python::Bool(true);
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Python::Bool(false);
        }
        _ => {}
    }
    // A number's first character decides, as in PyYAML's table of resolvers.
    integer(text)
        .or_else(|| decimal(text))
        .or_else(|| time(text))
        .unwrap_or_else(|| Python::Str(text.into()))
}

fn integer(text: &str) -> Option<Python> {
    let found = INT.captures(text)?;
    let digits = |name: &str| found.name(name).map(|part| part.as_str().replace('_', ""));
    let value = |text: &str, base: u32| -> Option<Vec<u32>> {
        (!text.is_empty())
            .then(|| text.chars().map(|c| c.to_digit(base)).collect())
            .flatten()
    };
    let decimal = if let Some(text) = digits("dec") {
        text
    } else if let Some(text) = digits("bin") {
        in_decimal(2, &value(&text, 2)?)
    } else if let Some(text) = digits("hex") {
        in_decimal(16, &value(&text, 16)?)
    } else if let Some(text) = digits("oct") {
        in_decimal(8, &value(&format!("0{text}"), 8)?)
    } else {
        let text = digits("sexa")?;
        let mut parts = text.split(':');
        let first = value(parts.next()?, 10)?;
        let rest: Vec<u32> = parts.filter_map(|part| part.parse().ok()).collect();
        scaled(&in_decimal(10, &first), 60, &rest)
    };
    let sign = if &found["sign"] == "-" && decimal != "0" {
        "-"
    } else {
        ""
    };
    Some(Python::Int(format!("{sign}{decimal}")))
}

/// Digits of a base as a decimal number of any size.
fn in_decimal(base: u32, digits: &[u32]) -> String {
    scaled("0", base, digits)
}

/// `start`, times `base` plus a digit, for each digit.
fn scaled(start: &str, base: u32, digits: &[u32]) -> String {
    // Least significant first.
    let mut number: Vec<u32> = start.chars().rev().filter_map(|c| c.to_digit(10)).collect();
    for digit in digits {
        let mut carry = *digit;
        for place in &mut number {
            let value = *place * base + carry;
            (*place, carry) = (value % 10, value / 10);
        }
        while carry > 0 {
            number.push(carry % 10);
            carry /= 10;
        }
    }
    while number.len() > 1 && number.last() == Some(&0) {
        number.pop();
    }
    number
        .iter()
        .rev()
        .filter_map(|digit| char::from_digit(*digit, 10))
        .collect()
}

fn decimal(text: &str) -> Option<Python> {
    if !FLOAT.is_match(text) {
        return None;
    }
    let plain = text.replace('_', "").to_ascii_lowercase();
    let (sign, plain) = match plain.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let value = match plain {
        ".inf" => f64::INFINITY,
        ".nan" => f64::NAN,
        _ if plain.contains(':') => plain.split(':').try_fold(0.0, |sum, part| {
            Some(sum * 60.0 + part.parse::<f64>().ok()?)
        })?,
        _ => plain.parse().ok()?,
    };
    Some(Python::Float(sign * value))
}

/// `repr()` of a float: the shortest digits that read back as the same number.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`e` is always there");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') {
            plain
        } else {
            format!("{plain}.0")
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn time(text: &str) -> Option<Python> {
    let found = TIME.captures(text)?;
    let part = |index: usize| -> i64 {
        found
            .get(index)
            .and_then(|part| part.as_str().parse().ok())
            .unwrap_or(0)
    };
    let (year, month, day) = (part(1), part(2), part(3));
    let date = jiff::civil::Date::new(
        i16::try_from(year).ok()?,
        i8::try_from(month).ok()?,
        i8::try_from(day).ok()?,
    )
    .ok()?;
    if found.get(4).is_none() {
        // A date alone has two digits everywhere.
        return (found[2].len() == 2 && found[3].len() == 2).then(|| {
            Python::Time(
                date.to_string(),
                format!("datetime.date({year}, {month}, {day})"),
            )
        });
    }
    let (hour, minute, second) = (part(4), part(5), part(6));
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let fraction = found.get(7).map_or("", |digits| digits.as_str());
    let micros: i64 = format!("{fraction:0<6}")[..6].parse().ok()?;
    let mut shown = format!("{date} {hour:02}:{minute:02}:{second:02}");
    let mut repr = format!("{year}, {month}, {day}, {hour}, {minute}");
    if second > 0 || micros > 0 {
        repr.push_str(&format!(", {second}"));
    }
    if micros > 0 {
        shown.push_str(&format!(".{micros:06}"));
        repr.push_str(&format!(", {micros}"));
    }
    if found.get(8).is_some() {
        shown.push_str("+00:00");
        repr.push_str(", tzinfo=datetime.timezone.utc");
    } else if let Some(sign) = found.get(9) {
        shown.push_str(&format!("{}{:02}:{:02}", sign.as_str(), part(10), part(11)));
        let distance = part(10) * 3600 + part(11) * 60;
        let zone = match (sign.as_str(), distance) {
            (_, 0) => "datetime.timezone.utc".to_string(),
            ("-", _) => {
                let rest = distance.rem_euclid(86400);
                let days = -(distance + 86399) / 86400;
                format!(
                    "datetime.timezone(datetime.timedelta(days={days}, seconds={}))",
                    86400 - rest
                )
            }
            _ => format!("datetime.timezone(datetime.timedelta(seconds={distance}))"),
        };
        repr.push_str(&format!(", tzinfo={zone}"));
    }
    Some(Python::Time(shown, format!("datetime.datetime({repr})")))
}

/// `repr()` of a string.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if UNPRINTABLE.is_match(c.encode_utf8(&mut [0; 4])) => {
                out.push_str(&match u32::from(c) {
                    code @ 0..=0xff => format!("\\x{code:02x}"),
                    code @ 0x100..=0xffff => format!("\\u{code:04x}"),
                    code => format!("\\U{code:08x}"),
                });
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::yaml::parse;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn ours(text: &str) -> Option<String> {
        let document = parse(&format!("v: {text}\n")).ok()?;
        Some(Python::of(document.root.get("v")?).str())
    }

    /// What PyYAML makes of each text: `str()` of the value, or nothing where it refuses it.
    fn theirs(texts: &[&str]) -> Vec<Option<String>> {
        const SCRIPT: &str = "import sys, json, yaml
out = []
for text in json.load(sys.stdin):
    try: out.append(str(yaml.safe_load('v: %s\\n' % text)['v']))
    except Exception: out.append(None)
print(json.dumps(out))";
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3, with the package python3-yaml");
        let input = serde_json::to_vec(texts).unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        let output = child.wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).expect("PyYAML, of the package python3-yaml")
    }

    const TEXTS: [&str; 82] = [
        "1 # a comment",
        "[a, # a comment\n  b]",
        "!!null x",
        "!!float 1e3",
        "! yes",
        "[2001-12-14t21:59:43.10-05:00, 2001-12-14 21:59:43 +5:30]",
        "[2001-12-14t21:59:43-00:00]",
        "[\"\\u00a0\\u200b\\x85\\u2028\\ue000\\U0001F600e\\u0301\"]",
        "yes",
        "No",
        "ON",
        "off",
        "true",
        "y",
        "n",
        "~",
        "null",
        "Null",
        "''",
        "\"yes\"",
        "08",
        "0644",
        "0755",
        "-0755",
        "00",
        "0",
        "-0",
        "+1",
        "1_000",
        "0x1f",
        "0xFF_FF",
        "0b101",
        "-0b11",
        "1e3",
        "1.0e3",
        "1.0e+3",
        "1.5E-7",
        "1:30",
        "12:30:45",
        "190:20:30.15",
        "-1:30",
        "1:60",
        "1.10",
        "1.",
        ".5",
        "+.5",
        "-.5",
        ".inf",
        "-.INF",
        ".nan",
        "1.0",
        "100000000000000000.0",
        "0.00001",
        "1234567890123456.0",
        "12345678901234567890123",
        "0xffffffffffffffffffffffff",
        "2024-01-02",
        "2024-1-2",
        "2001-12-14t21:59:43.10Z",
        "2001-12-14 21:59:43",
        "2001-12-14 1:02:03.5 -5:30",
        "[a, 1, yes, ~]",
        "{a: 1, b: [x]}",
        "[it's, 'say \"x\"', \"both ' and \\\"\"]",
        "[1.5, 2024-01-02]",
        "1,000",
        "0o17",
        "0x",
        "1__0",
        "_1",
        "1_",
        "!!str 0755",
        "!!int '0755'",
        "!!float '1'",
        "'0755'",
        "$HOME/x",
        "a: b",
        "1.2.3",
        "v1.0",
        "- x",
        "\"a\\nb\"",
        "[\"a\\nb\\tc\"]",
    ];

    #[test]
    fn scalars_are_what_pyyaml_makes_of_them() {
        for (text, theirs) in TEXTS.iter().zip(theirs(&TEXTS)) {
            let Some(theirs) = theirs else { continue };
            assert_eq!(ours(text).as_deref(), Some(theirs.as_str()), "{text}");
        }
    }

    #[test]
    fn random_plain_scalars_are_what_pyyaml_makes_of_them() {
        use proptest::strategy::{Strategy, ValueTree};
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let texts: Vec<String> = (0..3000)
            .map(|_| {
                "[-+]?[0-9a-fxobeE._:T-]{1,12}"
                    .new_tree(&mut runner)
                    .unwrap()
                    .current()
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for (text, theirs) in texts.iter().zip(theirs(&texts)) {
            let Some(theirs) = theirs else { continue };
            assert_eq!(ours(text).as_deref(), Some(theirs.as_str()), "{text}");
        }
    }
}
