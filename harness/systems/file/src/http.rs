//! A client that consists of HTTP requests, one template for each operation. One connection a worker, and no
//! request is ever sent twice.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::future::BoxFuture;
use history::Function;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request as HttpRequest, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use lab::{
    NodeName,
    client::{Answer, Client},
    network::{Dialer, Network},
    request::Request,
};
use serde_json::Value as Json;
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    answer::{answer, protocol_name},
    template::{Facts, NodeFacts, RequestFacts, Template},
};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// How an operation is asked for, and what its answer means.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The method.
    pub method: Method,
    /// The path and query.
    pub path: Template,
    /// Headers.
    pub headers: Vec<(String, Template)>,
    /// The body.
    pub body: Option<Template>,
    /// Statuses that say that it took effect.
    pub ok: Vec<u16>,
    /// Statuses that say that it certainly had no effect.
    pub fail: Vec<u16>,
    /// Statuses that say that there is no value.
    pub absent: Vec<u16>,
    /// Where the value is in the answer.
    pub value: Option<Place>,
    /// A place in the answer that must be true; if it is not, the operation certainly had no effect.
    pub succeeded: Option<String>,
    /// Whether the value is in base64.
    pub base64: bool,
}

/// Where the value of an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The whole body.
    Body,
    /// A JSON pointer into the body. What it does not find is absent.
    Pointer(String),
}

/// What all clients of a run have in common.
pub(crate) struct Shared {
    pub(crate) operations: BTreeMap<Function, Operation>,
    pub(crate) nodes: Vec<NodeFacts>,
    pub(crate) home: String,
    /// The name of the port.
    pub(crate) port: String,
    /// The network that clients are in.
    pub(crate) network: Option<Arc<Network>>,
}

/// A connection to an HTTP server, on which one request at a time is sent, once.
#[derive(Debug)]
pub struct Connection {
    authority: String,
    sender: http1::SendRequest<Full<Bytes>>,
    running: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Connection {
    /// Opens a connection to an address and port, by way of a dialer.
    ///
    /// # Errors
    /// The server does not accept it in time; in words.
    pub async fn open(dialer: &Dialer, authority: &str) -> Result<Connection, String> {
        let connected = async {
            let stream = dialer.connect(authority).await.map_err(|error| error.to_string())?;
            let _ = stream.set_nodelay(true);
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())
        };
        let (sender, connection) = timeout(CONNECT_TIMEOUT, connected)
            .await
            .map_err(|_| "timeout: the connection was not opened in time".to_owned())??;
        let running = tokio::spawn(async move {
            // The request that is in progress learns of the error.
            let _ = connection.await;
        });
        Ok(Connection { authority: authority.to_owned(), sender, running })
    }

    /// Posts JSON, and reads the status and the body of the answer.
    ///
    /// # Errors
    /// What is known of a request that has no answer.
    pub async fn post(&mut self, path: &str, body: &Json) -> Result<(u16, Bytes), Answer> {
        let http = HttpRequest::post(path)
            .header(header::HOST, &self.authority)
            .body(Full::new(Bytes::from(body.to_string())));
        let http =
            http.map_err(|error| Answer::Fail { error: error.to_string(), unavailable: false })?;
        self.exchange(http).await
    }

    /// Sends a request and reads the status and the body of its answer. `Err` carries an answer in which
    /// nothing was learned.
    async fn exchange(&mut self, http: HttpRequest<Full<Bytes>>) -> Result<(u16, Bytes), Answer> {
        if let Err(error) = self.sender.ready().await {
            // Nothing of the request was written.
            let error = format!("unavailable: {error}");
            return Err(Answer::Fail { error, unavailable: true });
        }
        let lost = |error: &dyn std::fmt::Display| Answer::info(format!("lost: {error}"));
        let response = self.sender.send_request(http).await.map_err(|error| lost(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| lost(&error))?.to_bytes()))
    }
}

/// A client of one node.
pub(crate) struct HttpClient {
    shared: Arc<Shared>,
    node: NodeName,
    at: usize,
    dialer: Dialer,
    connection: Option<Connection>,
    misconduct: Option<String>,
}

impl HttpClient {
    /// The client of a worker, at the node of this position.
    pub(crate) fn new(shared: Arc<Shared>, worker: u32, at: usize) -> Self {
        let node = NodeName::new(&shared.nodes[at].name);
        let dialer = Dialer::of_client(shared.network.as_ref(), worker);
        HttpClient { shared, node, at, dialer, connection: None, misconduct: None }
    }

    fn authority(&self) -> Option<String> {
        let node = &self.shared.nodes[self.at];
        let (_, port) = node.ports.iter().find(|(name, _)| *name == self.shared.port)?;
        Some(format!("{}:{port}", node.ip))
    }

    async fn connect(&mut self) -> Result<(), String> {
        self.connection = None;
        let authority = self
            .authority()
            .ok_or_else(|| format!("{} has no port {}", self.node, self.shared.port))?;
        self.connection = Some(Connection::open(&self.dialer, &authority).await?);
        Ok(())
    }

