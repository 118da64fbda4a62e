//! The virtual network with the kernel's stack on top of it: three hosts in namespaces of their own. Where the
//! machine does not let it, the tests print that they were skipped. As root, they also run as an ordinary user.

mod support;

use std::{
    collections::BTreeSet,
    env, fs,
    fs::File,
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lab::{
    keeper,
    network::{Cut, Delay, Host, LinkRule, Network},
    supervisor::Supervisor,
};
use nix::unistd::geteuid;

use self::support::{
    KEEPER_VARIABLE, network, node, server_address, tcp_connect, tcp_listener, udp,
};

const DEADLINE: Duration = Duration::from_secs(20);

const MILLISECOND: Duration = Duration::from_millis(1);

/// How often a time is measured that a busy machine makes longer.
const ATTEMPTS_MAX: usize = 8;

/// Waits until a condition holds.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen within {DEADLINE:?}");
        thread::sleep(MILLISECOND);
    }
}

/// A connection between two hosts: the client's end and the server's.
fn connection(network: &Network, from: &Host, to: &Host) -> (TcpStream, TcpStream) {
    let listener = tcp_listener(network, to);
    let client = tcp_connect(network, from, to).expect("nothing is disturbed");
    let (server, _) = listener.accept().expect("it has connected");
    for end in [&client, &server] {
        end.set_read_timeout(Some(DEADLINE)).expect("a socket");
    }
    (client, server)
}

/// Sends datagrams with the numbers up to `count` from a to b. Returns those that arrived, in order.
fn send_numbers(network: &Network, count: u32) -> Vec<u32> {
    let (a, b) = (node("a"), node("b"));
    let (sender, receiver) = (udp(network, &a), udp(network, &b));
    sender.connect(server_address(network, &b)).expect("an address");
    receiver.set_nonblocking(true).expect("a socket");
    let before = network.counts(&a, &b);
    let mut arrived = Vec::new();
    let mut buffer = [0; 64];
    for first in (0..count).step_by(100) {
        let end = count.min(first + 100);
        for number in first..end {
            sender.send(&number.to_be_bytes()).expect("the queue has room");
        }
        // The buffer of the receiver is not large: what was sent is taken before more is.
        wait_until("the arrival of what was not lost", || {
            while let Ok(bytes) = receiver.recv(&mut buffer) {
                let number = buffer[..bytes].try_into().expect("four bytes");
                arrived.push(u32::from_be_bytes(number));
            }
            let now = network.counts(&a, &b);
            let (lost, delivered) = (now.lost - before.lost, now.delivered - before.delivered);
            let twice = now.duplicated - before.duplicated;
            lost + delivered == u64::from(end) && arrived.len() as u64 == delivered + twice
        });
    }
    arrived
}

fn set(network: &Network, rule: LinkRule) {
    network.set([(&node("a"), &node("b"))], rule);
}

/// How long a datagram takes from a to b, of so many one after the other.
fn delays(network: &Network, count: usize) -> Vec<Duration> {
    let (sender, receiver) = (udp(network, &node("a")), udp(network, &node("b")));
    sender.connect(server_address(network, &node("b"))).expect("an address");
    let mut delays: Vec<Duration> = (0..count)
        .map(|_| {
            let sent = Instant::now();
            sender.send(b"?").expect("the queue has room");
            receiver.recv(&mut [0; 8]).expect("nothing is lost");
            sent.elapsed()
        })
        .collect();
    delays.sort();
    delays
}

