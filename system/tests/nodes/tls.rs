//! Mutual TLS between real processes: a cluster works with it, everybody has the role of their certificate and no
//! other, certificates are replaced while nodes run, and strangers hold up nobody.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use proto::v1::{
    self as pb, inspect_client::InspectClient, kv_client::KvClient, peer_client::PeerClient,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use system::{
    client::{Client, ReadError, ReasonKind, WriteOutcome},
    protocol::Node,
    tls::{Authority, CertificateRequest, Role, Tls, TlsFiles},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::service_fn;

use crate::{
    strangers::{Running, limited},
    support::{Cluster, DAY, DEADLINE, FAST_HEARTBEATS, eventually, text, within},
};

const MASTER: Node = Node::Master;
const R1: Node = Node::Replica(1);
const R2: Node = Node::Replica(2);

fn is_committed(outcome: &WriteOutcome) -> bool {
    matches!(outcome, WriteOutcome::Committed { .. })
}

/// A channel to a node on connections that are made with an identity.
async fn channel(cluster: &Cluster, node: Node, tls: Arc<Tls>) -> Channel {
    let address = cluster.address(node).to_string();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let connector = service_fn(move |_| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            tls.connect(stream, Some(node)).await.map(TokioIo::new)
        }
    });
    endpoint.connect_with_connector_lazy(connector)
}

/// Connects with TLS and without a certificate.
async fn anonymous(cluster: &Cluster, node: Node) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(cluster.certs().join("ca.crt")).expect("a CA");
    roots.add(ca).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(cluster.address(node).as_str()).await.expect("it listens");
    let name = ServerName::try_from(node.to_string()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
}

