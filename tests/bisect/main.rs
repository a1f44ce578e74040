//! Bisecting, and the history of runs: exit codes for `git bisect run`, `hearth bisect`, `hearth report`, `hearth rerun`.
//! The boards are played by scripts; one test emulates one.

mod codes;
mod git;
mod history;
mod packages;
