//! The supervisor with real processes: which state changes it observes, and that no process is left.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
};

use lab::{
    process::{Activity, Process, ProcessState},
    supervisor::Supervisor,
};
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
async fn a_child_reports_its_address_and_its_exit_status() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "echo noise; echo listening 127.1.2.3:99; read x; exit 7").await;
    let state = child
        .wait_until(DEADLINE, |state| state.listening.is_some())
        .await
        .expect("it reports its address");
    assert_eq!(state.listening, "127.1.2.3:99".parse().ok());
    assert_eq!(state.activity, Activity::Running);
    let state = child.disarm(DEADLINE).await.expect("it reads a line").expect("ends");
    assert_eq!(state.exit_status().and_then(|status| status.code()), Some(7));
    assert!(!state.exit_expected);
    assert!(!child.signal(Signal::SIGKILL), "the process is gone");
    assert!(child.arm("x").is_err(), "the process is gone");
}

#[tokio::test]
async fn a_child_that_stops_itself_at_a_point_is_reported_and_continued() {
    let supervisor = Supervisor::start().expect("a thread");
    let script = "read arm point; echo hit $point txn=1.17 n=2; kill -STOP $$; echo on; read x";
    let child = shell(&supervisor, script).await;
    child.arm("a:before:b").expect("it reads a line");
    let state = child.wait_until(DEADLINE, ProcessState::is_stopped_at_point).await;
    let reached = state.and_then(|state| state.reached).expect("it reported the point");
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
async fn a_point_is_disarmed_unless_the_child_has_reached_it() {
    let supervisor = Supervisor::start().expect("a thread");
    let script = "read x; echo disarmed; read x; echo hit p; echo disarmed; kill -STOP $$";
    let child = shell(&supervisor, script).await;
    let state = child.disarm(DEADLINE).await.expect("it reads a line").expect("it answers");
    assert!(!state.is_stopped_at_point() && state.reached.is_none());
    let state = child.disarm(DEADLINE).await.expect("it reads a line").expect("it stops");
    assert!(state.is_stopped_at_point());
}

#[tokio::test]
async fn an_unknown_point_is_reported() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "read arm point; echo error $point no such; read x").await;
    child.arm("a:b").expect("it reads a line");
    let state = child
        .wait_until(DEADLINE, |state| state.arm_error.is_some())
        .await
        .expect("it reports the error");
    assert_eq!(state.arm_error.as_deref(), Some("a:b no such"));
}

#[tokio::test]
async fn a_sigstop_from_outside_is_not_a_crash_point() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "read x").await;
    for _ in 0..20 {
        assert!(child.signal(Signal::SIGSTOP));
        let state = child
            .wait_until(DEADLINE, |state| state.activity == Activity::Stopped)
            .await
            .expect("it stops");
        assert!(!state.is_stopped_at_point());
        assert!(child.signal(Signal::SIGCONT));
        let runs = child.wait_until(DEADLINE, |state| state.activity == Activity::Running).await;
        assert!(runs.is_some());
    }
}

#[tokio::test]
async fn a_kill_ends_a_stopped_child_and_leaves_no_zombie() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "kill -STOP $$; read x").await;
    let stops = child.wait_until(DEADLINE, |state| state.activity == Activity::Stopped).await;
    assert!(stops.is_some());
    child.kill().await;
    let state = child.state();
    assert!(state.exit_expected);
    let status = state.exit_status().expect("it was killed");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert!(!exists(child.pid()), "it was reaped");
}

#[tokio::test]
async fn dropping_a_child_kills_it() {
    let supervisor = Supervisor::start().expect("a thread");
    let child = shell(&supervisor, "read x").await;
    let (pid, mut states) = (child.pid(), child.subscribe());
    drop(child);
    let exited = states.wait_for(|state| state.exit_status().is_some());
    tokio::time::timeout(DEADLINE, exited).await.expect("in time").expect("its exit is reported");
    assert!(!exists(pid));
}

#[tokio::test]
async fn a_child_appends_to_its_log() {
    let supervisor = Supervisor::start().expect("a thread");
    let dir = tempfile::tempdir().expect("a directory for the test");
    let log = dir.path().join("log");
    for _ in 0..2 {
        let child =
            shell_with_log(&supervisor, "echo hello >&2; ps -o pgid= -p $$ >&2", &log).await;
        let exited = child.wait_until(DEADLINE, |state| state.exit_status().is_some()).await;
        assert!(exited.is_some());
    }
    let logged = fs::read_to_string(&log).expect("a log");
    assert_eq!(logged.matches("hello").count(), 2, "{logged}");
}

#[tokio::test]
async fn a_missing_program_is_an_error() {
    let supervisor = Supervisor::start().expect("a thread");
    let log = File::open("/dev/null").expect("a log");
    assert!(supervisor.spawn(Command::new("/no/such/program"), log).await.is_err());
}
