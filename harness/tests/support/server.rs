//! The program's server on the run directories of a test. Ends with the test.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// A running server. Dropping it kills it.
pub(crate) struct Server {
    process: Child,
    /// Its address and port.
    pub(crate) host: String,
}

impl Server {
    /// Serves a directory of runs on a free loopback port.
    pub(crate) fn start(store: &Path) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_harness"))
            .args(["serve", "--addr", "127.0.0.1:0", "--store"])
            .arg(store)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the harness starts");
        let out = process.stdout.take().expect("it is piped");
        let mut server = Server { process, host: String::new() };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("it prints its address");
        let host = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
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
