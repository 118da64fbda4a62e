//! A minimal gRPC client: one HTTP/2 connection with unary calls. Every system that speaks gRPC is measured with the
//! same one, so that the clients cost little and the same for all. Redis has a protocol of its own, and a connection that
//! is as small.

use std::{future, io, net::SocketAddr};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, client::SendRequest};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, TE},
    uri::{Authority, PathAndQuery, Scheme},
};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{Code, Status};

/// The length of the prefix of a gRPC message: a compression flag and the message length.
const PREFIX_BYTES: usize = 5;

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    to: Authority,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens at the address, or the peer does not speak HTTP/2.
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        // Errors are reported by the calls on the connection.
        tokio::spawn(async { drop(connection.await) });
        let to = to.to_string().parse().map_err(io::Error::other)?;
        Ok(Connection { sender, to })
    }

    /// Calls a method and waits for the response.
    ///
    /// # Errors
    /// The status that the call ended with.
    pub async fn call<Q, A>(&mut self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message,
        A: Message + Default,
    {
        let length = request.encoded_len();
        let mut message = BytesMut::with_capacity(PREFIX_BYTES + length);
        message.put_u8(0);
        message.put_u32(
            u32::try_from(length).map_err(|_| Status::internal("the request is too long"))?,
        );
        request.encode(&mut message).expect("the buffer has room for it");

        future::poll_fn(|cx| self.sender.poll_ready(cx)).await.map_err(connection_error)?;
        let (response, mut body) =
            self.sender.send_request(self.head(method), false).map_err(connection_error)?;
        body.send_data(message.freeze(), true).map_err(connection_error)?;
        let (head, mut body) = response.await.map_err(connection_error)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Status::unknown(format!(
                "the HTTP status of the response is {}",
                head.status
            )));
        }
        let data = read_body(&mut body).await.map_err(connection_error)?;
        match body.trailers().await.map_err(connection_error)? {
            Some(trailers) => check(&trailers)?,
            // A response without messages may carry the status in its headers.
            None => check(&head.headers)?,
        }
        decode(data)
    }

    fn head(&self, method: &'static str) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.to.clone());
        uri.path_and_query = Some(PathAndQuery::from_static(method));
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = Uri::from_parts(uri).expect("every part of the URI is set");
        let headers = head.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head
    }
}

/// Reads a body to its end.
async fn read_body(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut data = Bytes::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        data = if data.is_empty() { part } else { [data, part].concat().into() };
    }
    Ok(data)
}

/// Checks the status of a call.
fn check(trailers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(trailers) {
        Some(status) if status.code() == Code::Ok => Ok(()),
        Some(status) => Err(status),
        None => Err(Status::unknown("the response ends without a status")),
    }
}

/// Decodes the single message of a response.
fn decode<A: Message + Default>(mut data: Bytes) -> Result<A, Status> {
    let malformed = || Status::internal("the response is not a single uncompressed message");
    let compressed = data.try_get_u8().map_err(|_| malformed())?;
    let length = data.try_get_u32().map_err(|_| malformed())?;
    if compressed != 0 || usize::try_from(length) != Ok(data.len()) {
        return Err(malformed());
    }
    A::decode(data)
        .map_err(|error| Status::internal(format!("cannot decode the response: {error}")))
}

fn connection_error(error: h2::Error) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_one_message_and_a_status() {
        let data = |bytes: &'static [u8]| Bytes::from_static(bytes);
        assert_eq!(decode::<String>(data(b"\0\0\0\0\x04\x0a\x02ok")).expect("good"), "ok");
        for wrong in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\x04\x0a\x02ok",
            b"\0\0\0\0\x05\x0a\x02ok",
            b"\0\0\0\0\x03\x0a\x02ok",
            b"\0\0\0\0\x04\x0a\x03ok",
        ] {
            assert!(decode::<String>(data(wrong)).is_err(), "{wrong:?}");
        }

        let mut trailers = HeaderMap::new();
        assert_eq!(check(&trailers).expect_err("no status").code(), Code::Unknown);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        check(&trailers).expect("good");
        trailers.insert("grpc-status", HeaderValue::from_static("10"));
        assert_eq!(check(&trailers).expect_err("aborted").code(), Code::Aborted);
    }
}
