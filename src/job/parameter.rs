//! Owns how a parameter of a job is written: `KEY=VALUE` or `NAME:KEY=VALUE`.
//! Never knows what it is for.

use std::str::FromStr;

use super::definition::is_variable;
use super::payload::Parameter;

impl FromStr for Parameter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or("a parameter is KEY=VALUE or NAME:KEY=VALUE")?;
        let (suite, key) = match key.split_once(':') {
            Some((suite, key)) => (Some(suite.to_string()), key),
            None => (None, key),
        };
        if !is_variable(key) {
            return Err(format!("`{key}` cannot be the name of a shell variable"));
        }
        Ok(Parameter {
            suite,
            key: key.into(),
            value: value.into(),
        })
    }
}

impl Parameter {
    /// As the command line has it: `KEY=VALUE` or `NAME:KEY=VALUE`.
    pub fn text(&self) -> String {
        match &self.suite {
            Some(suite) => format!("{suite}:{}={}", self.key, self.value),
            None => format!("{}={}", self.key, self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_for_all_definitions_or_for_one() {
        let read = |text: &str| text.parse::<Parameter>();
        let one = read("net:IP=a=b").unwrap();
        assert_eq!(
            (one.suite.as_deref(), &*one.key, &*one.value),
            (Some("net"), "IP", "a=b")
        );
        assert_eq!(read("IP=").unwrap().suite, None);
        assert_eq!(
            (one.text(), read("IP=").unwrap().text()),
            ("net:IP=a=b".into(), "IP=".into())
        );
        for wrong in ["IP", "=x", "a-b=1", "1a=1", "n:=1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
