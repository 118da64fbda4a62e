//! Follows the history of a running test and streams counts as server-sent events.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::response::sse;
use futures::{Stream, stream};
use history::{Action, Event, Kind, NemesisEvent};
use serde_json::{Value as Json, json};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{FaultInterval, fault_intervals, store::JudgingMark};

/// The interval between two reads of the history.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The number of seconds in a snapshot, the latest ones: what the page shows.
const RECENT_SECONDS: u64 = 120;

/// The number of recent faults in a snapshot.
const RECENT_FAULTS: usize = 12;

/// A history file that is being appended to.
struct HistoryTail {
    directory: PathBuf,
    file: Option<BufReader<File>>,
    /// The offset of the next line.
    offset: u64,
    /// Events by function: invoke, ok, fail, info.
    counts: BTreeMap<String, [u64; 4]>,
    /// Completions by second: ok, fail, info. Only recent seconds, and only those with completions: a time
    /// in the file may be any number.
    seconds: BTreeMap<u64, [u64; 3]>,
    nemesis: Vec<Event>,
    time: u64,
}

impl HistoryTail {
    fn new(directory: &Path) -> Self {
        HistoryTail {
            directory: directory.to_owned(),
            file: None,
            offset: 0,
            counts: BTreeMap::new(),
            seconds: BTreeMap::new(),
            nemesis: Vec::new(),
            time: 0,
        }
    }

    /// Reads what was appended since the last call, up to the last complete line.
    fn read(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            closed => {
                closed.insert(BufReader::new(File::open(self.directory.join("history.jsonl"))?))
            }
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            file.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            self.offset += line.len() as u64;
            lines.extend(serde_json::from_slice::<Event>(&line).ok());
        }
        lines.into_iter().for_each(|event| self.add(event));
        Ok(())
    }

    fn add(&mut self, event: Event) {
        self.time = event.time;
        match &event.action {
            Action::Nemesis(_) => self.nemesis.push(event),
            Action::Client(client) => {
                let kind = match client.kind {
                    Kind::Invoke => 0,
                    Kind::Ok => 1,
                    Kind::Fail => 2,
                    Kind::Info => 3,
                };
                self.counts.entry(client.f.to_string()).or_default()[kind] += 1;
                if kind > 0 {
                    let second = event.time / 1_000_000_000;
                    self.seconds.entry(second).or_default()[kind - 1] += 1;
                    if let Some((last, _)) = self.seconds.last_key_value() {
                        let first = (last + 1).saturating_sub(RECENT_SECONDS);
                        self.seconds = self.seconds.split_off(&first);
                    }
                }
            }
        }
    }

    /// The completions of each recent second, without gaps.
    fn recent_seconds(&self) -> Vec<[u64; 3]> {
        let Some((last, _)) = self.seconds.last_key_value() else { return Vec::new() };
        let first = (last + 1).saturating_sub(RECENT_SECONDS);
        (first..=*last).map(|at| self.seconds.get(&at).copied().unwrap_or_default()).collect()
    }

    /// The counts so far.
    fn snapshot(&self) -> Json {
        // A final event at the current time extends faults that are still in force up to now.
        let mut events = self.nemesis.clone();
        events.extend(self.nemesis.last().map(|last| {
            let now = NemesisEvent::Other { f: "now".to_owned(), value: Json::Null };
            let action = Action::Nemesis(now);
            Event { index: last.index.saturating_add(1), time: self.time.max(last.time), action }
        }));
        let mut faults = fault_intervals(&events);
        faults.retain(FaultInterval::is_injection);
        let judging = JudgingMark::is_set(&self.directory);
        let recent = &faults[faults.len().saturating_sub(RECENT_FAULTS)..];
        json!({
            "time": self.time,
            "counts": self.counts,
            "seconds": self.recent_seconds(),
            "faults_total": faults.len(),
            "faults": recent.iter().rev().map(|fault| json!({
                "title": fault.title(), "fault": fault.fault, "at": fault.at,
                "from": fault.from, "to": fault.to, "in_doubt": fault.in_doubt,
            })).collect::<Vec<_>>(),
            "judging": judging,
            "done": self.directory.join("results.json").exists() && !judging,
        })
    }
}

