//! Hosts that tests and the bench talk through.

use std::{
    env,
    io::{self, Write as _},
    net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use lab::{
    NodeName,
    network::{Host, Network, Transport},
};
use rustix::net::{bind, connect, listen, sockopt::set_socket_reuseaddr};

/// Names the holder for a copy of a test that runs elsewhere.
pub(crate) const KEEPER_VARIABLE: &str = "LAB_KEEPER";

/// The port of all servers.
const PORT: u16 = 7101;

/// The program that holds networks.
pub(crate) fn keeper() -> PathBuf {
    let elsewhere = env::var_os(KEEPER_VARIABLE);
    elsewhere.map_or_else(|| env!("CARGO_BIN_EXE_lab-keeper").into(), PathBuf::from)
}

/// The host of a node.
pub(crate) fn node(name: &str) -> Host {
    Host::Node(NodeName::new(name))
}

/// A network of the nodes a, b and c. `None`, with a line, where there can be none.
pub(crate) fn network(seed: u64) -> Option<Network> {
    let nodes = ["a", "b", "c"].map(NodeName::new);
    match Network::start(&keeper(), &nodes, 1, seed) {
        Ok(network) => Some(network),
        Err(why) => {
            // Past the capture of the test harness, which would hide it.
            let _ = writeln!(io::stderr(), "skipped: {why}");
            None
        }
    }
}

/// The address of the server at a host.
pub(crate) fn server_address(network: &Network, host: &Host) -> SocketAddrV4 {
    SocketAddrV4::new(network.address(host), PORT)
}

/// A blocking socket for datagrams, bound to the address of its host.
pub(crate) fn udp(network: &Network, host: &Host) -> UdpSocket {
    let socket = network.socket(host, Transport::Udp).expect("a socket");
    bind(&socket, &server_address(network, host)).expect("the port is free");
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(false).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    socket
}

/// A server at a host.
pub(crate) fn tcp_listener(network: &Network, host: &Host) -> TcpListener {
    let socket = network.socket(host, Transport::Tcp).expect("a socket");
    // Connections of a former listener may go on.
    set_socket_reuseaddr(&socket, true).expect("a socket");
    bind(&socket, &server_address(network, host)).expect("the port is free");
    listen(&socket, 16).expect("it is bound");
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(false).expect("a socket");
    listener
}

/// A blocking connection from a host to the server at another.
pub(crate) fn tcp_connect(network: &Network, from: &Host, to: &Host) -> io::Result<TcpStream> {
    let stream = TcpStream::from(network.socket(from, Transport::Tcp)?);
    stream.set_nonblocking(false)?;
    // It also bounds how long a connection may take to open.
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    connect(&stream, &SocketAddr::from(server_address(network, to)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
