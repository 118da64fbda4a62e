//! Tries a system file: starts the nodes and asks the client for each operation once, also while no node can
//! answer. Finds the mistakes that would make runs worthless.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use history::Function;
use lab::{
    EventLog, MemberChange, NodeName, System,
    client::{Answer, Client},
    cluster::Cluster,
    fault::FaultAction,
    network::Network,
    request::Request,
    workloads::{self, Workload},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{Deployment, SystemSpec, Task, spec::Netns};

/// How long the nodes have to become ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// How long the system may refuse to remove a node, and how often it is asked to.
const MEMBER_DEADLINE: Duration = Duration::from_secs(30);
const MEMBER_PERIOD: Duration = Duration::from_secs(1);

/// How long an operation may take.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2);

/// Tries the file, and says in `line` what was done.
///
/// # Errors
/// Something does not work, in words.
pub async fn run(
    spec: Arc<SystemSpec>,
    keeper: &Path,
    line: &mut dyn FnMut(&str),
) -> Result<(), String> {
    let claimed: Vec<&dyn Workload> =
        spec.claims.keys().filter_map(|name| workloads::find(name)).collect();
    let tried = if claimed.is_empty() {
        workloads::find("register").into_iter().collect()
    } else {
        claimed
    };
    for workload in tried {
        try_workload(&spec, keeper, workload, line)
            .await
            .map_err(|why| format!("workload {}: {why}", workload.name()))?;
    }
    Ok(())
}

async fn try_workload(
    spec: &Arc<SystemSpec>,
    keeper: &Path,
    workload: &dyn Workload,
    line: &mut dyn FnMut(&str),
) -> Result<(), String> {
    let network = match spec.netns {
        Netns::Required => {
            let nodes: Vec<NodeName> = spec.nodes();
            let network =
                Network::start(keeper, &nodes, 1, 0).map_err(|error| error.to_string())?;
            Some(Arc::new(network))
        }
        Netns::Best | Netns::Optional => None,
    };
    let (claim, keeper) = ("none".to_owned(), keeper.to_owned());
    let task = Task { workload, claim, seed: 0, keeper, network };
    let deployment =
        Deployment::set_up(spec.clone(), &task).await.map_err(|error| error.to_string())?;
    if let Some(version) = deployment.version() {
        line(&format!("version: {version}"));
    }
    let deployment = Arc::new(deployment);
    let scratch = deployment.scratch().to_owned();
    let logs: BTreeMap<_, _> = deployment
        .nodes()
        .iter()
        .map(|node| (node.clone(), scratch.join(format!("{node}.log"))))
        .collect();
    let nowhere = EventLog::new(|_| Ok(()));
    let cluster = Cluster::new(deployment.clone(), nowhere, logs, scratch)
        .map_err(|error| error.to_string())?;
    let tried = try_cluster(&cluster, spec, workload, line).await;
    cluster.stop().await;
    tried
}

async fn try_cluster(
    cluster: &Cluster,
    spec: &SystemSpec,
    workload: &dyn Workload,
    line: &mut dyn FnMut(&str),
) -> Result<(), String> {
    for node in cluster.nodes() {
        cluster.start(node).await.map_err(|error| error.to_string())?;
    }
    let Some(time) = cluster.until_ready(READY_DEADLINE).await else {
        let mut why = format!("the nodes were not ready within {READY_DEADLINE:?}");
        for node in cluster.nodes() {
            why += &format!("\n  {node}:{}", cluster.log_end(node));
        }
        return Err(why);
    };
    line(&format!("{} nodes are ready after {time:.1?}", cluster.nodes().len()));
    cluster.system().after_start().await?;
    let mut client = cluster.system().client(0);
    client.open().await?;
    for request in requests(workload) {
        let answer = client.perform(&request, OPERATION_TIMEOUT).await;
        conduct(&mut *client)?;
        line(&format!("{} {}: {}", request.f, request.key, text(&answer)));
        if let Answer::Info { error, .. } = &answer {
            return Err(format!("{} without any fault has an unknown outcome: {error}", request.f));
        }
    }
    if workload.functions().contains(&Function::Put) {
        reads_what_was_written(&mut *client).await?;
        change_members(cluster, spec, line).await?;
        reads_what_was_written(&mut *client).await?;
        without_nodes(cluster, &mut *client, line).await?;
    }
    client.close().await;
    Ok(())
}

/// A request of each function of the workload.
fn requests(workload: &dyn Workload) -> Vec<Request> {
    let value = |f: Function| match f {
        Function::Put => Some("1".to_owned()),
        Function::Cas => Some(json!(["1", "2"]).to_string()),
        Function::Txn => Some(json!([["r", "trial", null]]).to_string()),
        Function::Transfer => Some(json!({ "from": "a0", "to": "a1", "amount": 1 }).to_string()),
        Function::Poll => Some("0".to_owned()),
        Function::Add | Function::Inc | Function::Enqueue | Function::Append => {
            Some("1".to_owned())
        }
        _ => None,
    };
    let mut functions = workload.functions().to_vec();
    // Writes come first, so that a read has something to return.
    functions.sort_by_key(|f| !f.needs_value());
    let key = if workload.functions().contains(&Function::Transfer) { "bank" } else { "trial" };
    let request = |f: Function| Request { f, key: key.to_owned(), value: value(f) };
    functions.into_iter().map(request).collect()
}

fn text(answer: &Answer) -> String {
    match answer {
        Answer::Ok { value: Some(value), .. } => format!("ok, {value}"),
        Answer::Ok { value: None, .. } => "ok".to_owned(),
        Answer::Fail { error, .. } => format!("fail, {error}"),
        Answer::Info { error, .. } => format!("info, {error}"),
    }
}

fn conduct(client: &mut dyn Client) -> Result<(), String> {
    client.misconduct().map_or(Ok(()), Err)
}

async fn reads_what_was_written(client: &mut dyn Client) -> Result<(), String> {
    let put = Request::with(Function::Put, "trial", 7);
    let written = client.perform(&put, OPERATION_TIMEOUT).await;
    let read = client.perform(&Request::new(Function::Get, "trial"), OPERATION_TIMEOUT).await;
    conduct(client)?;
    match (&written, &read) {
        (Answer::Ok { .. }, Answer::Ok { value: Some(value), .. }) if value == "7" => Ok(()),
        _ => Err(format!(
            "a write of 7 ({}) is followed by a read of something else ({}): does the client convert \
             values?",
            text(&written),
            text(&read)
        )),
    }
}

/// Tries the hooks that change members: the last node is replaced, and each node is promoted.
async fn change_members(
    cluster: &Cluster,
    spec: &SystemSpec,
    line: &mut dyn FnMut(&str),
) -> Result<(), String> {
    let stands = |action: FaultAction| !spec.excluded.contains(&action);
    if stands(FaultAction::Replace)
        && let Some(node) = cluster.nodes().last()
    {
        // A cluster may refuse until it has been well for a while.
        let end = Instant::now() + MEMBER_DEADLINE;
        while let Err(why) = cluster.remove_member(node).await {
            if Instant::now() >= end {
                return Err(why);
            }
            sleep(MEMBER_PERIOD).await;
        }
        line(&format!("{node} is removed"));
        cluster.add_member(node).await.map_err(|error| error.to_string())?;
        match cluster.until_ready(READY_DEADLINE).await {
            Some(time) => line(&format!("{node} is added, and all are ready after {time:.1?}")),
            None => {
                let log = cluster.log_end(node);
                return Err(format!("{node} was added again and is not ready:{log}"));
            }
        }
    }
    if stands(FaultAction::Promote) {
        for node in cluster.nodes() {
            cluster.system().change_member(MemberChange::Promote, node).await?;
            let leader = cluster.system().leader().await;
            if leader.as_ref().is_some_and(|leader| leader != node) {
                return Err(format!(
                    "{node} was promoted, and the hook leader says that {} leads",
                    leader.as_ref().map_or("nobody", NodeName::as_str)
                ));
            }
            line(&format!("{node} is promoted"));
        }
    }
    Ok(())
}

/// Asks for a write while every node is paused, and while every node is dead. A `fail` that is read back
/// later was none.
async fn without_nodes(
    cluster: &Cluster,
    client: &mut dyn Client,
    line: &mut dyn FnMut(&str),
) -> Result<(), String> {
    for (what, value) in [("paused", 8), ("killed", 9)] {
        for node in cluster.nodes() {
            match what {
                "paused" => drop(cluster.pause(node).await),
                _ => cluster.kill(node).await,
            }
        }
        let put = Request::with(Function::Put, "trial", value);
        let answer = client.perform(&put, OPERATION_TIMEOUT).await;
        conduct(client)?;
        line(&format!("write while every node is {what}: {}", text(&answer)));
        if let Answer::Ok { .. } = answer {
            return Err(format!("a write was answered ok while every node was {what}"));
        }
        cluster.heal().await.map_err(|error| error.to_string())?;
        if cluster.until_ready(READY_DEADLINE).await.is_none() {
            return Err(format!("the nodes are not ready again after they were {what}"));
        }
        client.open().await?;
        let read = client.perform(&Request::new(Function::Get, "trial"), OPERATION_TIMEOUT).await;
        conduct(client)?;
        let is_read_back =
            matches!(&read, Answer::Ok { value: Some(read), .. } if *read == value.to_string());
        if is_read_back && matches!(answer, Answer::Fail { .. }) {
            return Err(format!(
                "a write while every node was {what} was answered fail, and is read back: fail only \
                 what certainly had no effect, and answer info otherwise"
            ));
        }
    }
    Ok(())
}
