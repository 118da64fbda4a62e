//! Trees of processes, as /proc has them.

use std::{collections::BTreeMap, fs};

use nix::unistd::Pid;

/// All descendants of a process.
pub(crate) fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name of the program, in parentheses, may contain anything.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|parent| parent.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root.as_raw()];
    let mut at = 0;
    while at < found.len() {
        found.extend(children.remove(&found[at]).unwrap_or_default());
        at += 1;
    }
    found.into_iter().skip(1).map(Pid::from_raw).collect()
}

/// The processes of a tree that are not its [keeper](crate::keeper)'s. The root is the keeper, or the first of
/// the processes.
pub(crate) fn programs(root: Pid, is_keeper: bool) -> Vec<Pid> {
    let mut found = vec![root];
    found.extend(descendants(root));
    if is_keeper {
        let program = |pid: &Pid| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let keeper = program(&root);
        found.retain(|pid| program(pid).is_some_and(|other| Some(other) != keeper));
    }
    found
}

/// The name of a process, as the kernel keeps it.
pub(crate) fn name(pid: Pid) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}
