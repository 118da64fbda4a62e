//! What a worker asks of a client. Does not know how it is answered.

use history::Function;

use crate::workload::ClientRequest;

/// An operation to invoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub f: Function,
    /// The key, or the name of the object.
    pub key: String,
    /// The value: a text, or JSON if the function's [values are JSON](Function::has_json_value).
    pub value: Option<String>,
}

impl Request {
    /// A request without a value.
    #[must_use]
    pub fn new(f: Function, key: impl Into<String>) -> Self {
        Request { f, key: key.into(), value: None }
    }

    /// A request with a value: anything that is written as its text, or as its JSON.
    #[must_use]
    pub fn with(f: Function, key: impl Into<String>, value: impl ToString) -> Self {
        Request { f, key: key.into(), value: Some(value.to_string()) }
    }
}

impl From<ClientRequest> for Request {
    fn from(request: ClientRequest) -> Self {
        match request {
            ClientRequest::Get { key } => Request::new(Function::Get, key),
            ClientRequest::Put { key, value } => Request::with(Function::Put, key, value),
            ClientRequest::Del { key } => Request::new(Function::Del, key),
        }
    }
}
