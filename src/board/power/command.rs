//! Any programs that switch the power.

use std::process::Command;

use anyhow::Result;

use super::switch::{Power, run};
use crate::error::Fault;

pub(super) struct Commands {
    on: Vec<String>,
    off: Vec<String>,
    status: Option<Vec<String>>,
}

impl Commands {
    pub(super) fn new(on: Vec<String>, off: Vec<String>, status: Option<Vec<String>>) -> Self {
        Commands { on, off, status }
    }
}

fn command(words: &[String]) -> Result<Command> {
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| Fault::input("a power command is empty"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

impl Power for Commands {
    fn on(&mut self) -> Result<()> {
        run(&mut command(&self.on)?).map(drop)
    }

    fn off(&mut self) -> Result<()> {
        run(&mut command(&self.off)?).map(drop)
    }

    /// The status command says `on` or `off`.
    fn is_on(&mut self) -> Result<Option<bool>> {
        let Some(status) = &self.status else {
            return Ok(None);
        };
        match run(&mut command(status)?)?.trim() {
            "on" => Ok(Some(true)),
            "off" => Ok(Some(false)),
            other => Err(Fault::infrastructure(format!(
                "the power's status command said `{other}`, not `on` or `off`"
            ))
            .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    #[test]
    fn programs_switch_and_their_failure_is_infrastructure() {
        let mut power = Commands::new(words("true"), words("false"), Some(words("echo on")));
        power.on().unwrap();
        assert_eq!(power.is_on().unwrap(), Some(true));
        let error = power.off().unwrap_err();
        assert_eq!(
            crate::error::class_of(&error),
            crate::error::Class::Infrastructure
        );
    }
}
