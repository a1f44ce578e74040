//! Owns what `hearth --help` looks like: the subcommands, grouped by task, on one screen.

use std::fmt::Write;

use clap::Command;

/// The subcommands of each task, in the order in which a user meets them.
const TASKS: [(&str, &[&str]); 5] = [
    (
        "Image",
        &[
            "lock", "build", "import", "verify", "run", "shell", "diff", "initrd",
        ],
    ),
    (
        "Artifacts",
        &["bootscript", "mkimage", "image", "media", "flash"],
    ),
    (
        "Serving",
        &["serve", "netboot", "provision", "private-network", "doctor"],
    ),
    (
        "Boards",
        &[
            "boards", "test", "submit", "jobs", "bisect", "boot", "power", "console", "lab",
            "report", "rerun",
        ],
    ),
    ("Manual", &["man", "files", "completions"]),
];

/// Gives `hearth` a help text that lists its subcommands by task.
pub fn grouped(hearth: Command) -> Command {
    let mut list = String::new();
    let width = hearth.get_subcommands().map(|it| it.get_name().len()).max();
    let width = width.unwrap_or_default();
    for (task, names) in TASKS {
        let present: Vec<&Command> = names
            .iter()
            .filter_map(|name| hearth.find_subcommand(name))
            .filter(|command| !command.is_hide_set())
            .collect();
        if present.is_empty() {
            continue;
        }
        let _ = writeln!(list, "{task}:");
        for command in present {
            let about = command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            let _ = writeln!(list, "  {:width$}  {about}", command.get_name());
        }
    }
    hearth.help_template(format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{list}\nOptions:\n{{options}}\n\n\
         `hearth COMMAND --help` and `hearth man COMMAND` say more."
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_subcommand_belongs_to_one_task() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|it| !it.is_hide_set())
        {
            let name = command.get_name();
            let tasks = TASKS
                .iter()
                .filter(|(_, names)| names.contains(&name))
                .count();
            assert_eq!(tasks, 1, "{name} is in {tasks} tasks: see src/cli/help.rs");
        }
    }

    #[test]
    fn the_help_is_one_screen_and_every_help_is_80_columns() {
        let mut hearth = grouped(Cli::command()).term_width(80);
        hearth.build();
        let screen = hearth.render_help().to_string();
        assert!(screen.lines().count() <= 50, "{screen}");
        check_width("hearth", &screen);
        for command in hearth.get_subcommands_mut() {
            let name = command.get_name().to_string();
            check_width(
                &name,
                &command
                    .clone()
                    .term_width(80)
                    .render_long_help()
                    .to_string(),
            );
        }
    }

    fn check_width(name: &str, help: &str) {
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
}
