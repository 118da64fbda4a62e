//! The state of a host as text.

use std::fmt;

use protocol::Record;

use super::host::{Process, ScheduleHost};

impl fmt::Display for ScheduleHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.node())?;
        let mut instances = self.instances();
        match instances.next().and_then(|(process, _)| process) {
            Some(process) => write!(f, "{process}")?,
            None if self.stopped() => write!(f, " stopped by its machine")?,
            None => write!(f, " down")?,
        }
        let list = |records: &mut dyn Iterator<Item = &Record>| {
            records.map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let (inherited, own) = self.store().tail();
        write!(f, "\n  durable: {}", list(&mut self.store().durable().records()))?;
        if self.unforced() > 0 {
            write!(f, "\n  not durable: {}", list(&mut inherited.iter().chain(own)))?;
        }
        for (key, (version, value)) in self.store().entries() {
            let damaged = if self.store().is_damaged(key) { ", damaged" } else { "" };
            write!(f, "\n  {key} = {value} (version {version}{damaged})")?;
        }
        for (process, _) in instances {
            let process = process.expect("a second instance is up as long as there is one");
            write!(f, "\n  second instance:{process}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.machine.status();
        write!(f, " epoch {}, incarnation {}", status.epoch, status.incarnation)?;
        write!(f, ", watermark {}", status.watermark)?;
        write!(f, "{}", if status.ready { ", ready" } else { ", not ready" })?;
        for (txn, key) in &status.unsettled {
            write!(f, ", {txn} of {key} unsettled")?;
        }
        let timers: Vec<_> = self.timers.iter().map(ToString::to_string).collect();
        if timers.is_empty() { Ok(()) } else { write!(f, "; timers: {}", timers.join(", ")) }
    }
}
