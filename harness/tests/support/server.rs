//! The program's server on a store of a test, ended with the test. Knows nothing of what it serves.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// A server at work.
pub(crate) struct Server {
    process: Child,
    /// Where it listens: address and port.
    pub(crate) host: String,
}

impl Server {
    /// Serves a store on a free port of loopback.
    pub(crate) fn start(store: &Path) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_harness"))
            .args(["serve", "--addr", "127.0.0.1:0", "--store"])
            .arg(store)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the harness starts");
        let out = process.stdout.take().expect("it is piped");
        let mut server = Server { process, host: String::new() };
        let mut said = String::new();
        BufReader::new(out).read_line(&mut said).expect("it says where");
        let host = said.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        server.host = host.expect("an address").to_owned();
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