#[test]
fn the_median_delay_is_that_of_the_rule() {
    let Some(network) = network(1) else { return };
    let cases = [
        (Delay::constant(MILLISECOND * 5), 5.0),
        (Delay::constant(MILLISECOND * 50), 50.0),
        (Delay::Uniform { shortest: MILLISECOND * 5, longest: MILLISECOND * 7 }, 6.0),
        // The median of what is added is the mean times ln 2.
        (Delay::Exponential { shortest: MILLISECOND * 5, mean: MILLISECOND * 2 }, 6.386),
    ];
    for (delay, expected) in cases {
        set(&network, LinkRule { delay: Some(delay), ..LinkRule::default() });
        let count = if expected > 10.0 { 40 } else { 400 };
        let median = || {
            let measured = delays(&network, count);
            let [first, median] = [0, count / 2].map(|at| measured[at].as_secs_f64() * 1000.0);
            assert!(first >= 5.0, "{delay:?}: a packet took {first:.2} ms");
            median
        };
        // A busy machine delays packets by itself, but not every time.
        let is_near = |median: &f64| (median - expected).abs() <= f64::max(0.3, expected * 0.05);
        let mut medians = Vec::new();
        while !medians.last().is_some_and(is_near) {
            assert!(medians.len() < ATTEMPTS_MAX, "{delay:?}: medians {medians:.2?} ms");
            medians.push(median());
        }
    }
}

#[test]
fn nothing_is_lost_by_itself_and_as_much_as_the_rule_says_the_same_with_each_seed() {
    let Some(first) = network(7) else { return };
    let all: Vec<u32> = (0..10_000).collect();
    assert_eq!(send_numbers(&first, 10_000), all);
    let rule = LinkRule { loss: 0.1, ..LinkRule::default() };
    set(&first, rule);
    let arrived = send_numbers(&first, 10_000);
    let lost = 10_000 - arrived.len();
    assert!((900..=1100).contains(&lost), "{lost} of 10,000 packets were lost");
    assert_eq!(first.failed(), None);
    assert_eq!(first.health().map(|health| health.dropped), Ok(0));
    for (seed, is_same) in [(7, true), (8, false)] {
        let Some(other) = network(seed) else { return };
        set(&other, rule);
        assert_eq!(send_numbers(&other, 10_000) == arrived, is_same, "seed {seed}");
    }
}

#[test]
fn packets_are_duplicated_reordered_and_corrupted() {
    let Some(network) = network(7) else { return };
    set(&network, LinkRule { duplication: 0.2, ..LinkRule::default() });
    let arrived = send_numbers(&network, 1000);
    let different: BTreeSet<u32> = arrived.iter().copied().collect();
    assert_eq!(different.len(), 1000);
    assert!((1150..=1250).contains(&arrived.len()), "{}", arrived.len());

    let delay = Some(Delay::constant(MILLISECOND));
    set(&network, LinkRule { delay, reordering: 0.2, ..LinkRule::default() });
    let mut arrived = send_numbers(&network, 1000);
    assert!(!arrived.is_sorted(), "nothing was overtaken");
    arrived.sort_unstable();
    assert_eq!(arrived, (0..1000).collect::<Vec<u32>>());

    set(&network, LinkRule { corruption: 0.2, ..LinkRule::default() });
    // With a wrong checksum, these would not arrive.
    let arrived = send_numbers(&network, 1000);
    let wrong: Vec<(u32, u32)> = (0..).zip(arrived).filter(|(sent, got)| sent != got).collect();
    assert!((150..=250).contains(&wrong.len()), "{} packets are corrupted", wrong.len());
    assert!(wrong.iter().all(|(sent, got)| (sent ^ got).count_ones() == 1));
}

#[test]
fn a_cut_is_one_way_and_heals() {
    let Some(network) = network(1) else { return };
    let (a, b) = (node("a"), node("b"));
    let (one, other) = (udp(&network, &a), udp(&network, &b));
    let send = |from: &UdpSocket, to: &Host| {
        from.send_to(b"?", server_address(&network, to)).expect("the queue has room");
    };
    let arrives = |at: &UdpSocket| at.recv(&mut [0; 8]).is_ok();
    network.set([(&a, &b)], LinkRule { cut: Some(Cut::BlackHole), ..LinkRule::default() });
    send(&one, &b);
    wait_until("the packet is dropped", || network.counts(&a, &b).cut == 1);
    send(&other, &a);
    assert!(arrives(&one), "the other direction is not cut");
    other.set_nonblocking(true).expect("a socket");
    assert!(!arrives(&other), "nothing passes a cut");
    network.heal();
    send(&one, &b);
    wait_until("the link works again", || arrives(&other));
    assert_eq!(network.counts(&a, &b).cut, 1);
}

