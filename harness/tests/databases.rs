//! Databases that are built in, tested by an ordinary user: neither their nodes nor the harness need root.
#![cfg(feature = "databases")]

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::{Command, Stdio},
};

/// The account of an ordinary user, on every Debian.
const NOBODY: u32 = 65534;

/// The harness in a directory of an ordinary user: nobody, if this is root.
fn as_ordinary_user(directory: &Path) -> Command {
    let program = directory.join("harness");
    fs::copy(env!("CARGO_BIN_EXE_harness"), &program).expect("the disk has room");
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let mut command = Command::new(if is_root { Path::new("setpriv") } else { &program });
    if is_root {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("it is ours");
        chown(directory, Some(NOBODY), Some(NOBODY)).expect("root may");
        let ids = ["--reuid", "--regid"].map(|option| format!("{option}={NOBODY}"));
        command.args(ids).arg("--clear-groups").arg(&program);
    }
    command.env("TMPDIR", directory).current_dir(directory).stdin(Stdio::null());
    command
}

fn is_valid_for_an_ordinary_user(database: &str, workload: &str, faults: &str) {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let output = as_ordinary_user(directory.path())
        .args(["--system", database, "--workload", workload, "--faults", faults])
        .args(["--time-limit", "6s", "--seed", "1", "--store", "runs"])
        .output()
        .expect("it starts");
    let text =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).join("\n");
    let missing = ["is not installed", "a virtual network needs"];
    if let Some(why) = text.lines().find(|line| missing.iter().any(|it| line.contains(it))) {
        let _ = writeln!(io::stderr(), "skipped: {database}: {why}");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{text}");
}

#[cfg(feature = "etcd")]
#[test]
fn etcd_needs_no_root() {
    is_valid_for_an_ordinary_user("etcd", "register", "kill");
}

#[cfg(feature = "redis")]
#[test]
fn redis_needs_no_root() {
    is_valid_for_an_ordinary_user("redis", "set", "kill");
}

#[cfg(feature = "postgresql")]
#[test]
fn postgresql_needs_no_root() {
    is_valid_for_an_ordinary_user("postgresql", "append", "kill");
}

/// Nodes, sentinels and clients have hosts of their own, and the harness watches them through the network.
#[cfg(feature = "redis")]
#[test]
fn redis_can_be_partitioned() {
    is_valid_for_an_ordinary_user("redis:replicas", "set", "partition:followers,kill:leader");
}

#[cfg(feature = "postgresql")]
#[test]
fn postgresql_can_be_partitioned() {
    let database = "postgresql:synchronous-standby";
    is_valid_for_an_ordinary_user(database, "set", "partition:halves,kill:leader");
}

#[cfg(feature = "nats")]
#[test]
fn nats_needs_no_root() {
    is_valid_for_an_ordinary_user("nats", "set", "kill");
}

#[cfg(feature = "nats")]
#[test]
fn nats_can_be_partitioned() {
    is_valid_for_an_ordinary_user("nats", "log", "partition:leader,kill:followers");
}