/// The certificate that a node shows to those who connect now.
async fn shown(cluster: &Cluster, node: Node) -> Vec<u8> {
    let stream = anonymous(cluster, node).await;
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

/// The certificate in a node's file.
fn filed(cluster: &Cluster, node: Node) -> Vec<u8> {
    let path = cluster.certs().join(format!("{node}.crt"));
    CertificateDer::from_pem_file(path).expect("a certificate").to_vec()
}

/// An identity of an authority of its own, which trusts this file of authorities.
fn of_another_authority(cluster: &Cluster, ca: &std::path::Path) -> TlsFiles {
    let dir = cluster.dir.path().join("other");
    if !dir.exists() {
        let other = Authority::create(&dir, DAY).expect("a CA");
        let (name, role) = ("client".to_owned(), Role::Client);
        other
            .issue(&CertificateRequest { name, role, hosts: vec![], validity: DAY })
            .expect("a certificate");
    }
    TlsFiles { ca: ca.to_owned(), certificate: dir.join("client.crt"), key: dir.join("client.key") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works_over_tls() {
    let mut cluster = Cluster::secured(3, FAST_HEARTBEATS);
    cluster.start_all().await;
    let client = cluster.client();
    // As large as values may be: such an answer does not fit into the buffers of TLS.
    let value = vec![b'v'; 1 << 20];
    assert!(is_committed(&client.put("large", value.clone()).await));
    let (_, found) = client.get("large").await.expect("answered").expect("is there");
    assert_eq!(found.as_bytes(), value);
    assert!(is_committed(&client.del("large").await));
    for (args, wanted) in [
        (&["put", "colour", "green"][..], "ok 1."),
        (&["get", "colour"], "green"),
        (&["status"], "master  "),
        (&["dump", "--replica", "r2"], "colour\t"),
        (&["dump", "--replica", cluster.address(R2).as_str()], "colour\t"),
    ] {
        let (code, said) = text(&cluster.client_program(args).output().expect("it ends"));
        assert!(code == Some(0) && said.contains(wanted), "{args:?}: {code:?} {said}");
    }
    // A node that returns connects to all others again, and they to it.
    cluster.kill(R2);
    cluster.start(R2, &[]);
    cluster.ready().await;
    assert!(is_committed(&client.put("colour", "blue").await));
    cluster.settled().await;
    let dumps = [cluster.dump(R1).await, cluster.dump(R2).await];
    assert_eq!(dumps[0], dumps[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_allows_what_its_role_may_do() {
    let mut cluster = Cluster::secured(2, FAST_HEARTBEATS);
    cluster.start_all().await;
    let code = |answer: Result<(), Status>| answer.map_err(|status| status.code());
    let denied = Err(Code::PermissionDenied);
    for (role, kv, inspect) in [
        (Role::Client, Ok(()), denied),
        (Role::Admin, Ok(()), Ok(())),
        (Role::Node(R1), denied, denied),
    ] {
        let channel = channel(&cluster, MASTER, cluster.identity(role)).await;
        let put = pb::PutRequest { key: "k".into(), value: "v".into() };
        let put = KvClient::new(channel.clone()).put(put).await.map(drop);
        assert_eq!(code(put), kv, "{role} at Kv");
        let status = InspectClient::new(channel.clone()).status(pb::StatusRequest {}).await;
        assert_eq!(code(status.map(drop)), inspect, "{role} at Inspect");
        let dump = InspectClient::new(channel).dump(pb::DumpRequest::default()).await;
        assert_eq!(code(dump.map(drop)), inspect, "{role} at Dump");
    }
    let node =
        Client::with_tls(cluster.address(MASTER).clone(), Some(cluster.identity(Role::Node(R1))));
    let outcome = node.put("k", "v").await;
    let WriteOutcome::Aborted(reason) = outcome else { panic!("certainly no effect: {outcome:?}") };
    assert_eq!(reason.kind, ReasonKind::Denied);
    assert!(reason.text.contains("has the certificate of r1"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_speaks_as_itself_only() {
    let mut cluster = Cluster::secured(2, FAST_HEARTBEATS);
    cluster.start_all().await;
    // Each certificate, and who its holder says that it is.
    for (role, from, refusal) in [
        (Role::Node(R1), MASTER, "has the certificate of r1, and says that it is master"),
        (Role::Node(MASTER), R1, "has the certificate of master, and says that it is r1"),
        (Role::Client, MASTER, "Peer is for nodes"),
        (Role::Admin, MASTER, "Peer is for nodes"),
        // Admitted as far as its certificate goes, and refused because r1 is another store.
        (Role::Node(R1), R1, "belongs to a cluster whose r1 has another store"),
    ] {
        let mut peer = PeerClient::new(channel(&cluster, R2, cluster.identity(role)).await);
        let number = |node| match node {
            Node::Master => 0,
            Node::Replica(slot) => u32::from(slot),
        };
        let greeting = pb::Batch {
            cluster: "test".into(),
            from: number(from),
            to: 2,
            greeting: Some(pb::Greeting { wire_version: 6, store: 1, ..pb::Greeting::default() }),
            ..pb::Batch::default()
        };
        let refused = peer.exchange(tokio_stream::once(greeting)).await.expect_err("refused");
        assert!(refused.message().contains(refusal), "{role} as {from}: {refused}");
    }
    assert!(is_committed(&cluster.client().put("k", "v").await), "the streams go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_only_the_health_can_be_asked() {
    let mut cluster = Cluster::secured(1, FAST_HEARTBEATS);
    cluster.start_all().await;
    let stream = anonymous(&cluster, MASTER).await;
    let mut once = Some(TokioIo::new(stream));
    let connector = service_fn(move |_| {
        let stream = once.take().ok_or(std::io::ErrorKind::NotConnected);
        async move { stream.map_err(std::io::Error::from) }
    });
    let channel = Endpoint::from_static("http://here").connect_with_connector(connector).await;
    let channel = channel.expect("connected");
    let service = HealthCheckRequest { service: "twopc.v1.Kv".into() };
    let mut health = HealthClient::new(channel.clone());
    assert!(health.check(service.clone()).await.is_ok());
    let watched = health.watch(service).await.map(drop);
    let put = pb::PutRequest { key: "k".into(), value: "v".into() };
    let put = KvClient::new(channel.clone()).put(put).await.map(drop);
    let status = InspectClient::new(channel.clone()).status(pb::StatusRequest {}).await.map(drop);
    let greeting = tokio_stream::once(pb::Batch::default());
    let exchanged = PeerClient::new(channel).exchange(greeting).await.map(drop);
    for (what, answer) in
        [("watch", watched), ("put", put), ("status", status), ("peer", exchanged)]
    {
        let refused = answer.expect_err(what);
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}: {refused}");
        assert!(refused.message().contains("has no certificate"), "{what}: {refused}");
    }
    assert_eq!(cluster.client().get("k").await, Ok(None), "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_others_and_of_the_past_are_refused() {
    let mut cluster = Cluster::secured(1, FAST_HEARTBEATS);
    cluster.start_all().await;
    let unreachable = async |tls: Arc<Tls>| {
        let address = cluster.address(MASTER).clone();
        match Client::with_tls(address, Some(tls)).timeout(DEADLINE).get("k").await {
            Err(ReadError::Refused(reason)) if reason.kind == ReasonKind::Unreachable => {
                reason.text
            }
            other => panic!("{other:?}"),
        }
    };
    // Of a CA that the node does not trust; and with a CA that has not signed the node's.
    let ca = cluster.certs().join("ca.crt");
    let other_ca = cluster.dir.path().join("other/ca.crt");
    let not_ours = of_another_authority(&cluster, &other_ca);
    let why = unreachable(Tls::load(not_ours, None).expect("whole in itself")).await;
    assert!(why.contains("not signed by the CA that is trusted here"), "{why}");
    let both = cluster.dir.path().join("both.crt");
    let texts = [&ca, &other_ca].map(|path| fs::read_to_string(path).expect("a CA"));
    fs::write(&both, texts.concat()).expect("a file");
    let trusting = of_another_authority(&cluster, &both);
    let why = unreachable(Tls::load(trusting, None).expect("whole in itself")).await;
    assert!(why.contains("refuses this certificate: its CA has not signed it"), "{why}");
    // What was valid when it was loaded.
    let request = CertificateRequest {
        name: "brief".into(),
        role: Role::Client,
        hosts: vec![],
        validity: Duration::from_secs(3),
    };
    Authority::open(&cluster.certs()).expect("the CA").issue(&request).expect("a certificate");
    let file = |ending| cluster.certs().join(format!("brief.{ending}"));
    let files = TlsFiles { ca: ca.clone(), certificate: file("crt"), key: file("key") };
    let brief = Tls::load(files.clone(), None).expect("not expired yet");
    eventually("the end of its validity", async || Tls::load(files.clone(), None).is_err()).await;
    let why = unreachable(brief).await;
    assert!(why.contains("refuses this certificate: it has expired"), "{why}");
    // A node that is not the one that was meant.
    let address = cluster.address(R1).clone();
    let client = Client::with_tls(address, Some(cluster.identity(Role::Client)));
    let why = client.get("k").await.expect_err("not the master").to_string();
    assert!(why.contains("the other side is not master, but r1"), "{why}");
    assert!(cluster.log(MASTER).contains("refused a connection from 127."), "the log says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_and_without_tls_do_not_mix() {
    let mut with = Cluster::secured(1, FAST_HEARTBEATS);
    with.start_all().await;
    let client = Client::new(with.address(MASTER).clone());
    let outcome = client.put("k", "v").await;
    let WriteOutcome::Aborted(reason) = outcome else { panic!("certainly no effect: {outcome:?}") };
    assert!(reason.text.contains("the other side speaks TLS, and this side does not"), "{reason}");
    let without = Cluster::started(1, FAST_HEARTBEATS).await;
    let tls = with.identity(Role::Client);
    let client = Client::with_tls(without.address(MASTER).clone(), Some(tls));
    let outcome = client.put("k", "v").await;
    let WriteOutcome::Aborted(reason) = outcome else { panic!("certainly no effect: {outcome:?}") };
    assert!(reason.text.contains("the other side does not speak TLS"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_clients_write() {
    let mut cluster = Cluster::secured(2, FAST_HEARTBEATS);
    cluster.start_all().await;
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (client, done) = (cluster.client(), done.clone());
        async move {
            let mut written = 0_u64;
            while !done.load(Ordering::Relaxed) {
                let outcome = client.put("k", written.to_string().as_str()).await;
                assert!(is_committed(&outcome), "write {written}: {outcome:?}");
                written += 1;
            }
            written
        }
    });
    let authority = Authority::open(&cluster.certs()).expect("the CA");
    for node in cluster.names() {
        let before = shown(&cluster, node).await;
        authority.renew(&node.to_string(), DAY).expect("renewed");
        assert_eq!(shown(&cluster, node).await, before, "nobody has told the node yet");
        cluster.signal(node, Signal::SIGHUP);
        within("the new certificate", || cluster.log(node).contains("TLS: loaded").then_some(()));
        let now = shown(&cluster, node).await;
        assert!(now != before && now == filed(&cluster, node));
    }
    // What is broken is not used.
    let before = shown(&cluster, R1).await;
    let whole = fs::read(cluster.certs().join("r1.crt")).expect("a file");
    let other = fs::read(cluster.certs().join("r2.crt")).expect("a file");
    for (content, why) in [
        (&b"nonsense"[..], "has no certificate in PEM"),
        (&other, "is the certificate of r2, and this is r1"),
        (&whole[..whole.len() / 2], "r1.crt: "),
    ] {
        fs::write(cluster.certs().join("r1.crt"), content).expect("a file");
        let reported = cluster.log(R1).matches("still in use").count();
        cluster.signal(R1, Signal::SIGHUP);
        within("a report", || {
            (cluster.log(R1).matches("still in use").count() > reported).then_some(())
        });
        let log = cluster.log(R1);
        let report = log.lines().rfind(|line| line.contains("still in use"));
        assert!(report.is_some_and(|line| line.contains(why)), "{why}: {log}");
        assert_eq!(shown(&cluster, R1).await, before, "{why}");
    }
    fs::write(cluster.certs().join("r1.crt"), whole).expect("a file");
    done.store(true, Ordering::Relaxed);
    let written = writer.await.expect("no write failed");
    assert!(written > 0);
    // The new ones are good for the connections between nodes, too.
    cluster.kill(R2);
    cluster.start(R2, &[]);
    cluster.ready().await;
    assert!(is_committed(&cluster.client().put("k", "v").await));
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_handshakes_keep_nobody_out() {
    let node = "[node]\nhandshake_timeout_ms = 1000\n";
    let cluster = Cluster::secured(1, &format!("{FAST_HEARTBEATS}\n{node}"));
    let mut nodes = Vec::new();
    for node in cluster.names() {
        let log = fs::File::create(cluster.file(node, ".log")).expect("a log");
        let mut command = limited(&cluster.command(node), 100, 200);
        nodes.push(Running(command.stderr(log).spawn().expect("the program starts")));
    }
    cluster.ready().await;
    let client = cluster.client();
    assert!(is_committed(&client.put("k", "v").await));
    // The beginning of a ClientHello: a record of 512 bytes, of which some arrive. More of them than fit.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 20]].concat();
    let mut strangers = Vec::new();
    for node in cluster.names() {
        for _ in 0..300 {
            let address = cluster.address(node).as_str();
            let mut stranger = TcpStream::connect(address).await.expect("the kernel accepts");
            // The node may have closed it for another one already.
            let _ = stranger.write_all(&hello).await;
            strangers.push(stranger);
        }
    }
    // A connection that is there stays, and a new one can be made.
    assert!(is_committed(&client.put("k", "w").await));
    assert!(is_committed(&cluster.client().put("k", "x").await));
    for mut stranger in strangers {
        let mut answer = Vec::new();
        let ended = timeout(DEADLINE, stranger.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "a stranger is still connected");
    }
    let log = cluster.log(MASTER);
    assert!(log.contains("the TLS handshake was not completed in time"), "{log}");
    assert!(log.contains("silent for longest"), "{log}");
    drop(nodes);
}

#[test]
fn a_node_does_not_start_with_files_that_others_would_refuse() {
    let cluster = Cluster::secured(1, "");
    let certs = cluster.certs();
    let refused = |args: &[&str], why: &str| {
        let mut command = cluster.command(R1);
        let (code, said) = text(&command.args(args).output().expect("the program ends"));
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains("TLS: ") && said.contains(why), "{args:?}: {said}");
    };
    let path = |name: &str| certs.join(name).to_str().expect("text").to_owned();
    let other_ca = cluster.dir.path().join("other/ca.crt");
    of_another_authority(&cluster, &other_ca);
    let other_ca = other_ca.to_str().expect("text");
    refused(&["--certificate", &path("missing.crt")], "missing.crt: cannot be read");
    refused(&["--certificate", &path("r1.key")], "r1.key: has no certificate in PEM");
    refused(
        &["--key", &path("r1.crt")],
        "everybody on this machine has access to this key (mode 0644)",
    );
    fs::set_permissions(certs.join("ca.crt"), fs::Permissions::from_mode(0o600)).expect("a file");
    refused(&["--key", &path("ca.crt")], "has no private key in PEM");
    refused(&["--key", &path("client.key")], "client.key: is not the key of the certificate in");
    let master = ["--certificate", &path("master.crt"), "--key", &path("master.key")];
    refused(&master, "is the certificate of master, and this is r1");
    refused(&["--ca", other_ca], "the certificate is not signed by the CA in");
    refused(&["--ca", &path("r1.crt")], "is not one of an authority");
    fs::set_permissions(certs.join("r1.key"), fs::Permissions::from_mode(0o644)).expect("a file");
    refused(&[], "everybody on this machine has access to this key (mode 0644)");
}

#[test]
fn certificates_are_made_by_a_command() {
    let cluster = Cluster::new(1, "");
    let dir = cluster.dir.path().join("made");
    let run = |args: &[&str]| {
        let mut command = cluster.client_program(["cert", "--certs", dir.to_str().expect("text")]);
        text(&command.args(args).output().expect("the program ends"))
    };
    let (code, said) = run(&["create-client"]);
    assert!(code == Some(2) && said.contains("make a CA first: client cert create-ca"), "{said}");
    for args in [
        &["create-ca"][..],
        &["create-node", "master", "r1", "--host", "db.example", "--host", "10.0.0.1"],
        &["create-client", "app"],
        &["create-admin"],
        &["renew", "r1", "app"],
    ] {
        let (code, said) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
    }
    for name in ["ca", "master", "r1", "app", "admin"] {
        let mode = |ending: &str| {
            let file = fs::metadata(dir.join(format!("{name}.{ending}"))).expect("a file");
            file.permissions().mode() & 0o777
        };
        assert_eq!((mode("crt"), mode("key")), (0o644, 0o600), "{name}");
    }
    let before = fs::read(dir.join("admin.key")).expect("a key");
    for (args, why) in [
        (&["create-ca"][..], "exists, and is not overwritten"),
        (&["create-admin"], "exists, and is not overwritten"),
        (&["create-node", "r65"], "a cluster has r1 to r64"),
        (&["create-node", "slave"], "invalid node 'slave'"),
        (&["create-node", "r2", "--host", "r3"], "'r3' cannot be a host: it is the name of a node"),
        (&["create-node", "r2", "--host", "a b"], "'a b' is not a name of a host"),
        (&["create-client", "../app"], "invalid name '../app'"),
        (&["create-client", "ca"], "'ca' is the name of the authority"),
        (&["renew", "nobody"], "nobody.crt: cannot be read"),
        (&["create-client", "--days", "0"], "0 is not in 1..=36525"),
    ] {
        let (code, said) = run(args);
        assert!(code == Some(2) && said.contains(why), "{args:?}: {code:?} {said}");
    }
    assert_eq!(fs::read(dir.join("admin.key")).expect("a key"), before);
    assert!(!dir.join("r2.key").exists(), "nothing is left of a refused request");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_other_machines_can_connect() {
    let cluster = Cluster::secured(1, "");
    let log = fs::File::create(cluster.file(R1, ".log")).expect("a log");
    let mut command = cluster.command(R1);
    command.args(["--bootstrap", "--listen", "0.0.0.0:0"]).stderr(log);
    let node = Running(command.spawn().expect("the program starts"));
    within("an address", || cluster.log(R1).contains("listens on 0.0.0.0:").then_some(()));
    drop(node);
    // Metrics have no TLS.
    let mut command = cluster.command(R1);
    command.args(["--bootstrap", "--metrics", "0.0.0.0:0"]);
    let (code, said) = text(&command.output().expect("the program ends"));
    assert!(code == Some(2) && said.contains("refuses to listen on 0.0.0.0:0"), "{said}");
}