/// Streams snapshots of a run until its check results exist.
pub(super) fn snapshots(
    directory: &Path,
) -> impl Stream<Item = Result<sse::Event, Infallible>> + use<> {
    let initial = Some((HistoryTail::new(directory), true));
    stream::unfold(initial, |state| async move {
        let (mut tail, first) = state?;
        if !first {
            sleep(POLL_INTERVAL).await;
        }
        let (tail, snapshot) = spawn_blocking(move || {
            // If the file does not exist yet, or no longer, the snapshot stays as it is.
            let _ = tail.read();
            let snapshot = tail.snapshot();
            (tail, snapshot)
        })
        .await
        .ok()?;
        let done = snapshot["done"] == Json::Bool(true);
        let event = sse::Event::default().data(snapshot.to_string());
        Some((Ok(event), (!done).then_some((tail, false))))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _};

    use super::*;

    #[test]
    fn a_growing_history_is_read_up_to_its_last_complete_line() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("history.jsonl");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut tail = HistoryTail::new(directory.path());
        let line = |index: u64, kind: &str| {
            format!(
                "{{\"index\":{index},\"time\":{},\"process\":1,\"type\":\"{kind}\",\"f\":\"get\",\
                 \"key\":\"a\",\"value\":null}}\n",
                index * 600_000_000
            )
        };
        file.write_all(line(0, "invoke").as_bytes())?;
        let second = line(1, "fail");
        file.write_all(&second.as_bytes()[..20])?;
        tail.read()?;
        assert_eq!(tail.counts["get"], [1, 0, 0, 0]);
        file.write_all(&second.as_bytes()[20..])?;
        file.write_all(line(2, "invoke").as_bytes())?;
        file.write_all(
            b"{\"index\":3,\"time\":1800000000,\"process\":\"nemesis\",\"type\":\"info\",\"f\":\
              \"kill\",\"value\":{\"fault\":\"kill-master\",\"node\":\"master\"}}\n",
        )?;
        file.write_all(line(4, "ok").as_bytes())?;
        tail.read()?;
        let snapshot = tail.snapshot();
        assert_eq!(snapshot["counts"]["get"], json!([2, 1, 1, 0]));
        assert_eq!(snapshot["seconds"], json!([[0, 1, 0], [0, 0, 0], [1, 0, 0]]));
        assert_eq!(
            snapshot["faults"][0]["to"],
            json!(2_400_000_000_u64),
            "a fault that was not undone is in force until now"
        );
        // Times and indices are whatever the file says.
        let last = line(4, "ok").replace(":2400000000,", ":18446744073709551615,");
        file.write_all(last.replace(":4,", ":18446744073709551615,").as_bytes())?;
        file.write_all(
            line(4, "ok").replace("\"index\":4", "\"index\":18446744073709551615").as_bytes(),
        )?;
        tail.read()?;
        let snapshot = tail.snapshot();
        assert_eq!(
            snapshot["counts"]["get"],
            json!([2, 2, 1, 0]),
            "the line with such a time is none"
        );
        assert_eq!(snapshot["seconds"].as_array().map(Vec::len), Some(3));
        let late = line(5, "ok").replace(":3000000000,", &format!(":{},", history::TIME_MAX));
        file.write_all(late.as_bytes())?;
        tail.read()?;
        let snapshot = tail.snapshot();
        assert_eq!(snapshot["counts"]["get"], json!([2, 3, 1, 0]));
        assert_eq!(snapshot["seconds"].as_array().map(Vec::len), Some(120), "the latest");
        assert_eq!(snapshot["done"], json!(false));
        std::fs::write(directory.path().join("results.json"), "{}")?;
        assert_eq!(tail.snapshot()["done"], json!(true));
        Ok(())
    }
}
