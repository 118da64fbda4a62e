//! The server from outside, without a browser: what it answers, and that nothing outside the store
//! can be had from it.

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

/// Asks for a path as it is, and gives the head and the body of the answer.
fn get(server: &Server, path: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(&server.host).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    let host = &server.host;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        .expect("it takes a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    (head, answer[end + 4..].to_vec())
}

#[test]
fn a_run_is_served_and_nothing_else() {
    let place = tempfile::tempdir().expect("a directory for the test");
    let store = place.path().join("store");
    let run = store.join("twopc-none/20260101T000000Z");
    fs::create_dir_all(run.join("nodes/r1")).expect("it may be made");
    let write = |path: &Path, text: &str| fs::write(path, text).expect("it may be written");
    write(&run.join("history.jsonl"), "");
    write(&run.join("test.json"), r#"{"seed":77}"#);
    write(&run.join("results.json"), r#"{"verdict":"valid","checks":[]}"#);
    write(&run.join("nodes/r1/log"), "<b>a log</b>");
    write(&place.path().join("secret"), "a secret");
    write(&store.join("secret"), "a secret");
    symlink(place.path().join("secret"), run.join("link")).expect("a link");
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
    assert!(body.windows(2).any(|two| two == [0x1f, 0x8b]), "compressed");

    let base = "/run/twopc-none/20260101T000000Z";
    for path in [
        format!("{base}/../../secret"),
        format!("{base}/..%2f..%2fsecret"),
        format!("{base}/%2e%2e/%2e%2e/secret"),
        format!("{base}/%2e%2e%2f%2e%2e%2fsecret"),
        format!("{base}/nodes/%2e%2e/test.json"),
        format!("{base}/link"),
        format!("{base}//{}", place.path().join("secret").display()),
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
    // Nothing is written, whatever is asked.
    let mut stream = TcpStream::connect(&server.host).expect("it listens");
    write!(stream, "DELETE {base}/test.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(run.join("test.json").exists());
}

#[test]
fn what_cannot_be_served_is_told() {
    let place = tempfile::tempdir().expect("a directory for the test");
    let harness = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_harness"))
            .args(arguments)
            .output()
            .expect("the harness starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let none = place.path().join("none");
    let none = none.to_str().expect("a name in UTF-8");
    let (status, said) = harness(&["serve", "--store", none]);
    assert_eq!(status, Some(254), "{said}");
    assert!(said.contains("--store") && said.contains("none"), "{said}");
    let (status, said) = harness(&["serve", "--addr", "nowhere"]);
    assert_eq!(status, Some(254), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let store = place.path().to_str().expect("a name in UTF-8");
    let (status, said) = harness(&["serve", "--addr", &addr, "--store", store]);
    assert_eq!(status, Some(254), "{said}");
    assert!(said.contains(&addr), "{said}");
}
