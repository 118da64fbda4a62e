//! Compares the nodes of etcd: the hash of what each holds at a revision that all of them have. The messages
//! of its v3 API that are needed are declared here; its JSON gateway does not reach this hash.

use std::{collections::BTreeMap, io, time::Duration};

use futures::future::join_all;
use history::nemesis::{Compared, NodeState};
use http::{Uri, uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use lab::network::Dialer;
use tokio::time::timeout;
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::site::{Place, Site};

/// How long a node may take to answer. It hashes all that was ever written.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a node is.
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// The hash of what a node holds at a revision.
const HASH: &str = "/etcdserverpb.Maintenance/HashKV";

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "7")]
    applied_index: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HashRequest {
    #[prost(int64, tag = "1")]
    revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HashResponse {
    #[prost(uint32, tag = "2")]
    hash: u32,
    /// The hash is that of what was written after this revision.
    #[prost(int64, tag = "3")]
    compact_revision: i64,
}

/// Compares all nodes at the latest revision that each of them has. Clients may go on meanwhile.
pub(super) async fn compare(site: &Site) -> Compared {
    match hashes(site).await {
        Ok(compared) => compared,
        Err(why) => Compared { failed: Some(why), ..Compared::default() },
    }
}

async fn hashes(site: &Site) -> Result<Compared, String> {
    let statuses: Vec<StatusResponse> = ask_all(site, STATUS, StatusRequest {}).await?;
    let revision_of = |status: &StatusResponse| status.header.clone().unwrap_or_default().revision;
    let revision = statuses.iter().map(revision_of).min().unwrap_or(0);
    // Asked about revision 0, each node would hash its latest state.
    if revision < 1 {
        return Err("a node does not say at which revision it is".to_owned());
    }
    let hashes: Vec<HashResponse> = ask_all(site, HASH, HashRequest { revision }).await?;
    // What was written at a revision does not change, so a difference stays.
    let again: Vec<HashResponse> = ask_all(site, HASH, HashRequest { revision }).await?;
    if hashes != again {
        return Err(format!("a node has two hashes of revision {revision}: {hashes:?}, {again:?}"));
    }
    let from = hashes.first().map(|first| first.compact_revision);
    if hashes.iter().any(|other| Some(other.compact_revision) != from) {
        return Err(format!("nodes have forgotten different revisions: {hashes:?}"));
    }
    let nodes: BTreeMap<String, NodeState> = site
        .names
        .iter()
        .zip(statuses.iter().zip(&hashes))
        .map(|(node, (status, HashResponse { hash, .. }))| {
            let (revision, applied) = (revision_of(status), status.applied_index);
            let progress = format!("revision {revision}, applied index {applied}");
            (node.to_string(), NodeState { hash: hash.to_string(), progress })
        })
        .collect();
    Ok(Compared { at: format!("revision {revision}"), nodes, failed: None })
}

/// The answers of all nodes to a question.
async fn ask_all<Q, A>(site: &Site, path: &'static str, question: Q) -> Result<Vec<A>, String>
where
    Q: prost::Message + Clone + 'static,
    A: prost::Message + Default + 'static,
{
    let asked = site.places.iter().map(|place| {
        let question = question.clone();
        async move {
            let answer = timeout(DEADLINE, ask(site.dialer(), place, path, question)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")));
            answer.map_err(|why| format!("{}: {path}: {why}", place.name))
        }
    });
    join_all(asked).await.into_iter().collect()
}

async fn ask<Q, A>(
    dialer: Dialer,
    place: &Place,
    path: &'static str,
    question: Q,
) -> Result<A, String>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let endpoint = Endpoint::from_shared(format!("http://{}", place.authority()));
    let connector = service_fn(move |target: Uri| {
        let dialer = dialer.clone();
        async move {
            let authority = target.authority().ok_or(io::ErrorKind::InvalidInput)?;
            dialer.connect(authority.as_str()).await.map(TokioIo::new)
        }
    });
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    let channel: Channel =
        endpoint.connect_with_connector(connector).await.map_err(|error| error.to_string())?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| error.to_string())?;
    let codec = ProstCodec::<Q, A>::default();
    let path = PathAndQuery::from_static(path);
    let answer = grpc.unary(Request::new(question), path, codec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}
