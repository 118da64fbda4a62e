//! How a file is read: its format, what its keys are, and what it leaves open.

use std::{io::BufReader, path::Path};

use history::{
    Completion, Invocation, MalformedHistory, MicroOp, ReadError, Sink,
    formats::{self, Ambiguous, Format, Opened, ReadSummary},
};

use crate::{
    linearizability::{Observations, Spec},
    progress::{CountingReader, ProgressObserver},
};

/// How a file is read and judged.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) format: Format,
    pub(crate) spec: Spec,
    /// The value that registers hold at first, as a sink takes it.
    pub(crate) initial: Option<String>,
    pub(crate) ambiguous: Ambiguous,
}

impl Reading {
    /// The reading that the options ask for.
    ///
    /// # Errors
    /// The format is unknown, or the initial value is none of it.
    pub(crate) fn new(
        path: &Path,
        format: Option<Format>,
        spec: Option<Spec>,
        initial: Option<&str>,
    ) -> Result<Reading, ReadError> {
        let format = format.map_or_else(|| formats::detect(path), Ok)?;
        let spec = spec.unwrap_or_else(|| Spec::of_format(format));
        let malformed = |reason: String| ReadError::Malformed {
            path: path.to_owned(),
            line: 1,
            column: 1,
            reason: format!("--initial {reason}"),
        };
        let initial = initial.map_or(Ok(None), |text| format.value(text)).map_err(malformed)?;
        if let (Some(initial), Spec::Append) = (&initial, spec) {
            return Err(malformed(format!("{initial}: only registers can begin with a value")));
        }
        // What is valid if operations that are not ok did not happen is valid in any case.
        Ok(Reading { format, spec, initial, ambiguous: Ambiguous::Fail })
    }

    /// The reading of appends, if the user did not choose and the format may have some.
    pub(crate) fn with_appends(&self, spec: Option<Spec>) -> Option<Reading> {
        let may_append = matches!(self.format, Format::Jsonl | Format::Intervals | Format::Csv);
        let is_chosen = spec.is_some() || self.initial.is_some() || self.spec == Spec::Append;
        (may_append && !is_chosen).then(|| Reading { spec: Spec::Append, ..self.clone() })
    }

    /// Whether the history consists of transactions: whether its first operation is one.
    pub(crate) fn is_of_transactions(&self, path: &Path) -> Result<bool, ReadError> {
        let mut first = FirstOperation::default();
        // The first operation ends the reading with an error; what comes before may be malformed.
        let read = self.stream(path, &mut first, None);
        match first.is_transaction {
            Some(is_transaction) => Ok(is_transaction),
            None => match read {
                Err(error @ ReadError::Io { .. }) => Err(error),
                _ => Ok(false),
            },
        }
    }

    /// Whether the history is one of objects that are read whole, such as sets.
    pub(crate) fn is_of_objects(&self, path: &Path) -> Result<bool, ReadError> {
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        let input = formats::open(path).map_err(io)?.input;
        formats::is_of_objects(&mut BufReader::new(input), self.format, path)
    }

    /// No observations so far.
    pub(crate) fn observations(&self) -> Observations {
        let observations = Observations::new(self.spec);
        match &self.initial {
            Some(initial) => observations.with_initial(initial),
            None => observations,
        }
    }

    /// Reads the file.
    pub(crate) fn stream(
        &self,
        path: &Path,
        sink: &mut dyn Sink,
        progress: Option<&dyn ProgressObserver>,
    ) -> Result<ReadSummary, ReadError> {
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        let Opened { input: file, bytes } = formats::open(path).map_err(io)?;
        // A small file needs no large buffer.
        let capacity = usize::try_from(bytes.clamp(1 << 10, 1 << 18)).unwrap_or(1 << 18);
        match progress {
            Some(progress) => {
                let input = CountingReader { input: file, progress };
                let mut input = BufReader::with_capacity(capacity, input);
                formats::stream_with(&mut input, self.format, self.ambiguous, sink, path)
            }
            None => {
                let mut input = BufReader::with_capacity(capacity, file);
                formats::stream_with(&mut input, self.format, self.ambiguous, sink, path)
            }
        }
    }
}

/// Finds out what the first operation of a history is, and takes no other.
#[derive(Default)]
struct FirstOperation {
    is_transaction: Option<bool>,
}

impl Sink for FirstOperation {
    fn invoke(
        &mut self,
        process: u64,
        _key: &str,
        _invocation: Invocation<'_>,
    ) -> Result<(), MalformedHistory> {
        self.is_transaction.get_or_insert(false);
        Err(MalformedHistory::not_idle(process, false))
    }

    fn complete(
        &mut self,
        process: u64,
        _completion: Completion<'_>,
    ) -> Result<(), MalformedHistory> {
        Err(MalformedHistory::not_invoked(process))
    }

    fn invoke_transaction(
        &mut self,
        process: u64,
        _ops: &[MicroOp<'_, '_>],
    ) -> Result<(), MalformedHistory> {
        self.is_transaction.get_or_insert(true);
        Err(MalformedHistory::not_idle(process, false))
    }
}

/// Memory for sorting a history, in bytes for each byte of the file. Zero if it is not sorted. Measured.
pub(crate) fn sorted_bytes(format: Format) -> u64 {
    match format {
        Format::Intervals => 3,
        Format::Csv => 8,
        _ => 0,
    }
}
