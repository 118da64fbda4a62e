//! Holds the end of each operation against its beginning: what they say that they do, of which key,
//! with which value. Knows no format, and nothing of what an operation should have returned.

use std::collections::HashMap;

use ahash::RandomState;

use super::{Ask, End, MalformedHistory, Sink};

/// How an event names its operation, as far as it does.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) process: u64,
    pub(super) f: &'a str,
    /// None: the event does not say it.
    pub(super) key: Option<&'a str>,
    /// What the operation writes, not what it finds. None: the event does not say it, or it writes
    /// nothing.
    pub(super) value: Option<&'a str>,
}

/// A sink that is told only of ends that agree with their beginnings.
pub(super) struct Pairs<'s> {
    sink: &'s mut dyn Sink,
    /// The last operation of each process that is not retired: what it said when it began.
    begun: HashMap<u64, Begun, RandomState>,
}

/// What an operation said. A process's next one is written over it, so that texts are rarely new.
#[derive(Default)]
struct Begun {
    f: String,
    key: String,
    value: Option<String>,
}

impl<'s> Pairs<'s> {
    pub(super) fn new(sink: &'s mut dyn Sink) -> Self {
        Pairs { sink, begun: HashMap::default() }
    }

    pub(super) fn invoke(
        &mut self,
        named: Named<'_>,
        ask: Ask<'_>,
    ) -> Result<(), MalformedHistory> {
        let Named { process, f, key, value } = named;
        let key = key.ok_or_else(|| MalformedHistory(format!("{f} of no key")))?;
        self.sink.invoke(process, key, ask)?;
        let begun = self.begun.entry(process).or_default();
        write_over(&mut begun.f, f);
        write_over(&mut begun.key, key);
        match value {
            Some(value) => write_over(begun.value.get_or_insert_default(), value),
            None => begun.value = None,
        }
        Ok(())
    }

    pub(super) fn end(&mut self, named: Named<'_>, end: End<'_>) -> Result<(), MalformedHistory> {
        let process = named.process;
        // Without a beginning there is nothing to agree with, and the sink will not have it.
        if let Some(begun) = self.begun.get(&process) {
            begun.agrees(named)?;
        }
        if end == End::Info {
            self.begun.remove(&process);
        }
        self.sink.end(process, end)
    }
}

impl Begun {
    fn agrees(&self, named: Named<'_>) -> Result<(), MalformedHistory> {
        let Named { process, f, key, value } = named;
        let same_value = value.is_none() || value == self.value.as_deref();
        if f == self.f && key.is_none_or(|key| key == self.key) && same_value {
            return Ok(());
        }
        let of = |f: &str, key: &str, value: Option<&str>| match value {
            // Only where the values differ do they say more than they take room.
            Some(value) if !same_value => format!("{f} {value} of {key}"),
            _ => format!("{f} of {key}"),
        };
        let ended = of(f, key.unwrap_or(&self.key), value);
        let begun = of(&self.f, &self.key, self.value.as_deref());
        Err(MalformedHistory(format!("process {process} ends {ended}, but has begun {begun}")))
    }
}

fn write_over(text: &mut String, with: &str) {
    text.clear();
    text.push_str(with);
}
