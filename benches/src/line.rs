//! One HTTP/2 connection, and unary gRPC calls on it: the least that a client can be made of, the
//! same for every system, so that a load costs little besides what bears it. Knows nothing of what
//! is called.

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

/// What gRPC puts before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Line {
    sender: SendRequest<Bytes>,
    to: Authority,
}

impl Line {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens, or not to HTTP/2.
    pub async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        // How it fails is told to the calls that it carries.
        tokio::spawn(async { drop(connection.await) });
        let to = to.to_string().parse().map_err(io::Error::other)?;
        Ok(Line { sender, to })
    }

    /// Calls a method and waits for the answer.
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
        message.put_u32(u32::try_from(length).map_err(|_| Status::internal("too long to send"))?);
        request.encode(&mut message).expect("there is room for it");

        future::poll_fn(|cx| self.sender.poll_ready(cx)).await.map_err(broken)?;
        let (answer, mut body) =
            self.sender.send_request(self.head(method), false).map_err(broken)?;
        body.send_data(message.freeze(), true).map_err(broken)?;
        let (head, mut body) = answer.await.map_err(broken)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Status::unknown(format!("the answer's HTTP status is {}", head.status)));
        }
        let data = whole(&mut body).await.map_err(broken)?;
        match body.trailers().await.map_err(broken)? {
            Some(trailers) => check(&trailers)?,
            // A call that ends with nothing but a status says so at once.
            None => check(&head.headers)?,
        }
        message_of(data)
    }

    fn head(&self, method: &'static str) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.to.clone());
        uri.path_and_query = Some(PathAndQuery::from_static(method));
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = Uri::from_parts(uri).expect("all parts are there");
        let headers = head.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head
    }
}

/// All that a body holds.
async fn whole(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut whole = Bytes::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        whole = if whole.is_empty() { part } else { [whole, part].concat().into() };
    }
    Ok(whole)
}

/// How a call has ended.
fn check(trailers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(trailers) {
        Some(status) if status.code() == Code::Ok => Ok(()),
        Some(status) => Err(status),
        None => Err(Status::unknown("the answer ends without a status")),
    }
}

/// The one message of an answer.
fn message_of<A: Message + Default>(mut data: Bytes) -> Result<A, Status> {
    let wrong = || Status::internal("the answer is not one message, uncompressed");
    let compressed = data.try_get_u8().map_err(|_| wrong())?;
    let length = data.try_get_u32().map_err(|_| wrong())?;
    if compressed != 0 || usize::try_from(length) != Ok(data.len()) {
        return Err(wrong());
    }
    A::decode(data).map_err(|error| Status::internal(format!("the answer: {error}")))
}

fn broken(error: h2::Error) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_message_and_a_status() {
        let data = |bytes: &'static [u8]| Bytes::from_static(bytes);
        assert_eq!(message_of::<String>(data(b"\0\0\0\0\x04\x0a\x02ok")).expect("good"), "ok");
        for wrong in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\x04\x0a\x02ok",
            b"\0\0\0\0\x05\x0a\x02ok",
            b"\0\0\0\0\x03\x0a\x02ok",
            b"\0\0\0\0\x04\x0a\x03ok",
        ] {
            assert!(message_of::<String>(data(wrong)).is_err(), "{wrong:?}");
        }

        let mut trailers = HeaderMap::new();
        assert_eq!(check(&trailers).expect_err("no status").code(), Code::Unknown);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        check(&trailers).expect("good");
        trailers.insert("grpc-status", HeaderValue::from_static("10"));
        assert_eq!(check(&trailers).expect_err("aborted").code(), Code::Aborted);
    }
}
