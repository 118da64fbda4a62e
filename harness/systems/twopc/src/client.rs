//! The client of our own store: states each answer in the words of a history.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use history::{ErrorCode, Function, Version};
use lab::{
    client::{Answer, Client},
    request::Request,
};
use system::{
    client::{self, Reason, ReasonKind, WriteOutcome},
    config::Address,
    tls::Tls,
};

use crate::{
    payload::{key_bytes, value_bytes, value_name},
    snapshots,
};

/// A client of a cluster.
pub struct TwopcClient {
    client: client::Client,
}

impl TwopcClient {
    /// A client of the cluster whose master is at this address, with this identity if there is TLS.
    #[must_use]
    pub fn new(master: Address, tls: Option<Arc<Tls>>) -> Self {
        TwopcClient { client: client::Client::with_tls(master, tls) }
    }
}

impl Client for TwopcClient {
    fn perform<'a>(
        &'a mut self,
        request: &'a Request,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let client = self.client.clone().timeout(deadline);
            let Request { f, key, value } = request;
            let key = key_bytes(key);
            match (f, value) {
                (Function::Put, Some(value)) => {
                    write_answer(client.put(key, value_bytes(value)).await)
                }
                (Function::Del, _) => write_answer(client.del(key).await),
                (Function::Get, _) => match client.get(key).await {
                    Ok(Some((version, value))) => Answer::Ok {
                        version: Some(Version::new(version)),
                        value: Some(value_name(&value).to_string()),
                    },
                    Ok(None) => Answer::Ok { version: None, value: None },
                    Err(error) => read_failure(error),
                },
                (Function::Snapshot, Some(asked)) => {
                    snapshots::perform(&client, asked).await.unwrap_or_else(read_failure)
                }
                _ => Answer::Fail { error: format!("unsupported: {f}"), unavailable: false },
            }
        })
    }
}

fn read_failure(error: client::ReadError) -> Answer {
    match error {
        client::ReadError::Refused(reason) => failure(&reason),
        client::ReadError::Failed(why) => {
            Answer::Fail { error: format!("lost: {why}"), unavailable: false }
        }
    }
}

fn write_answer(outcome: WriteOutcome) -> Answer {
    match outcome {
        WriteOutcome::Committed { version } => {
            Answer::Ok { version: Some(Version::new(version)), value: None }
        }
        WriteOutcome::Aborted(reason) => failure(&reason),
        WriteOutcome::Unknown(why) => Answer::info(format!("lost: {why}")),
    }
}

/// The answer for a request without effect. Its error begins with an [`ErrorCode`] where there is
/// one for the reason.
fn failure(reason: &Reason) -> Answer {
    let fact = |name: &str| reason.facts.get(name).map_or("?", String::as_str);
    let (code, detail) = match reason.kind {
        ReasonKind::Conflict => {
            (ErrorCode::Conflict.name(), format!("{} was first", fact("holder")))
        }
        ReasonKind::Refused if fact("why") == "locked" => {
            let (by, holder) = (fact("by"), fact("holder"));
            (ErrorCode::Locked.name(), format!("{by} holds the key for {holder}"))
        }
        ReasonKind::Full => (ErrorCode::Full.name(), format!("{} has no room", fact("by"))),
        ReasonKind::Refused => (ErrorCode::Refused.name(), reason.text.clone()),
        ReasonKind::Timeout => (ErrorCode::Timeout.name(), fact("missing").to_owned()),
        ReasonKind::TooLarge => ("too-large", reason.text.clone()),
        ReasonKind::Unavailable => (ErrorCode::Unavailable.name(), reason.text.clone()),
        ReasonKind::Expired => ("expired", reason.text.clone()),
        ReasonKind::Overloaded => ("overloaded", reason.text.clone()),
        ReasonKind::Stopping => ("stopping", reason.text.clone()),
        ReasonKind::Denied => ("denied", reason.text.clone()),
        ReasonKind::Invalid => ("invalid", reason.text.clone()),
        ReasonKind::Unreachable => ("unreachable", reason.text.clone()),
    };
    let unavailable = matches!(
        reason.kind,
        ReasonKind::Unavailable
            | ReasonKind::Overloaded
            | ReasonKind::Stopping
            | ReasonKind::Unreachable
    );
    Answer::Fail { error: format!("{code}: {detail}"), unavailable }
}
