//! A run while it goes on: follows its history as it grows, and tells what was counted so far.
//! Knows what an event is, not what is right.

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
use serde_json::{Value as Json, json};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    history::{Action, Event, Kind},
    report::windows::windows,
};

/// How often it is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// So many of the last faults are told.
const FAULTS: usize = 12;

/// A history that is being written.
struct Follow {
    directory: PathBuf,
    file: Option<BufReader<File>>,
    /// Where the next line begins.
    offset: u64,
    counts: BTreeMap<String, [u64; 4]>,
    /// Ends of operations by second: ok, fail, info.
    seconds: Vec<[u64; 3]>,
    nemesis: Vec<Event>,
    time: u64,
}

impl Follow {
    fn new(directory: &Path) -> Self {
        Follow {
            directory: directory.to_owned(),
            file: None,
            offset: 0,
            counts: BTreeMap::new(),
            seconds: Vec::new(),
            nemesis: Vec::new(),
            time: 0,
        }
    }

    /// Takes in what has been written since the last time, up to its last whole line.
    fn read(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufReader::new(File::open(self.directory.join("history.jsonl"))?)),
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
        lines.into_iter().for_each(|event| self.take(event));
        Ok(())
    }

    fn take(&mut self, event: Event) {
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
                    let second = usize::try_from(event.time / 1_000_000_000).unwrap_or(0);
                    let missing = (second + 1).saturating_sub(self.seconds.len());
                    self.seconds.extend(std::iter::repeat_n([0; 3], missing));
                    self.seconds[second][kind - 1] += 1;
                }
            }
        }
    }

    /// What is known so far.
    fn told(&self) -> Json {
        // Whatever has not been undone is in force until now.
        let mut events = self.nemesis.clone();
        events.extend(self.nemesis.last().map(|last| {
            let action = Action::Nemesis(crate::history::NemesisEvent {
                f: "settled".to_owned(),
                value: Json::Null,
            });
            Event { index: last.index + 1, time: self.time.max(last.time), action }
        }));
        let windows = windows(&events);
        let last = &windows[windows.len().saturating_sub(FAULTS)..];
        json!({
            "time": self.time,
            "counts": self.counts,
            "seconds": self.seconds,
            "faults_total": windows.len(),
            "faults": last.iter().rev().map(|window| json!({
                "title": window.title(), "fault": window.fault, "at": window.at,
                "from": window.from, "to": window.to, "in_doubt": window.in_doubt,
            })).collect::<Vec<_>>(),
            "done": self.directory.join("results.json").exists(),
        })
    }
}

/// What is known of a run, told again and again until it is judged.
pub(super) fn follow(
    directory: &Path,
) -> impl Stream<Item = Result<sse::Event, Infallible>> + use<> {
    let first = Some((Follow::new(directory), true));
    stream::unfold(first, |state| async move {
        let (mut follow, at_once) = state?;
        if !at_once {
            sleep(PERIOD).await;
        }
        let (follow, told) = spawn_blocking(move || {
            // Not there yet, or gone: there is nothing new to tell.
            let _ = follow.read();
            let told = follow.told();
            (follow, told)
        })
        .await
        .ok()?;
        let done = told["done"] == Json::Bool(true);
        let event = sse::Event::default().data(told.to_string());
        Some((Ok(event), (!done).then_some((follow, false))))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _};

    use super::*;

    #[test]
    fn a_growing_history_is_followed_to_its_last_whole_line() -> io::Result<()> {
        let place = tempfile::tempdir()?;
        let path = place.path().join("history.jsonl");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut follow = Follow::new(place.path());
        let line = |index: u64, kind: &str| {
            format!(
                "{{\"index\":{index},\"time\":{},\"process\":1,\"type\":\"{kind}\",\"f\":\"get\",\
                 \"key\":\"a\",\"value\":null}}\n",
                index * 600_000_000
            )
        };
        file.write_all(line(0, "invoke").as_bytes())?;
        let half = line(1, "fail");
        file.write_all(&half.as_bytes()[..20])?;
        follow.read()?;
        assert_eq!(follow.counts["get"], [1, 0, 0, 0]);
        file.write_all(&half.as_bytes()[20..])?;
        file.write_all(line(2, "invoke").as_bytes())?;
        file.write_all(
            b"{\"index\":3,\"time\":1800000000,\"process\":\"nemesis\",\"type\":\"info\",\"f\":\
              \"kill\",\"value\":{\"fault\":\"kill-master\",\"node\":\"master\"}}\n",
        )?;
        file.write_all(line(4, "ok").as_bytes())?;
        follow.read()?;
        let told = follow.told();
        assert_eq!(told["counts"]["get"], json!([2, 1, 1, 0]));
        assert_eq!(told["seconds"], json!([[0, 1, 0], [0, 0, 0], [1, 0, 0]]));
        assert_eq!(told["faults"][0]["to"], json!(2_400_000_000_u64), "in force until now");
        assert_eq!(told["done"], json!(false));
        std::fs::write(place.path().join("results.json"), "{}")?;
        assert_eq!(follow.told()["done"], json!(true));
        Ok(())
    }
}