    fn http_request(&self, request: &Request) -> Result<HttpRequest<Full<Bytes>>, String> {
        let Some(operation) = self.shared.operations.get(&request.f) else {
            return Err(format!("the file has no operation {}", protocol_name(request.f)));
        };
        let facts = Facts {
            nodes: &self.shared.nodes,
            node: Some(self.at),
            home: &self.shared.home,
            request: Some(RequestFacts::of(request)),
        };
        let mut http = HttpRequest::builder()
            .method(operation.method.clone())
            .uri(operation.path.fill(&facts))
            .header(header::HOST, self.authority().unwrap_or_default());
        for (name, value) in &operation.headers {
            http = http.header(name, value.fill(&facts));
        }
        let body = operation.body.as_ref().map_or_else(String::new, |body| body.fill(&facts));
        http.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())
    }

    async fn exchange(&mut self, http: HttpRequest<Full<Bytes>>) -> Result<(u16, Bytes), Answer> {
        match &mut self.connection {
            Some(connection) => connection.exchange(http).await,
            None => {
                let error = "unavailable: there is no connection".to_owned();
                Err(Answer::Fail { error, unavailable: true })
            }
        }
    }

    fn judge(&mut self, request: &Request, status: u16, body: &Bytes) -> Answer {
        let operation = &self.shared.operations[&request.f];
        let excerpt = || String::from_utf8_lossy(body).chars().take(120).collect::<String>();
        if operation.absent.contains(&status) {
            return Answer::Ok { version: None, value: None };
        }
        if operation.fail.contains(&status) {
            let error = format!("status {status}: {}", excerpt());
            return Answer::Fail { error, unavailable: false };
        }
        if !operation.ok.contains(&status) {
            return Answer::info(format!("status {status}: {}", excerpt()));
        }
        match value(operation, request.f, body) {
            Ok(Some(value)) => {
                let json = serde_json::json!({ "type": "ok", "value": value });
                match answer(request, &json) {
                    Ok(answer) => answer,
                    Err(why) => {
                        let why = format!("the answers of {} do not fit: {why}", self.node);
                        self.misconduct = Some(why.clone());
                        Answer::info(why)
                    }
                }
            }
            Ok(None) => Answer::Fail { error: "mismatch".to_owned(), unavailable: false },
            Err(why) => {
                let why = format!("an answer of {}: {why}: {}", self.node, excerpt());
                self.misconduct = Some(why.clone());
                Answer::info(why)
            }
        }
    }
}

/// The value of an answer. `None` if it says that the operation had no effect.
fn value(operation: &Operation, f: Function, body: &Bytes) -> Result<Option<Json>, String> {
    let is_json =
        operation.succeeded.is_some() || matches!(operation.value, Some(Place::Pointer(_)));
    let json: Json = match is_json {
        true => {
            serde_json::from_slice(body).map_err(|error| format!("it is not JSON ({error})"))?
        }
        false => Json::Null,
    };
    if let Some(pointer) = &operation.succeeded {
        match json.pointer(pointer) {
            Some(Json::Bool(true)) => {}
            // Some servers leave out what is false.
            Some(Json::Bool(false)) | None => return Ok(None),
            Some(other) => return Err(format!("{pointer} is neither true nor false but {other}")),
        }
    }
    if !f.returns_value() {
        return Ok(Some(Json::Null));
    }
    let found = match &operation.value {
        Some(Place::Body) => Json::String(text(body.to_vec())?),
        Some(Place::Pointer(pointer)) => json.pointer(pointer).cloned().unwrap_or(Json::Null),
        None => Json::Null,
    };
    match (&found, operation.base64) {
        (Json::String(encoded), true) => {
            let bytes =
                STANDARD.decode(encoded).map_err(|error| format!("it is not base64 ({error})"))?;
            Ok(Some(Json::String(text(bytes)?)))
        }
        _ => Ok(Some(found)),
    }
}

/// A value as text. One that is none could only be told from others with a part of it lost.
fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

impl Client for HttpClient {
    fn open(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.connect())
    }

    fn perform<'a>(
        &'a mut self,
        request: &'a Request,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let http = match self.http_request(request) {
                Ok(http) => http,
                Err(why) => {
                    self.misconduct = Some(format!("{why}: {request:?}"));
                    return Answer::Fail { error: why, unavailable: false };
                }
            };
            match timeout(deadline, self.exchange(http)).await {
                Ok(Ok((status, body))) => self.judge(request, status, &body),
                Ok(Err(answer)) => answer,
                Err(_) => Answer::info("timeout: no answer in time"),
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.connection = None;
        Box::pin(std::future::ready(()))
    }

    fn node(&self) -> Option<&NodeName> {
        Some(&self.node)
    }

    fn misconduct(&mut self) -> Option<String> {
        self.misconduct.take()
    }
}
