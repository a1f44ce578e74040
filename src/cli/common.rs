//! Owns the options that every subcommand takes.

use clap::{ArgAction, Args};

/// Options that every subcommand takes
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Say more; twice for debugging
    #[arg(short, long, action = ArgAction::Count, global = true, display_order = 900)]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        display_order = 901
    )]
    pub quiet: bool,
}
