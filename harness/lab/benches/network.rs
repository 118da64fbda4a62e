//! What the virtual network costs: the round trip between two of three hosts, and the throughput of a stream.
//!
//! `cargo bench -p lab --bench network`

#[path = "../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::{
    io::{Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use self::support::{network, node, server_address, tcp_connect, tcp_listener, udp};

/// How many round trips are measured.
const ROUND_TRIPS: usize = 10_000;

/// How long a stream is measured.
const STREAM: Duration = Duration::from_secs(3);

/// What is aimed at: the round trip, and the throughput.
const AIM: (f64, f64) = (150.0, 1000.0);

fn main() {
    let Some(network) = network(1) else { return };
    let (a, b) = (node("a"), node("b"));

    let (client, server) = (udp(&network, &a), udp(&network, &b));
    client.connect(server_address(&network, &b)).expect("an address");
    let answering = thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..ROUND_TRIPS {
            let Ok((bytes, from)) = server.recv_from(&mut buffer) else { return };
            let _ = server.send_to(&buffer[..bytes], from);
        }
    });
    let mut times: Vec<Duration> = (0..ROUND_TRIPS)
        .map(|_| {
            let began = Instant::now();
            client.send(b"?").expect("the queue has room");
            client.recv(&mut [0; 64]).expect("nothing is lost");
            began.elapsed()
        })
        .collect();
    answering.join().expect("no panic");
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
    println!(
        "round trip: median {:.0} us, 99 % {:.0} us (aim: {:.0} us){}",
        at(50),
        at(99),
        AIM.0,
        if at(50) <= AIM.0 { "" } else { ": short of the aim" }
    );

    let listener = tcp_listener(&network, &b);
    let mut sender = tcp_connect(&network, &a, &b).expect("nothing is disturbed");
    let (mut receiver, _) = listener.accept().expect("it has connected");
    let sending = thread::spawn(move || {
        let block = vec![1; 1 << 16];
        while sender.write_all(&block).is_ok() {}
    });
    let mut buffer = vec![0; 1 << 18];
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < STREAM {
        bytes += receiver.read(&mut buffer).expect("the stream goes on");
    }
    let megabits = bytes as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e6;
    drop(receiver);
    sending.join().expect("no panic");
    let counts = network.counts(&a, &b);
    println!(
        "throughput: {megabits:.0} Mbit/s, {} packets (aim: {:.0} Mbit/s){}",
        counts.delivered,
        AIM.1,
        if megabits >= AIM.1 { "" } else { ": short of the aim" }
    );
    match network.health() {
        Ok(health) => println!(
            "packets that were dropped: {}; longest stall of the switch: {:?}",
            health.dropped, health.longest_stall
        ),
        Err(why) => println!("the network failed: {why}"),
    }
}
