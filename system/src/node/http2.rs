//! Serves an HTTP/2 connection. Requests are passed on as they arrive, and one task writes all
//! answers. Does not know what is requested.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{body::Body, codegen::Service};

/// Serves a connection until it closes, and accepts no new requests once `stopped` completes.
/// `take` runs in the connection's own task.
pub(super) async fn serve(
    builder: &Builder,
    io: impl AsyncRead + AsyncWrite + Unpin,
    mut take: impl FnMut(Request<RecvStream>, SendResponse<Bytes>),
    stopped: impl Future<Output = ()>,
) -> Result<(), h2::Error> {
    let mut stopped = pin!(stopped);
    let mut connection = tokio::select! {
        connection = builder.handshake(io) => connection?,
        () = &mut stopped => return Ok(()),
    };
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            request = connection.accept() => match request.transpose()? {
                Some((request, respond)) => take(request, respond),
                None => return Ok(()),
            },
            () = &mut stopped, if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// Forwards a request to a tower service, and gives up when the client resets the stream.
pub(super) async fn forward<S>(
    mut service: S,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    let answer = service.call(request.map(Incoming));
    let Ok(response) = tokio::select! {
        answer = answer => answer,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    if let Err(error) = send(response, respond).await {
        tracing::debug!("the client did not take the answer: {error}");
    }
}

async fn send(response: Response<Body>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let (head, mut body) = response.into_parts();
    let ends = body.is_end_stream();
    let mut stream = respond.send_response(Response::from_parts(head, ()), ends)?;
    if ends {
        return Ok(());
    }
    loop {
        let frame = tokio::select! {
            frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => frame,
            reason = poll_fn(|cx| stream.poll_reset(cx)) => return Err(reason?.into()),
        };
        let Some(frame) = frame else { return stream.send_data(Bytes::new(), true) };
        let Ok(frame) = frame else {
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        };
        match frame.into_data() {
            Ok(data) => {
                wait_for_capacity(&mut stream).await?;
                stream.send_data(data, false)?;
            }
            Err(frame) => {
                return stream.send_trailers(frame.into_trailers().unwrap_or_default());
            }
        }
    }
}

/// Waits for flow-control capacity. The amount available is only known byte by byte, and data sent
/// beyond it is buffered in the connection. So at most one frame is ever buffered there.
async fn wait_for_capacity(stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(capacity) => capacity?,
            None => return Err(Reason::CANCEL.into()),
        };
    }
    Ok(())
}

/// The body of a request, for tower services. Reading it releases flow-control capacity.
pub(super) struct Incoming(RecvStream);

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let body = &mut self.0;
        if let Some(data) = ready!(body.poll_data(cx)) {
            let read = data.and_then(|data| {
                body.flow_control().release_capacity(data.len())?;
                Ok(Frame::data(data))
            });
            return Poll::Ready(Some(read));
        }
        let trailers: Option<HeaderMap> = ready!(body.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