#[test]
fn control_is_never_cut() {
    let Some(network) = network(1) else { return };
    let a = node("a");
    let rule = LinkRule { cut: Some(Cut::BlackHole), ..LinkRule::default() };
    network.set([(&a, &Host::Control), (&Host::Control, &a)], rule);
    assert_eq!(network.rule(&a, &Host::Control), LinkRule::default());
    let _ends = connection(&network, &Host::Control, &a);
}

#[test]
fn a_link_that_refuses_answers_and_a_black_hole_does_not() {
    let Some(network) = network(1) else { return };
    let (a, b) = (node("a"), node("b"));
    let _listener = tcp_listener(&network, &b);
    network.set([(&a, &b)], LinkRule { cut: Some(Cut::Refuse), ..LinkRule::default() });
    let refused = tcp_connect(&network, &a, &b).expect_err("it is refused");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let stream =
        TcpStream::from(network.socket(&a, lab::network::Transport::Tcp).expect("a socket"));
    network.set([(&a, &b)], LinkRule { cut: Some(Cut::BlackHole), ..LinkRule::default() });
    let before = network.counts(&a, &b).cut;
    let address = server_address(&network, &b);
    let pending = rustix::net::connect(&stream, &address).expect_err("it does not wait");
    assert_eq!(pending, rustix::io::Errno::INPROGRESS);
    wait_until("the packet is dropped", || network.counts(&a, &b).cut > before);
    assert!(stream.peer_addr().is_err(), "nobody has answered");
    assert!(stream.take_error().expect("a socket").is_none());
}

#[test]
fn a_reset_ends_connections_at_both_ends_and_no_others() {
    let Some(network) = network(1) else { return };
    let [a, b, c] = ["a", "b", "c"].map(node);
    let (mut client, mut server) = connection(&network, &a, &b);
    let (mut other_client, mut other_server) = connection(&network, &c, &b);
    // One that was idle since it was opened, and one in the middle of a stream.
    for is_busy in [false, true] {
        if is_busy {
            (client, server) = connection(&network, &a, &b);
            for n in 0..100_u8 {
                client.write_all(&[n; 100]).expect("the connection is well");
                server.write_all(&[n; 33]).expect("the connection is well");
            }
            server.read_exact(&mut [0; 5000]).expect("the connection is well");
        }
        assert_eq!(network.reset(&a, &b).expect("packets can be sent"), 1);
        for end in [&mut client, &mut server] {
            // What was received before is still read.
            let end = end.read_to_end(&mut Vec::new());
            assert_eq!(end.expect_err("it is reset").kind(), ErrorKind::ConnectionReset);
        }
    }
    other_client.write_all(b"?").expect("the connection is well");
    other_server.read_exact(&mut [0]).expect("the connection is well");
    // The link itself is well, and a connection that was closed is not there to be reset.
    let ends = connection(&network, &a, &b);
    drop(ends);
    wait_until("the end of the connection", || network.connections(&a, &b) == 0);
    assert_eq!(network.reset(&a, &b).expect("packets can be sent"), 0);
    assert_eq!(network.connections(&b, &c), 1);
}

