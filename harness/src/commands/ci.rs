//! What commands write for CI services, beside what they print.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use report::ci::{Judged, github, junit};

use super::CommandError;

/// Options of what is told to CI services.
#[derive(Clone, Debug, Default, Args)]
pub struct CiArgs {
    /// Write the results to this file as JUnit XML too: a test suite for each run or history, a test case for each
    /// check.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,

    /// Print an annotation of this service on standard error for each check that is not valid.
    #[arg(long, value_name = "SERVICE")]
    pub annotate: Option<Service>,
}

/// A service that shows annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// GitHub Actions.
    Github,
}

/// Tells CI services of what is judged.
pub struct CiOutput<'a> {
    args: &'a CiArgs,
    /// Kept for the file at the end.
    judged: Vec<Judged>,
}

impl<'a> CiOutput<'a> {
    /// Tells what the options ask for.
    #[must_use]
    pub fn new(args: &'a CiArgs) -> Self {
        CiOutput { args, judged: Vec::new() }
    }

    /// Tells of a run or a history.
    ///
    /// # Errors
    /// Standard error cannot be written to.
    pub fn add(&mut self, judged: Judged) -> io::Result<()> {
        if self.args.annotate == Some(Service::Github) {
            io::stderr().write_all(github(&judged).as_bytes())?;
        }
        if self.args.junit.is_some() {
            self.judged.push(judged);
        }
        Ok(())
    }

    /// Writes the file, if one is asked for.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(self) -> Result<(), CommandError> {
        let Some(path) = &self.args.junit else { return Ok(()) };
        fs::write(path, junit(&self.judged))
            .map_err(|error| CommandError::Invalid(format!("--junit {}: {error}", path.display())))
    }
}
