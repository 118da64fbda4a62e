//! The supervisor with real processes: what it sees of them, and that none is left.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
};

use harness::supervisor::{Activity, Process, Supervisor};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const DEADLINE: Duration = Duration::from_secs(10);

async fn shell(supervisor: &Supervisor, script: &str) -> Process {
    shell_with_log(supervisor, script, Path::new("/dev/null")).await
}

async fn shell_with_log(supervisor: &Supervisor, script: &str, log: &Path) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let log = File::options().append(true).create(true).open(log).expect("a log");
    supervisor.spawn(command, log).await.expect("sh is everywhere")
}

fn exists(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

#[tokio::test]
async fn a_child_says_where_it_listens_and_how_it_ends() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "echo noise; echo listening 127.1.2.3:99; read x; exit 7").await;
    let state = child.wait_until(DEADLINE, |state| state.listening.is_some()).await.expect("said");
    assert_eq!(state.listening, "127.1.2.3:99".parse().ok());
    assert_eq!(state.activity, Activity::Running);
    let state = child.disarm(DEADLINE).await.expect("it reads a line").expect("ends");
    assert_eq!(state.ended().and_then(|status| status.code()), Some(7));
    assert!(!state.end_expected);
    assert!(!child.signal(Signal::SIGKILL), "nobody is there to be signalled");
    assert!(child.arm("x").is_err(), "nobody is there to be armed");
}

#[tokio::test]
async fn a_child_that_stops_itself_at_a_point_is_seen_there_and_continued() {
    let supervisor = Supervisor::start().expect("a thread");
    let script = "read arm point; echo hit $point txn=1.17 n=2; kill -STOP $$; echo on; read x";
    let child = shell(&supervisor, script).await;
    child.arm("a:before:b").expect("it reads a line");
    let state = child.wait_until(DEADLINE, harness::supervisor::State::lies_at_point).await;
    let reached = state.and_then(|state| state.reached).expect("it said where it stopped");
    assert_eq!(reached.point, "a:before:b");
    assert_eq!(reached.detail("txn"), Some("1.17"));
    assert_eq!(reached.detail("n"), Some("2"));
    assert_eq!(reached.detail("tx"), None);
    assert!(child.signal(Signal::SIGCONT));
    let runs = child.wait_until(DEADLINE, |state| state.activity == Activity::Running).await;
    assert!(runs.is_some());
    child.kill().await;
}

#[tokio::test]
async fn a_point_is_taken_back_unless_the_child_is_there_already() {
    let supervisor = Supervisor::start().expect("a thread");
    let script = "read x; echo disarmed; read x; echo hit p; echo disarmed; kill -STOP $$";
    let child = shell(&supervisor, script).await;
    let state = child.disarm(DEADLINE).await.expect("it reads a line").expect("it answers");
    assert!(!state.lies_at_point() && state.reached.is_none());
    let state = child.disarm(DEADLINE).await.expect("it reads a line").expect("it stops");
    assert!(state.lies_at_point());
}

#[tokio::test]
async fn a_point_that_does_not_exist_is_told() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "read arm point; echo error $point no such; read x").await;
    child.arm("a:b").expect("it reads a line");
    let state = child.wait_until(DEADLINE, |state| state.refused.is_some()).await.expect("told");
    assert_eq!(state.refused.as_deref(), Some("a:b no such"));
}

#[tokio::test]
async fn a_stop_from_outside_is_no_crash_point() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "read x").await;
    for _ in 0..20 {
        assert!(child.signal(Signal::SIGSTOP));
        let state = child
            .wait_until(DEADLINE, |state| state.activity == Activity::Stopped)
            .await
            .expect("it stops");
        assert!(!state.lies_at_point());
        assert!(child.signal(Signal::SIGCONT));
        let runs = child.wait_until(DEADLINE, |state| state.activity == Activity::Running).await;
        assert!(runs.is_some());
    }
}

#[tokio::test]
async fn a_kill_ends_also_what_lies_stopped_and_leaves_no_zombie() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "kill -STOP $$; read x").await;
    let stops = child.wait_until(DEADLINE, |state| state.activity == Activity::Stopped).await;
    assert!(stops.is_some());
    child.kill().await;
    let state = child.state();
    assert!(state.end_expected);
    let status = state.ended().expect("it was killed");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert!(!exists(child.pid()), "it was reaped");
}

#[tokio::test]
async fn dropping_a_child_kills_it() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "read x").await;
    let (pid, mut follow) = (child.pid(), child.follow());
    drop(child);
    let ended = follow.wait_for(|state| state.ended().is_some());
    tokio::time::timeout(DEADLINE, ended).await.expect("in time").expect("its end is seen");
    assert!(!exists(pid));
}

#[tokio::test]
async fn a_child_has_a_process_group_of_its_own_and_its_log() {
    let supervisor = Supervisor::start().expect("a thread");
    let dir = tempfile::tempdir().expect("a directory for the test");
    let log = dir.path().join("log");
    for _ in 0..2 {
        let child =
            shell_with_log(&supervisor, "echo hello >&2; ps -o pgid= -p $$ >&2", &log).await;
        let ends = child.wait_until(DEADLINE, |state| state.ended().is_some()).await;
        assert!(ends.is_some());
    }
    let said = fs::read_to_string(&log).expect("a log");
    assert_eq!(said.matches("hello").count(), 2, "{said}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let supervisor = Supervisor::start().expect("a thread");
    let log = File::open("/dev/null").expect("a log");
    assert!(supervisor.spawn(Command::new("/no/such/program"), log).await.is_err());
}