#[test]
fn a_host_that_loses_its_power_is_silent_and_comes_back_without_its_connections() {
    let Some(network) = network(1) else { return };
    let [a, b, c] = ["a", "b", "c"].map(node);
    let (mut client, server) = connection(&network, &a, &b);
    let (mut other_client, mut other_server) = connection(&network, &a, &c);
    let namespace = |host| fs::read_link(network.namespaces(host).network).expect("it is open");
    let before = namespace(&b);
    network.power_off([&b]);
    // As if its process were killed: the kernel says goodbye to the peer, which does not hear it.
    let unheard = network.counts(&b, &a).cut;
    drop(server);
    wait_until("the kernel of b closes the connection", || network.counts(&b, &a).cut > unheard);
    client.set_nonblocking(true).expect("a socket");
    let nothing = |client: &mut TcpStream| {
        client.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    assert!(nothing(&mut client));
    // What a sends meanwhile disappears.
    let unread = network.counts(&a, &b).cut;
    client.write_all(b"?").expect("it is buffered");
    wait_until("the packet is dropped", || network.counts(&a, &b).cut > unread);
    assert!(nothing(&mut client));

    network.power_on(&b).expect("there is another namespace");
    assert_ne!(namespace(&b), before);
    assert_eq!(network.connections(&a, &b), 0);
    // The same address, at which nobody knows of the connection: what is sent again is answered with a reset.
    client.set_nonblocking(false).expect("a socket");
    let end = client.read(&mut [0]).expect_err("it is reset");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    let (mut client, mut server) = connection(&network, &a, &b);
    client.write_all(b"?").expect("the connection is well");
    server.read_exact(&mut [0]).expect("the connection is well");
    // The others have not noticed.
    other_client.write_all(b"?").expect("the connection is well");
    other_server.read_exact(&mut [0]).expect("the connection is well");
    // One that has its power is left alone.
    let now = namespace(&b);
    network.power_on(&b).expect("there is nothing to do");
    assert_eq!(namespace(&b), now);
}

#[test]
fn a_stream_of_limited_bandwidth_takes_its_time() {
    let Some(network) = network(1) else { return };
    let (a, b) = (node("a"), node("b"));
    let (mut client, mut server) = connection(&network, &a, &b);
    let bits_per_second = Some(8_000_000);
    network.set([(&a, &b)], LinkRule { bits_per_second, ..LinkRule::default() });
    let sending = thread::spawn(move || client.write_all(&vec![1; 1_000_000]));
    let began = Instant::now();
    server.read_exact(&mut vec![0; 1_000_000]).expect("it arrives");
    let seconds = began.elapsed().as_secs_f64();
    sending.join().expect("no panic").expect("it is sent");
    // A megabyte with headers. What waits too long is lost and sent again, which costs a little.
    assert!((1.0..2.0).contains(&seconds), "{seconds} s");
}

#[test]
fn a_stream_goes_on_within_a_second_of_the_heal() {
    let Some(network) = network(1) else { return };
    if !Path::new("/proc/sys/net/ipv4/tcp_rto_max_ms").exists() {
        let _ = writeln!(io::stderr(), "skipped: the kernel has no net.ipv4.tcp_rto_max_ms");
        return;
    }
    let (a, b) = (node("a"), node("b"));
    let (mut client, mut server) = connection(&network, &a, &b);
    let links = [(&a, &b), (&b, &a)];
    network.set(links, LinkRule { cut: Some(Cut::BlackHole), ..LinkRule::default() });
    client.write_all(b"?").expect("it is buffered");
    // As long as the timer doubles: 0.2, 0.4, 0.8 s. Then it fires each second.
    wait_until("the timer has reached its maximum", || network.counts(&a, &b).cut >= 6);
    network.heal();
    let healed = Instant::now();
    server.read_exact(&mut [0]).expect("the stream goes on");
    let took = healed.elapsed();
    assert!(took < MILLISECOND * 1100, "the stream went on after {took:?}");
}

#[test]
fn a_capture_has_the_packets_of_its_time() {
    let Some(network) = network(1) else { return };
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("network.pcap");
    send_numbers(&network, 3);
    network.begin_capture(&path).expect("a new file");
    send_numbers(&network, 5);
    assert_eq!(network.end_capture().expect("it was written"), 5);
    let bytes = fs::read(&path).expect("it was written");
    // A header; for each packet 16 bytes before it, of IP 20, of UDP 8, and 4 of data.
    assert_eq!(bytes.len(), 24 + 5 * (16 + 20 + 8 + 4));
    assert_eq!(bytes[..4], 0xa1b2_3c4d_u32.to_ne_bytes());
    assert_eq!(bytes[bytes.len() - 4..], 4_u32.to_be_bytes());
}

#[tokio::test]
async fn a_program_is_in_the_network_of_its_host_and_has_no_power_over_it() {
    let Some(network) = network(1) else { return };
    let directory = tempfile::tempdir().expect("a directory for the test");
    let log = directory.path().join("log");
    let supervisor = Supervisor::start().expect("a thread");
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat /proc/net/route /proc/net/fib_trie; grep CapEff /proc/self/status"]);
    let namespaces = network.namespaces(&node("b"));
    let kept = keeper::keep(&support::keeper(), &shell, false, None, Some(&namespaces));
    let process = supervisor.spawn_keeper(kept, File::create(&log).expect("a new file"));
    let process = process.await.expect("the keeper starts");
    let ended = process.wait_until(DEADLINE, |state| state.exit_status().is_some()).await;
    let status = ended.and_then(|state| state.exit_status()).expect("the program ends");
    let printed = fs::read_to_string(&log).expect("it was written");
    assert!(status.success(), "{printed}");
    assert!(printed.contains("eth0"), "{printed}");
    assert!(printed.contains(&network.address(&node("b")).to_string()), "{printed}");
    assert!(!printed.contains(&network.address(&node("a")).to_string()), "{printed}");
    if network.in_user_namespace() {
        assert!(printed.contains("CapEff:\t0000000000000000"), "{printed}");
    }
}

/// Not a test by itself: what the next one kills.
#[test]
#[ignore = "it waits until it is killed"]
fn network_that_waits() {
    let Some(network) = network(1) else { return };
    let namespaces = network.namespaces(&node("a"));
    let inode = fs::read_link(namespaces.network).expect("it is open");
    // On a line of its own, whatever the test harness has written.
    println!("\nnetwork {}", inode.display());
    let _ = io::stdin().read(&mut [0]);
}

#[test]
fn nothing_outlives_the_harness_even_if_it_is_killed() {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "network_that_waits", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let name = lines.into_iter().find_map(|line| Some(line.strip_prefix("network ")?.to_owned()));
    let Some(name) = name else {
        // It has said why it was skipped.
        assert!(child.wait().expect("it ends").success());
        return;
    };
    assert!(!users_of(&name).is_empty(), "the network has a holder");
    let before = fs::read_dir("/run/netns").map_or(0, Iterator::count);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    wait_until("the end of the network", || users_of(&name).is_empty());
    assert_eq!(fs::read_dir("/run/netns").map_or(0, Iterator::count), before);
}

/// The processes that are in a namespace or hold it open, as far as this process may know.
fn users_of(namespace: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("it is mounted").flatten();
    let is_user = |path: &Path| {
        let open = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        let mut links = open.map(|entry| entry.path()).chain([path.join("ns/net")]);
        links.any(|link| fs::read_link(link).is_ok_and(|name| name.as_os_str() == namespace))
    };
    let users = processes.map(|entry| entry.path()).filter(|path| is_user(path));
    users.map(|path| path.display().to_string()).collect()
}

/// Runs all of these tests as an ordinary user, for whom the namespaces are in one of users.
#[test]
fn all_of_it_in_a_user_namespace() {
    if !geteuid().is_root() {
        // Then the other tests have done it.
        return;
    }
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (test, keeper) = (path("test"), path("keeper"));
    fs::copy(env::current_exe().expect("this program"), &test).expect("a new file");
    fs::copy(support::keeper(), &keeper).expect("a new file");
    // /dev/net/tun is root's alone on some machines: there, a node beside it is anybody's.
    let script = "set -e; chmod 755 \"$0\"; mount -t tmpfs -o mode=755 tmpfs \"$0/dev\"
        mknod -m 666 \"$0/dev/tun\" c 10 200; mount --bind \"$0/dev/tun\" /dev/net/tun
        exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all \
        env TMPDIR=/tmp \"$0/test\" --skip in_a_user_namespace --test-threads=2";
    fs::create_dir(path("dev")).expect("a new directory");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(directory.path())
        .env(KEEPER_VARIABLE, &keeper)
        .current_dir("/")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let _ = writeln!(io::stderr(), "skipped: unshare of util-linux: {error}");
            return;
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{printed}\n{errors}");
    let skipped = errors.lines().filter(|line| line.starts_with("skipped: "));
    skipped.for_each(|line| drop(writeln!(io::stderr(), "{line} (as an ordinary user)")));
}
