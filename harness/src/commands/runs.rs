//! The command `runs`: lists recorded runs, compares two, names them, and removes those that are not needed.

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use checker::Validity;
use clap::{Args, Subcommand, builder::RangedU64ValueParser};
use lab::run_directory::bytes_below;
use report::{
    compare::{ComparedRow, check_names, compare},
    store::{RunId, RunSummary, Store},
    terminal::escape_line,
};
use serde::Serialize;

use super::{CommandError, print_json};

/// Arguments of `runs`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RunsArgs {
    #[command(subcommand)]
    command: Option<RunsCommand>,

    #[command(flatten)]
    list: ListArgs,
}

/// What to do with runs. A RUN is its directory, its path in the store (GROUP/TIME), or `latest`.
#[derive(Clone, Debug, Subcommand)]
enum RunsCommand {
    /// List the runs of a store, latest first (the default).
    List(ListArgs),
    /// Compare two runs: how they were made, their figures and their checks.
    Compare {
        /// The first run.
        #[arg(value_name = "RUN")]
        one: PathBuf,
        /// The second run.
        #[arg(value_name = "RUN")]
        other: PathBuf,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Give a run a name, which the list shows. A named run is not removed by `gc`.
    Name {
        /// The run.
        #[arg(value_name = "RUN")]
        run: PathBuf,
        /// The name; without one, the run has none any more.
        #[arg(value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Remove runs.
    Remove {
        /// The runs.
        #[arg(value_name = "RUN", required = true)]
        runs: Vec<PathBuf>,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Remove old valid runs. Those that have a name, are running, or are not valid stay.
    Gc {
        /// How many of the latest valid runs of each group (a system with its faults) stay.
        #[arg(long, value_name = "N")]
        keep: usize,
        /// Only print what would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        store: StoreArg,
    },
}

/// The directory of runs.
#[derive(Clone, Debug, Args)]
struct StoreArg {
    /// The directory of recorded runs.
    #[arg(long = "store", value_name = "DIR", default_value = "histories")]
    directory: PathBuf,
}

/// Which runs are listed, and how.
#[derive(Clone, Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    store: StoreArg,

    /// Only runs with this verdict: valid, unknown or invalid.
    #[arg(long, value_name = "VERDICT", value_parser = verdict)]
    verdict: Option<Validity>,

    /// The most runs that are listed; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new())]
    limit: usize,

    /// Print a JSON object for each run.
    #[arg(long)]
    json: bool,
}

fn verdict(text: &str) -> Result<Validity, String> {
    let found = [Validity::Valid, Validity::Unknown, Validity::Invalid]
        .into_iter()
        .find(|verdict| verdict.to_string() == text);
    found.ok_or_else(|| "expected valid, unknown or invalid".to_owned())
}

/// Executes `runs`.
///
/// # Errors
/// The store or a run cannot be read or changed, or the output cannot be written.
pub fn runs(args: &RunsArgs, out: &mut impl Write) -> Result<(), CommandError> {
    match &args.command {
        None => list(&args.list, out),
        Some(RunsCommand::List(args)) => list(args, out),
        Some(RunsCommand::Compare { one, other, store }) => {
            let store = RunStore::open(store)?;
            Ok(print_comparison([&store.find(one)?, &store.find(other)?], out)?)
        }
        Some(RunsCommand::Name { run, name, store }) => {
            let store = RunStore::open(store)?;
            store.name(&store.find(run)?, name.as_deref())
        }
        Some(RunsCommand::Remove { runs, store }) => {
            let store = RunStore::open(store)?;
            // All are found before the first is removed.
            let found: Result<Vec<_>, _> = runs.iter().map(|run| store.find(run)).collect();
            store.remove(&found?, false, out)
        }
        Some(RunsCommand::Gc { keep, dry_run, store }) => {
            let store = RunStore::open(store)?;
            store.remove(&superfluous(store.runs.runs(), *keep), *dry_run, out)
        }
    }
}

/// The valid runs without a name after the first `keep` of their group, which are the latest.
fn superfluous(runs: Vec<RunSummary>, keep: usize) -> Vec<RunSummary> {
    let mut kept: HashMap<String, usize> = HashMap::new();
    let mut is_old = |run: &RunSummary| {
        if run.verdict() != Some(Validity::Valid) || run.label().is_some() {
            return false;
        }
        let kept = kept.entry(run.id.group.clone()).or_default();
        *kept += 1;
        *kept > keep
    };
    runs.into_iter().filter(|run| is_old(run)).collect()
}

/// A run as JSON.
#[derive(Serialize)]
struct ListedRun<'a> {
    run: String,
    name: Option<&'a str>,
    verdict: Option<Validity>,
    running: bool,
    started: &'a str,
    system: Option<&'a str>,
    faults: &'a [String],
    broken: &'a [String],
    seed: Option<u64>,
    operations: Option<f64>,
    bytes: u64,
}

fn list(args: &ListArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let store = RunStore::open(&args.store)?;
    let wanted =
        |run: &RunSummary| args.verdict.is_none_or(|verdict| run.verdict() == Some(verdict));
    let mut runs: Vec<RunSummary> = store.runs.runs().into_iter().filter(wanted).collect();
    let all = runs.len();
    if args.limit > 0 {
        runs.truncate(args.limit);
    }
    let mut total = 0;
    for run in &runs {
        let bytes = store.bytes(&run.id);
        total += bytes;
        if args.json {
            print_json(&listed(run, bytes), out)?;
        } else {
            line(run, bytes, out)?;
        }
    }
    if !args.json {
        let more = all - runs.len();
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        writeln!(out, "{}, {}{more}", counted(runs.len()), size(total))?;
    }
    Ok(())
}

fn listed(run: &RunSummary, bytes: u64) -> ListedRun<'_> {
    ListedRun {
        run: run.id.path(),
        name: run.label(),
        verdict: run.verdict(),
        running: run.running,
        started: &run.id.name,
        system: run.test.system.as_deref(),
        faults: &run.test.faults,
        broken: &run.test.broken,
        seed: run.test.seed,
        operations: run.operations(),
        bytes,
    }
}

