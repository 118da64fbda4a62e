//! What a client does when the server takes a request and goes away: it reports that the outcome is unknown,
//! and does not send the request again. The servers here are this test.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use history::Function;
use lab::{StartOptions, System, client::Answer, request::Request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Choice, Configuration, Database, Task, databases};

/// How a server answers what comes before the request: the bytes received so far, none at first, and the answer.
type Greeting = fn(&[u8]) -> Option<Vec<u8>>;

/// A database that was chosen, whose programs are any file.
fn chosen(
    database: &'static dyn Database,
    configuration: &'static Configuration,
    ask: &'static str,
) -> Choice {
    let programs: BTreeMap<&'static str, PathBuf> =
        database.programs().names.iter().map(|name| (*name, PathBuf::from("/bin/true"))).collect();
    Choice { database, configuration, ask, version: None, programs, named: BTreeMap::new() }
}

#[test]
fn every_claim_is_judged() {
    for database in databases() {
        for configuration in database.configurations() {
            for ask in database.asks().map_or(&[""][..], |asks| asks.values) {
                let choice = chosen(*database, configuration, ask);
                let workloads = lab::workloads::ALL.iter().map(|workload| workload.name());
                let possible = workloads.filter(|name| database.refuses(&choice, name).is_none());
                let mut count = 0;
                for workload in possible {
                    let claim = choice.claim(workload);
                    assert!(claim.is_ok(), "{choice:?}, {workload}: {claim:?}");
                    count += 1;
                }
                // Redis reads replicas in one configuration only.
                let is_excluded = *ask == "replica" && configuration.name != "replicas";
                assert_eq!(count == 0, is_excluded, "{choice:?}");
            }
        }
    }
}

/// A deployed database that is not started. `None` if it cannot be started here, which is said.
fn deployed(name: &str, workload: &str) -> Option<Arc<dyn System>> {
    let database = databases().iter().copied().find(|one| one.name() == name).expect("compiled in");
    let ask = database.asks().map_or("", |asks| asks.values[0]);
    let choice = chosen(database, &database.configurations()[0], ask);
    let task = Task {
        workload: lab::workloads::find(workload).expect("it is built in"),
        keeper: PathBuf::from("/bin/true"),
        network: None,
    };
    let site = super::Site::new(choice.configuration.nodes, Path::new("/bin/true"), None);
    match database.deploy(&choice, site.expect("there are addresses"), &task) {
        Ok(system) => Some(system),
        Err(why) => {
            let _ = writeln!(io::stderr(), "skipped: {name}: {why}");
            None
        }
    }
}

/// Asks a client for a put.
async fn put_without_answer(
    system: &dyn System,
    address: &str,
    greeting: Greeting,
    marker: &'static [u8],
) -> (Answer, usize) {
    without_answer(system, &Request::with(Function::Put, "k1", 7), address, greeting, marker).await
}

/// Sends a request to a server that reads it and closes the connection. Returns the answer and how often the request
/// arrived.
async fn without_answer(
    system: &dyn System,
    request: &Request,
    address: &str,
    greeting: Greeting,
    marker: &'static [u8],
) -> (Answer, usize) {
    let listener = TcpListener::bind(address).await.expect("the address is reserved");
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = arrived.clone();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, greeting, marker, count.clone()));
        }
    });
    let mut client = system.client(0);
    client.open().await.expect("the server is here");
    let answer = client.perform(request, Duration::from_secs(5)).await;
    server.abort();
    (answer, arrived.load(Ordering::SeqCst))
}

