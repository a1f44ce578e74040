//! Owns a job that is ready to be handed out: what is run, and how.
//! Never runs it.

use std::collections::BTreeMap;

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::target::Target;
use crate::job::inputs::UsedDefinition;
use crate::job::kept::Job;
use crate::job::{JobSettings, Loaded, Loader, Parameter, Pattern, Payload, Trust, payload};

/// How to test, beyond the board and the definitions.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub parameters: Vec<Parameter>,
    /// Let definitions fetch repositories over other ways than https and ssh.
    pub allow_local: bool,
    /// Report only what LAVA's own dispatcher would.
    pub strict_lava: bool,
    /// Boots again for each stage; else the board's, or 1.
    pub retries: Option<u32>,
    /// Seconds that all tests together may take; else the board's.
    pub timeout: Option<f64>,
}

/// A job that is ready to be handed out.
pub struct Prepared {
    pub(super) tar: Vec<u8>,
    pub(super) payload: Payload,
    pub(super) patterns: BTreeMap<String, Pattern>,
    pub(super) settings: Settings,
    pub(super) definitions: Vec<UsedDefinition>,
}

impl Prepared {
    /// Packs the definitions for one board.
    ///
    /// # Errors
    /// If a parameter names no definition, a repository cannot be fetched, or the job cannot fit into the board's memory.
    pub fn new(
        settings: Settings,
        loader: &mut Loader,
        definitions: &[Loaded],
        target: &Target,
    ) -> Result<Self> {
        let mut tar = Vec::new();
        let job = JobSettings {
            parameters: settings.parameters.clone(),
            trust: if settings.allow_local {
                Trust::Local
            } else {
                Trust::Remote
            },
            board_type: target.board.type_name.clone(),
        };
        let payload = payload(&mut tar, definitions, loader, &job)?;
        if let Some(memory) = target.memory() {
            payload.check_fits(memory, &target.board.name)?;
        }
        let patterns = payload
            .suites
            .iter()
            .zip(definitions)
            .filter_map(|(suite, loaded)| Some((suite.clone(), loaded.definition.pattern.clone()?)))
            .collect();
        let used = payload.suites.iter().zip(definitions);
        Ok(Prepared {
            definitions: used
                .map(|(suite, loaded)| used_definition(suite, loaded))
                .collect(),
            tar,
            payload,
            patterns,
            settings,
        })
    }

    /// A job that a report has kept, for one board.
    ///
    /// # Errors
    /// If the job cannot fit into the board's memory.
    pub fn again(
        job: Job,
        settings: Settings,
        definitions: Vec<UsedDefinition>,
        target: &Target,
    ) -> Result<Self> {
        if let Some(memory) = target.memory() {
            job.payload.check_fits(memory, &target.board.name)?;
        }
        Ok(Prepared {
            tar: job.tar,
            payload: job.payload,
            patterns: job.patterns,
            settings,
            definitions,
        })
    }

    /// Names of the suites, in the order in which they run.
    pub fn suites(&self) -> &[String] {
        &self.payload.suites
    }
}

fn used_definition(suite: &str, loaded: &Loaded) -> UsedDefinition {
    UsedDefinition {
        source: loaded.source.clone(),
        suite: suite.into(),
        sha256: hex::encode(Sha256::digest(&loaded.definition.text)),
        revision: loaded.clone.as_ref().and_then(|clone| clone.commit()),
    }
}