fn line(run: &RunSummary, bytes: u64, out: &mut impl Write) -> io::Result<()> {
    let state = match (run.verdict(), run.running) {
        (Some(verdict), _) => verdict.to_string(),
        (None, true) => "running".to_owned(),
        (None, false) => "not checked".to_owned(),
    };
    let seed = run.test.seed.map_or_else(String::new, |seed| format!("seed {seed}"));
    let operations = run.operations().map_or_else(String::new, |it| format!("{it:.0} operations"));
    write!(
        out,
        "{state:<11}  {:>9}  {:>18}  {:<16}  {}",
        size(bytes),
        operations,
        seed,
        run.id.path()
    )?;
    if !run.test.broken.is_empty() {
        write!(out, "  without {}", run.test.broken.join(", "))?;
    }
    if let Some(name) = run.label() {
        write!(out, "  ({})", escape_line(name))?;
    }
    writeln!(out)
}

fn counted(runs: usize) -> String {
    if runs == 1 { "1 run".to_owned() } else { format!("{runs} runs") }
}

/// A number of bytes in words.
fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for display")]
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 0.1 { format!("{} KiB", bytes.div_ceil(1024)) } else { format!("{mib:.1} MiB") }
}

/// The width of a column of a comparison.
const COLUMN: usize = 30;

fn print_comparison(both: [&RunSummary; 2], out: &mut impl Write) -> io::Result<()> {
    let mut row = |title: &str, texts: [&str; 2], difference: &str| {
        let texts = texts.map(|text| if text.is_empty() { "–" } else { text });
        if texts.iter().any(|text| text.chars().count() > COLUMN) {
            // Too long for a column.
            writeln!(out, "  {title:<24} {}", texts[0])?;
            let other = if texts[0] == texts[1] { "the same" } else { texts[1] };
            return writeln!(out, "  {:<24} {other}", "");
        }
        let line =
            format!("  {title:<24} {:<COLUMN$} {:<COLUMN$} {difference}", texts[0], texts[1]);
        writeln!(out, "{}", line.trim_end())
    };
    let verdict =
        |run: &RunSummary| run.verdict().map_or_else(|| "–".to_owned(), |it| it.to_string());
    let paths = both.map(|run| run.id.path());
    row("", paths.each_ref().map(String::as_str), "difference")?;
    row("verdict", both.map(verdict).each_ref().map(String::as_str), "")?;
    for group in compare(both) {
        row(&group.title, [" ", " "], "")?;
        for ComparedRow { title, texts, difference } in &group.rows {
            let mark =
                if difference.is_empty() && texts[0] != texts[1] { "differs" } else { difference };
            row(&format!("  {title}"), texts.each_ref().map(String::as_str), mark)?;
        }
    }
    row("checks", [" ", " "], "")?;
    for name in check_names(both) {
        let of = |run: &RunSummary| {
            let check = run.results.as_ref().and_then(|results| results.check(name));
            check.map_or_else(String::new, |check| check.verdict.to_string())
        };
        let texts = both.map(of);
        let mark = if texts[0] == texts[1] { "" } else { "differs" };
        row(&format!("  {name}"), texts.each_ref().map(String::as_str), mark)?;
    }
    Ok(())
}