async fn serve(
    mut stream: TcpStream,
    greeting: Greeting,
    marker: &'static [u8],
    arrived: Arc<AtomicUsize>,
) {
    let mut received = Vec::new();
    if let Some(answer) = greeting(&received) {
        let _ = stream.write_all(&answer).await;
    }
    while let Ok(1..) = stream.read_buf(&mut received).await {
        if received.windows(marker.len()).any(|part| part == marker) {
            arrived.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if let Some(answer) = greeting(&received) {
            received.clear();
            let _ = stream.write_all(&answer).await;
        }
    }
}

/// What follows a word in the arguments of a node's command.
fn argument(system: &dyn System, before: &str) -> String {
    let command = system.command(&system.nodes()[0], &StartOptions::default());
    let words: Vec<String> =
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let found = words.iter().find_map(|word| word.strip_prefix(before).map(str::to_owned));
    let next = || words.iter().skip_while(|word| *word != before).nth(1).cloned();
    found.filter(|rest| !rest.is_empty()).or_else(next).expect("the command has it")
}

fn assert_sent_once((answer, arrived): (Answer, usize)) {
    assert!(matches!(answer, Answer::Info { .. }), "{answer:?}");
    assert_eq!(arrived, 1);
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn a_put_to_etcd_is_sent_once() {
    let Some(system) = deployed("etcd", "register") else { return };
    let url = argument(&*system, "--listen-client-urls");
    let address = url.strip_prefix("http://").expect("it is a URL");
    assert_sent_once(put_without_answer(&*system, address, |_| None, b"/v3/kv/put").await);
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn an_add_to_nats_is_sent_once() {
    let Some(system) = deployed("nats", "set") else { return };
    let text = std::fs::read_to_string(argument(&*system, "-c")).expect("it was written");
    let line = text.lines().find_map(|line| line.strip_prefix("listen: ")).expect("it has it");
    // The server speaks first, and then answers a ping.
    let greeting: Greeting = |received| match received {
        [] => Some(b"INFO {}\r\n".to_vec()),
        received => received.ends_with(b"PING\r\n").then(|| b"PONG\r\n".to_vec()),
    };
    let add = Request::with(Function::Add, "s1", 7);
    let address = line.trim_matches('"');
    assert_sent_once(without_answer(&*system, &add, address, greeting, b"PUB t.s1 ").await);
}

#[cfg(feature = "nats")]
#[test]
fn a_version_that_does_not_know_a_configuration_is_refused() {
    let database = databases().iter().find(|one| one.name() == "nats").expect("compiled in");
    let [cluster, always] = database.configurations() else { panic!("there are two") };
    let refused = |configuration, version| {
        database.refuses_version(&chosen(*database, configuration, ""), version)
    };
    assert_eq!(refused(cluster, "2.9.10"), None);
    assert_eq!(refused(always, "2.12.1"), None);
    let why = refused(always, "2.9.10").expect("it knows no such interval");
    assert!(why.contains("needs nats-server 2.10 or later"), "{why}");
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_put_to_redis_is_sent_once() {
    let Some(system) = deployed("redis", "register") else { return };
    let file = system.command(&system.nodes()[0], &StartOptions::default());
    let file = file.get_args().last().expect("the configuration").to_owned();
    let text = std::fs::read_to_string(file).expect("it was written");
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).expect("it has it");
    let address = format!("{}:{}", field("bind "), field("port "));
    // Each command that comes before is an array.
    let greeting: Greeting = |received| {
        let commands = received.iter().filter(|byte| **byte == b'*').count();
        Some(b"+OK\r\n".repeat(commands))
    };
    let put = put_without_answer(&*system, &address, greeting, b"$3\r\nSET\r\n");
    assert_sent_once(put.await);
}

#[cfg(feature = "postgresql")]
#[tokio::test]
async fn a_put_to_postgresql_is_sent_once() {
    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("it is short");
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }
    // The start is answered with a session; a question with one row, `off`, and what is no question with
    // none.
    let greeting: Greeting = |received| {
        let ready = message(b'Z', b"I");
        let is_question = |text: &[u8]| received.windows(text.len()).any(|part| part == text);
        // A message may arrive in parts. That of the start has no kind before its length.
        let has_kind = received.first()? == &b'Q';
        let length = received.get(usize::from(has_kind)..)?.first_chunk::<4>()?;
        let expected = u32::from_be_bytes(*length) as usize + usize::from(has_kind);
        if received.len() < expected {
            return None;
        }
        Some(match received.first()? {
            b'Q' if is_question(b"SHOW") => [
                message(b'T', b"\0\x01off\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"),
                message(b'D', b"\0\x01\0\0\0\x03off"),
                message(b'C', b"SHOW\0"),
                ready,
            ]
            .concat(),
            b'Q' => [message(b'C', b"SET\0"), ready].concat(),
            _ => [message(b'R', &[0; 4]), ready].concat(),
        })
    };
    let Some(system) = deployed("postgresql", "register") else { return };
    let ip = argument(&*system, "listen_addresses=");
    let address = format!("{ip}:{}", argument(&*system, "port="));
    assert_sent_once(
        put_without_answer(&*system, &address, greeting, b"INSERT INTO registers").await,
    );
}
