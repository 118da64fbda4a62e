//! Measures what the harness itself costs: runs against clients that answer at once, without faults. One is
//! in this process, the other a child process in Python that speaks JSON lines.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use futures::future::{BoxFuture, ready};
use history::{Action, Kind};
use lab::{
    NodeName, RunSettings, StartOptions, System,
    client::{Answer, Client},
    request::Request,
    scratch::Scratch,
    workloads::{LoadShape, Workload},
};
use nix::sys::resource::{UsageWho, getrusage};

use crate::{Deployment, SystemSpec, Task};

/// The nodes do nothing, and the client is all of the system.
const SYSTEM: &str = r#"
[system]
name = "overhead"
[roles.node]
count = 1
start = ["sleep", "3600"]
ports = ["client"]
ready = { cmd = ["true"] }
[client]
kind = "exec"
command = ["python3", "{home}/client.py"]
"#;

const CLIENT: &str = r#"
import json, sys
sys.stdin.readline()
print(json.dumps({"hello": 1, "ops": ["read", "write"]}), flush=True)
store = {}
for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request["id"], "type": "ok"}
    if request["do"] == "invoke":
        if request["f"] == "write":
            store[request["key"]] = request["value"]
        answer["value"] = store.get(request["key"])
    print(json.dumps(answer), flush=True)
"#;

/// What was measured of one client.
#[derive(Clone, Copy, Debug)]
pub struct Overhead {
    /// Operations that succeeded in a second.
    pub operations_per_second: f64,
    /// The CPU time of this process for an operation, of all its threads, in microseconds.
    pub cpu_us: f64,
}

/// Measures clients in this process, which answer at once.
///
/// # Errors
/// The run cannot be made; in words.
pub async fn of_builtin(keeper: &Path, time: Duration) -> Result<Overhead, String> {
    let system = Instant { nodes: vec![NodeName::new("n1")], keeper: keeper.to_owned() };
    measure(Arc::new(system), 10, time).await
}

/// Measures one client in Python.
///
/// # Errors
/// The run cannot be made; in words.
pub async fn of_child(keeper: &Path, time: Duration) -> Result<Overhead, String> {
    let text = |error: io::Error| error.to_string();
    let directory = Scratch::create(&std::env::temp_dir()).map_err(text)?;
    let file = directory.path().join("overhead.toml");
    fs::write(&file, SYSTEM).map_err(text)?;
    fs::write(directory.path().join("client.py"), CLIENT).map_err(text)?;
    let spec = SystemSpec::load(&file).map_err(|error| error.to_string())?;
    let task = Task {
        workload: workload()?,
        claim: "linearizable".to_owned(),
        seed: 1,
        keeper: keeper.to_owned(),
        network: None,
    };
    let deployment = Deployment::set_up(Arc::new(spec), &task).await;
    let deployment = deployment.map_err(|error| error.to_string())?;
    measure(Arc::new(deployment), 1, time).await
}

fn workload() -> Result<&'static dyn Workload, String> {
    lab::workloads::find("register").ok_or_else(|| "there is no workload register".to_owned())
}

/// Makes a run, and counts what was recorded in it.
async fn measure(
    system: Arc<dyn System>,
    concurrency: u32,
    time: Duration,
) -> Result<Overhead, String> {
    let store = Scratch::create(&std::env::temp_dir()).map_err(|error| error.to_string())?;
    let settings = RunSettings {
        time_limit: time,
        load: LoadShape { concurrency, ..LoadShape::default() },
        ..RunSettings::new("overhead", store.path())
    };
    let before = cpu_time()?;
    let run = lab::run(system, workload()?, &[], &settings).await;
    let run = run.map_err(|error| error.to_string())?;
    let spent = cpu_time()?.saturating_sub(before);
    let recorded = history::read(&run.history()).map_err(|error| error.to_string())?;
    let is_done = |action: &Action| match action {
        Action::Client(event) => event.kind == Kind::Ok,
        Action::Nemesis(_) => false,
    };
    let count = recorded.events.iter().filter(|event| is_done(&event.action)).count();
    if count == 0 {
        return Err("no operation succeeded".to_owned());
    }
    Ok(Overhead {
        operations_per_second: count as f64 / time.as_secs_f64(),
        cpu_us: spent.as_secs_f64() * 1e6 / count as f64,
    })
}

/// The CPU time that this process has used, without that of its children.
fn cpu_time() -> Result<Duration, String> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).map_err(|error| error.to_string())?;
    let times = [usage.user_time(), usage.system_time()];
    let micros = times.map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Ok(Duration::from_micros(micros.iter().sum::<i64>().unsigned_abs()))
}

/// A system whose clients answer at once, beside a process that stands for the server.
struct Instant {
    nodes: Vec<NodeName>,
    keeper: PathBuf,
}

impl System for Instant {
    fn nodes(&self) -> &[NodeName] {
        &self.nodes
    }

    fn command(&self, _node: &NodeName, _start: &StartOptions) -> Command {
        let mut command = Command::new("sleep");
        command.arg("3600");
        command
    }

    fn is_ready<'a>(&'a self, _node: &'a NodeName) -> BoxFuture<'a, bool> {
        Box::pin(ready(true))
    }

    fn client(&self, _worker: u32) -> Box<dyn Client> {
        Box::new(InstantClient)
    }

    fn keeper(&self) -> Option<&Path> {
        Some(&self.keeper)
    }
}

struct InstantClient;

impl Client for InstantClient {
    fn perform<'a>(&'a mut self, _request: &'a Request, _: Duration) -> BoxFuture<'a, Answer> {
        Box::pin(ready(Answer::Ok { version: None, value: None }))
    }
}