/// A store that may be changed.
struct RunStore {
    path: PathBuf,
    runs: Store,
}

impl RunStore {
    fn open(arg: &StoreArg) -> Result<Self, CommandError> {
        let path = arg.directory.clone();
        match Store::open(&path) {
            Ok(runs) => Ok(RunStore { path, runs }),
            Err(error) => {
                Err(CommandError::Invalid(format!("--store {}: {error}", path.display())))
            }
        }
    }

    /// The run that an argument names.
    fn find(&self, run: &Path) -> Result<RunSummary, CommandError> {
        let inside = self.path.join(run);
        let path = if run.is_absolute() || !inside.exists() { run.to_owned() } else { inside };
        let root = fs::canonicalize(&self.path)?;
        let found = fs::canonicalize(&path).ok().and_then(|path| {
            let mut names =
                path.strip_prefix(&root).ok()?.components().map(|it| it.as_os_str().to_str());
            let (group, name) = (names.next()??.to_owned(), names.next()??.to_owned());
            names.next().is_none().then_some(RunId { group, name })
        });
        found.and_then(|id| self.runs.run(&id)).ok_or_else(|| {
            CommandError::Invalid(format!(
                "{}: no run of the store {}; `harness runs` lists them",
                run.display(),
                self.path.display()
            ))
        })
    }

    fn directory(&self, id: &RunId) -> PathBuf {
        self.path.join(&id.group).join(&id.name)
    }

    /// The bytes of the files of a run.
    fn bytes(&self, id: &RunId) -> u64 {
        bytes_below(&self.directory(id))
    }

    /// Writes the name into the description of a run.
    fn name(&self, run: &RunSummary, name: Option<&str>) -> Result<(), CommandError> {
        let path = self.directory(&run.id).join("test.json");
        let mut description = run.test.clone();
        match name {
            Some(name) => description.options.insert(RunSummary::LABEL.to_owned(), name.into()),
            None => description.options.remove(RunSummary::LABEL),
        };
        let mut text = serde_json::to_string_pretty(&description).map_err(io::Error::from)?;
        text.push('\n');
        // Written aside, so that the run keeps a description whatever happens.
        let aside = path.with_extension("json.new");
        fs::write(&aside, text)?;
        Ok(fs::rename(aside, path)?)
    }

    /// Removes runs, and links to them.
    fn remove(
        &self,
        runs: &[RunSummary],
        dry_run: bool,
        out: &mut impl Write,
    ) -> Result<(), CommandError> {
        if let Some(run) = runs.iter().find(|run| run.running) {
            return Err(CommandError::Invalid(format!("{} is running", run.id.path())));
        }
        let mut total = 0;
        for run in runs {
            let bytes = self.bytes(&run.id);
            total += bytes;
            if !dry_run {
                let directory = self.directory(&run.id);
                fs::remove_dir_all(&directory).map_err(|error| {
                    CommandError::Invalid(format!("{}: {error}", directory.display()))
                })?;
                remove_links(&self.path, &self.path.join(&run.id.group))?;
            }
            let what = if dry_run { "would remove" } else { "removed" };
            writeln!(out, "{what} {} ({})", run.id.path(), size(bytes))?;
        }
        Ok(writeln!(out, "{}, {}", counted(runs.len()), size(total))?)
    }
}

/// Removes links to runs that are gone, and a group without runs.
pub(crate) fn remove_links(store: &Path, group: &Path) -> io::Result<()> {
    for link in [group.join("latest"), store.join("latest")] {
        if link.is_symlink() && !link.exists() {
            fs::remove_file(link)?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}
