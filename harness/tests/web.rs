//! Tests `harness serve` over HTTP, without a browser: its responses, and that no request can read a file
//! outside the store.

#[path = "support/server.rs"]
mod server;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::Duration,
};

use self::server::Server;

/// Requests a path verbatim. Returns the head and the body of the response.
fn get(server: &Server, path: &str) -> (String, Vec<u8>) {
    get_from(server, &server.host, path)
}

/// Requests a path verbatim, under any name of the server.
fn get_from(server: &Server, host: &str, path: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(&server.host).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        .expect("the request is sent");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("the server responds");
    let end =
        response.windows(4).position(|four| four == b"\r\n\r\n").expect("the response has a head");
    let head = String::from_utf8_lossy(&response[..end]).into_owned();
    (head, response[end + 4..].to_vec())
}

#[test]
fn files_of_runs_are_served_and_no_others() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = directory.path().join("store");
    let run = store.join("twopc-none/20260101T000000Z");
    fs::create_dir_all(run.join("nodes/r1")).expect("the directory is created");
    let write = |path: &Path, text: &str| fs::write(path, text).expect("the file is written");
    write(&run.join("history.jsonl"), "");
    write(&run.join("test.json"), r#"{"seed":77}"#);
    write(&run.join("results.json"), r#"{"verdict":"valid","checks":[]}"#);
    write(&run.join("nodes/r1/log"), "<b>a log</b>");
    write(&directory.path().join("secret"), "a secret");
    write(&store.join("secret"), "a secret");
    symlink(directory.path().join("secret"), run.join("link")).expect("the link is created");
    let server = Server::start(&store);

    let (head, body) = get(&server, "/");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("twopc-none/20260101T000000Z"));
    let (head, body) = get(&server, "/run/twopc-none/20260101T000000Z/nodes/r1/log");
    assert!(
        head.contains("200") && head.contains("text/plain") && head.contains("nosniff"),
        "{head}"
    );
    assert!(String::from_utf8_lossy(&body).contains("a log"));
    let (head, body) = get(&server, "/run/twopc-none/20260101T000000Z/nodes/");
    assert!(head.contains("200") && String::from_utf8_lossy(&body).contains("r1/"), "{head}");
    let (head, body) = get(&server, "/archive/twopc-none/20260101T000000Z.tar.gz");
    assert!(head.contains("200") && head.contains("attachment"), "{head}");
    assert!(body.windows(2).any(|two| two == [0x1f, 0x8b]), "the archive is gzip");

    let base = "/run/twopc-none/20260101T000000Z";
    for path in [
        format!("{base}/../../secret"),
        format!("{base}/..%2f..%2fsecret"),
        format!("{base}/%2e%2e/%2e%2e/secret"),
        format!("{base}/%2e%2e%2f%2e%2e%2fsecret"),
        format!("{base}/nodes/%2e%2e/test.json"),
        format!("{base}/link"),
        format!("{base}//{}", directory.path().join("secret").display()),
        "/run/../../secret".to_owned(),
        "/run/%2e%2e/secret/".to_owned(),
        "/run/twopc-none/..%2f..%2f..%2fetc/passwd".to_owned(),
        "/run/..%2f..%2fetc/passwd/x".to_owned(),
        "/archive/%2e%2e/store.tar.gz".to_owned(),
        "/archive/..%2f/store.tar.gz".to_owned(),
        "/archive/twopc-none/%2e%2e.tar.gz".to_owned(),
        "/live/%2e%2e/store/events".to_owned(),
        "/compare?a=../x&b=../y".to_owned(),
        "/run/twopc-none/20260101T000000Z%00/x".to_owned(),
        "/nothing".to_owned(),
    ] {
        let (head, body) = get(&server, &path);
        assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}");
        assert!(!String::from_utf8_lossy(&body).contains("a secret"), "{path}");
    }
    // Other methods than GET are refused.
    let mut stream = TcpStream::connect(&server.host).expect("the server listens");
    write!(
        stream,
        "DELETE {base}/test.json HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    )
    .expect("the request is sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("the server responds");
    assert!(response.starts_with("HTTP/1.1 405"), "{response}");
    assert!(run.join("test.json").exists());
}

#[test]
fn other_web_sites_cannot_read_the_runs() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = directory.path().join("twopc-none/20260101T000000Z");
    fs::create_dir_all(&run).expect("the directory is created");
    for (file, text) in [("history.jsonl", ""), ("test.json", "{}"), ("report.html", "<p>page")] {
        fs::write(run.join(file), text).expect("the file is written");
    }
    let server = Server::start(directory.path());
    let port = server.host.rsplit(':').next().expect("a port");
    let page = "/run/twopc-none/20260101T000000Z/report.html";
    // A name that leads to this address, as a web site can arrange it.
    for path in ["/", page, "/web.js", "/archive/twopc-none/20260101T000000Z.tar.gz"] {
        let (head, body) = get_from(&server, &format!("evil.example:{port}"), path);
        assert!(head.starts_with("HTTP/1.1 421"), "{path}: {head}");
        assert!(!String::from_utf8_lossy(&body).contains("2026"), "{path}");
        let (head, _) = get_from(&server, &format!("localhost:{port}"), path);
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    }
    // The server's pages run no script but the server's; a page of a run is apart from the others.
    let (head, body) = get(&server, "/");
    assert!(
        head.contains("content-security-policy: default-src 'none'; script-src 'self'"),
        "{head}"
    );
    let body = String::from_utf8_lossy(&body);
    assert!(!body.contains("<style") && !body.contains("<script>"), "{body}");
    let (head, _) = get(&server, page);
    assert!(head.contains("content-security-policy: sandbox allow-scripts"), "{head}");
    assert!(!head.contains("allow-same-origin"), "{head}");
}

#[test]
fn a_store_or_address_that_cannot_be_used_is_an_argument_error() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let harness = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_harness"))
            .args(arguments)
            .output()
            .expect("the harness starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let missing = directory.path().join("none");
    let missing = missing.to_str().expect("the path is UTF-8");
    let (status, stderr) = harness(&["serve", "--store", missing]);
    assert_eq!(status, Some(254), "{stderr}");
    assert!(stderr.contains("--store") && stderr.contains("none"), "{stderr}");
    let (status, stderr) = harness(&["serve", "--addr", "nowhere"]);
    assert_eq!(status, Some(254), "{stderr}");
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = occupied.local_addr().expect("a local address").to_string();
    let store = directory.path().to_str().expect("the path is UTF-8");
    let (status, stderr) = harness(&["serve", "--addr", &addr, "--store", store]);
    assert_eq!(status, Some(254), "{stderr}");
    assert!(stderr.contains(&addr), "{stderr}");
}
