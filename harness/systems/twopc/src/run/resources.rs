//! What the processes of the nodes use: descriptors, threads, memory, and processor time while nobody asks
//! anything. From `/proc`.

use std::{collections::BTreeMap, fs, io, time::Duration};

use system::protocol::Node;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    checks::resources::{ResourceUse, ResourcesEvent, WINDOWS_MAX, is_quiet},
    cluster::Cluster,
};

/// How often memory is looked at during an attack.
const SAMPLE: Duration = Duration::from_millis(10);

/// How long processor time is measured at a time.
const WINDOW: Duration = Duration::from_millis(150);

/// Measures every node that runs. With `idle`, nobody may be asking the nodes anything: processor time is
/// measured too, again while a node is busy, as it may still be writing to its disk.
pub(super) async fn measure(cluster: &Cluster, idle: bool) -> ResourcesEvent {
    let processes: Vec<(Node, i32)> =
        cluster.nodes().filter_map(|node| Some((node, cluster.process(node)?.pid()))).collect();
    let mut nodes: BTreeMap<Node, ResourceUse> = BTreeMap::new();
    for window in 0..WINDOWS_MAX {
        let left = processes.iter().filter(|(node, _)| match nodes.get(node) {
            None => true,
            Some(used) => idle && !is_quiet(used),
        });
        let left: Vec<_> = left.copied().collect();
        if left.is_empty() || (window > 0 && !idle) {
            break;
        }
        let measured = |pid: i32| Ok::<_, io::Error>((processor_ms(pid)?, used(pid)?));
        let before: Vec<_> = left.iter().map(|(_, pid)| measured(*pid)).collect();
        let started = Instant::now();
        if idle {
            sleep(WINDOW).await;
        }
        let wall_ms = started.elapsed().as_millis() as u64;
        for ((node, pid), before) in left.into_iter().zip(before) {
            // A node that has ended is reported elsewhere.
            if let (Ok((ms_before, before)), Ok((ms, used))) = (before, measured(pid)) {
                let processor_ms = ms.saturating_sub(ms_before);
                let waits = used.waits.saturating_sub(before.waits);
                let preemptions = used.preemptions.saturating_sub(before.preemptions);
                let used = ResourceUse { processor_ms, wall_ms, waits, preemptions, ..used };
                nodes.insert(node, used);
            }
        }
    }
    ResourcesEvent { idle, attack: None, nodes }
}

/// Follows the memory of a process, until it is told to stop. Returns the most that it had.
pub(crate) async fn peak_memory(pid: i32, mut stop: watch::Receiver<bool>) -> ResourceUse {
    let mut peak = ResourceUse::default();
    loop {
        // A node that has ended is reported elsewhere.
        let memory = used(pid).map_or(0, |used| used.anonymous_kib);
        peak.anonymous_kib = peak.anonymous_kib.max(memory);
        if timeout(SAMPLE, stop.wait_for(|stop| *stop)).await.is_ok() {
            return peak;
        }
    }
}

fn used(pid: i32) -> io::Result<ResourceUse> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    let missing = |name| io::Error::other(format!("/proc/{pid}/status has no {name}"));
    Ok(ResourceUse {
        descriptors,
        threads: field("Threads").ok_or_else(|| missing("Threads"))?,
        anonymous_kib: field("RssAnon").ok_or_else(|| missing("RssAnon"))?,
        processor_ms: 0,
        wall_ms: 0,
        waits: field("voluntary_ctxt_switches")
            .ok_or_else(|| missing("voluntary_ctxt_switches"))?,
        preemptions: field("nonvoluntary_ctxt_switches")
            .ok_or_else(|| missing("nonvoluntary_ctxt_switches"))?,
    })
}

/// The processor time that a process has used.
fn processor_ms(pid: i32) -> io::Result<u64> {
    /// The kernel reports times to processes in this unit.
    const TICK_MS: u64 = 10;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program is in parentheses and may contain anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: Result<Vec<u64>, _> = times.collect();
    let ticks = ticks.map_err(|_| io::Error::other(format!("/proc/{pid}/stat is malformed")))?;
    Ok(ticks.iter().sum::<u64>() * TICK_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_its_use() {
        let pid = std::process::id().cast_signed();
        let before = used(pid).expect("/proc is there");
        let open: Vec<_> =
            (0..20).map(|_| fs::File::open("/dev/null").expect("it opens")).collect();
        let after = used(pid).expect("/proc is there");
        assert!(
            after.descriptors + 5 >= before.descriptors + open.len() as u64,
            "{before:?}, {after:?}"
        );
        assert!(after.threads >= 1 && after.anonymous_kib > 0, "{after:?}");
        assert!(after.waits + after.preemptions > 0, "{after:?}");
        assert!(processor_ms(pid).is_ok());
    }
}
