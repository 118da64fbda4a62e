//! Asks whether a node is ready.

use std::{path::PathBuf, time::Duration};

use lab::network::Dialer;
use regex_lite::Regex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

/// How long a node has to answer.
const DEADLINE: Duration = Duration::from_millis(500);

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Whether a port accepts connections.
pub async fn accepts(dialer: &Dialer, address: &str) -> bool {
    matches!(timeout(DEADLINE, dialer.connect(address)).await, Ok(Ok(_)))
}

/// Whether a GET is answered with status 200 and a text.
pub async fn serves(dialer: &Dialer, url: &str, contains: Option<&str>) -> bool {
    let Some((address, path)) = parts(url) else { return false };
    let asked = async {
        let mut stream = dialer.connect(&address).await.ok()?;
        // HTTP/1.0: the answer ends with the connection, and is not in chunks.
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    };
    let Ok(Some(answer)) = timeout(DEADLINE, asked).await else { return false };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let is_ok = head.lines().next().is_some_and(|line| line.split(' ').nth(1) == Some("200"));
    is_ok && contains.is_none_or(|text| body.contains(text))
}

/// The address and the path of a URL.
fn parts(url: &str) -> Option<(String, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    Some((address, format!("/{path}")))
}

/// Whether a line of a log matches, from an offset on.
pub(crate) fn logged(log: &(PathBuf, u64), regex: &Regex) -> bool {
    let (path, offset) = log;
    let bytes = std::fs::read(path).unwrap_or_default();
    let new = bytes.get(usize::try_from(*offset).unwrap_or(usize::MAX)..).unwrap_or_default();
    String::from_utf8_lossy(new).lines().any(|line| regex.is_match(line))
}
