//! One HTTP/2 connection, and unary gRPC calls on it: the least that a client can be made of, the
//! same for every system. Knows nothing of what is called.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{Status, body::Body, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Line {
    grpc: Grpc<Sender>,
}

#[derive(Clone, Debug)]
struct Sender(http2::SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl Line {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens, or not to HTTP/2.
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        let origin = http::Uri::builder().scheme("http").authority(to.to_string());
        let origin = origin.path_and_query("/").build().map_err(io::Error::other)?;
        Ok(Line { grpc: Grpc::with_origin(Sender(sender), origin) })
    }

    /// Calls a method and waits for the answer.
    ///
    /// # Errors
    /// The status that the call ended with.
    pub async fn call<Q, A>(&mut self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(method);
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.grpc.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }
}
