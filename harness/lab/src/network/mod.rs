//! A virtual network in which the harness is the switch: hosts in network namespaces of their own, each with
//! one TUN device whose packets pass a thread of this process. For each ordered pair of hosts a [`LinkRule`]
//! says what becomes of them; everything random is drawn from a seed.
//!
//! ```text
//!   namespace of n1        this process           namespace of n2
//!   program, eth0 (TUN) ---- descriptor
//!                            switch: rules, pcap
//!                            descriptor ---------- eth0 (TUN), program
//! ```
//!
//! A [holder] makes the namespaces, as root or in a user namespace, whichever works. They have no names, and are
//! gone with the last process and descriptor that holds them. Processes are started in the namespace of a host
//! by [`keeper`](crate::keeper); clients within this process connect through a [`Dialer`].
//!
//! To TCP, loss, duplication and reordering are only delay: what loses messages is a reset, or a cut of some
//! duration. A stream goes on after a cut when its retransmission timer fires, which doubles with each attempt up to
//! `net.ipv4.tcp_rto_max_ms`. That is 1 s in these namespaces where the kernel has it (6.15), and 2 min elsewhere.
//!
//! A host may lose its power: then it is silent, also while its processes end, and comes back in a namespace that
//! knows none of its connections.
//!
//! IPv6 is off. Nothing leaves the network, and there is no name service.

mod capture;
mod dialer;
pub mod holder;
mod link;
mod netlink;
mod packet;
mod partition;
mod switch;

use std::{
    fmt, io,
    net::Ipv4Addr,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, socketpair,
    sockopt::{Timeout, set_socket_timeout},
};

use self::{
    capture::Capture,
    holder::{Reply, Request},
    switch::{Port, Switch},
};
pub use self::{
    dialer::Dialer,
    holder::Transport,
    link::{Cut, Delay, LinkCounts, LinkRule},
    partition::{Partition, Shape},
};
use crate::node::NodeName;

/// The network of all hosts: a private one, which nobody outside sees.
const NETWORK: [u8; 2] = [10, 99];

/// How many bits the addresses of all hosts have in common.
const PREFIX: u8 = 16;

/// How many hosts have an address with the same third byte.
const HOSTS_PER_BYTE: usize = 250;

/// The most hosts for clients. Further clients share them.
const CLIENT_HOSTS_MAX: u32 = 64;

/// How long the holder may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// A host of the network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A node of the system under test.
    Node(NodeName),
    /// A client, by the number of its worker.
    Client(u32),
    /// Whoever watches the nodes: probes and hooks. Its links are never disturbed.
    Control,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Node(node) => node.fmt(f),
            Host::Client(number) => write!(f, "client {number}"),
            Host::Control => f.write_str("control"),
        }
    }
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
#[error("a virtual network needs /dev/net/tun, and root or a user namespace: {0}")]
pub struct NetworkError(String);

/// The namespaces of a host, as files that a process of the same user can open while the network lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// The user namespace that must be entered first, if there is one.
    pub user: Option<PathBuf>,
    /// The network namespace.
    pub network: PathBuf,
}

/// A virtual network that runs. Dropping it ends it.
pub struct Network {
    hosts: Vec<Host>,
    addresses: Vec<Ipv4Addr>,
    clients: u32,
    /// The namespaces of the hosts, which live as long as these.
    namespaces: Mutex<Vec<OwnedFd>>,
    user_namespace: Option<OwnedFd>,
    switch: Switch,
    holder: Mutex<Holder>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// The process that makes namespaces and sockets.
struct Holder {
    process: Child,
    /// Closed before the process is waited for.
    socket: Option<OwnedFd>,
    /// Why it is not asked any more: an answer that is late would be taken for that to the next question.
    failed: Option<String>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.socket.take());
        let _ = self.process.wait();
    }
}

impl Holder {
    fn start(program: &Path) -> io::Result<Holder> {
        let flags = SocketFlags::CLOEXEC;
        let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        set_socket_timeout(&own, Timeout::Recv, Some(ANSWER_DEADLINE))?;
        let mut command = Command::new(program);
        command.arg(holder::COMMAND).stdin(other).stdout(Stdio::null());
        // A signal from the terminal is for the harness, which ends it in order.
        command.process_group(0);
        Ok(Holder { process: command.spawn()?, socket: Some(own), failed: None })
    }

    fn ask(&mut self, request: Request) -> Result<(Reply, Vec<OwnedFd>), String> {
        if let Some(why) = &self.failed {
            return Err(why.clone());
        }
        let socket = self.socket.as_ref().ok_or("the network has ended")?.as_fd();
        let asked = holder::send(socket, &request, &[]).and_then(|()| holder::receive(socket));
        let why = match asked {
            Ok(Some((Reply::Failed { why }, _))) => return Err(why),
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => "the process that holds the namespaces has ended".to_owned(),
            Err(error) => format!("the process that holds the namespaces: {error}"),
        };
        self.failed = Some(why.clone());
        Err(why)
    }

    /// Why it cannot be asked any more, if so.
    fn failure(&mut self) -> Option<String> {
        if self.failed.is_none()
            && let Ok(Some(status)) = self.process.try_wait()
        {
            self.failed = Some(format!("the process that holds the namespaces ended: {status}"));
        }
        self.failed.clone()
    }
}

/// Whether this machine lets the lab make networks. `program` calls [`holder::main`] for [`holder::COMMAND`].
///
/// # Errors
/// It does not.
pub fn available(program: &Path) -> Result<(), NetworkError> {
    Network::start(program, &[], 0, 0).map(drop)
}

impl Network {
    /// Starts a network with a host for each node, for each of so many clients (at most 64, which further ones
    /// share), and for whoever watches the nodes. `program` is one that calls [`holder::main`] for
    /// [`holder::COMMAND`].
    ///
    /// # Errors
    /// The machine does not let it.
    pub fn start(
        program: &Path,
        nodes: &[NodeName],
        clients: u32,
        seed: u64,
    ) -> Result<Network, NetworkError> {
        let cannot =
            |error: io::Error| NetworkError(format!("cannot start {}: {error}", program.display()));
        let mut holder = Holder::start(program).map_err(cannot)?;
        let clients = clients.min(CLIENT_HOSTS_MAX);
        let hosts = nodes.iter().cloned().map(Host::Node);
        let hosts: Vec<Host> =
            hosts.chain((0..clients).map(Host::Client)).chain([Host::Control]).collect();
        let (_, user) = holder.ask(Request::Begin).map_err(NetworkError)?;
        let (mut ports, mut namespaces, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for address in (0..hosts.len()).map(address) {
            let request = Request::Host { address, prefix: PREFIX };
            let (_, descriptors) = holder.ask(request).map_err(NetworkError)?;
            let [namespace, device] = namespace_and_device(descriptors).map_err(NetworkError)?;
            ports.push(Port { device, address });
            namespaces.push(namespace);
            addresses.push(address);
        }
        let switch = Switch::start(ports, seed)
            .map_err(|error| NetworkError(format!("cannot start a thread: {error}")))?;
        Ok(Network {
            hosts,
            addresses,
            clients,
            namespaces: Mutex::new(namespaces),
            user_namespace: user.into_iter().next(),
            switch,
            holder: Mutex::new(holder),
        })
    }

    /// The hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// How many hosts are for clients.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.clients
    }

    /// The host of a worker's client.
    #[must_use]
    pub fn client(&self, worker: u32) -> Host {
        Host::Client(worker % self.clients.max(1))
    }

    /// Whether the namespaces are in a user namespace, because this process is not root.
    #[must_use]
    pub fn in_user_namespace(&self) -> bool {
        self.user_namespace.is_some()
    }

    fn position(&self, host: &Host) -> usize {
        let found = self.hosts.iter().position(|other| other == host);
        found.expect("the hosts of a network do not change")
    }

    /// The address of a host.
    ///
    /// # Panics
    /// The network has no such host.
    #[must_use]
    pub fn address(&self, host: &Host) -> Ipv4Addr {
        self.addresses[self.position(host)]
    }

    /// The namespaces of a host.
    ///
    /// # Panics
    /// The network has no such host.
    #[must_use]
    pub fn namespaces(&self, host: &Host) -> Namespaces {
        // Of this process, so that nothing has to be inherited.
        let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", process::id(), fd.as_raw_fd()).into();
        Namespaces {
            user: self.user_namespace.as_ref().map(path),
            network: path(&self.lock_namespaces()[self.position(host)]),
        }
    }

    fn lock_namespaces(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hosts lose their power, all at the same moment. From then on nothing is heard of them and nothing reaches
    /// them: the end of their processes closes no connection for those at the other end. Whoever watches the nodes
    /// notices nothing else either.
    ///
    /// # Panics
    /// The network has no such host.
    pub fn power_off<'a>(&self, hosts: impl IntoIterator<Item = &'a Host>) {
        self.switch.power_off(hosts.into_iter().map(|host| self.position(host)));
    }

    /// Gives a host its power back, if it has lost it. It has a new namespace with the same address: what reaches
    /// a connection that it had is answered as by a machine that has just started.
    ///
    /// # Errors
    /// The process that holds the namespaces makes none.
    ///
    /// # Panics
    /// The network has no such host.
    pub fn power_on(&self, host: &Host) -> io::Result<()> {
        let position = self.position(host);
        if !self.switch.is_off(position) {
            return Ok(());
        }
        let address = self.addresses[position];
        let request = Request::Replace { host: position, address, prefix: PREFIX };
        let (_, descriptors) = self.ask(request)?;
        let [namespace, device] = namespace_and_device(descriptors).map_err(io::Error::other)?;
        self.lock_namespaces()[position] = namespace;
        self.switch.power_on(position, device);
        Ok(())
    }

    /// A new socket, not connected and not blocking, in the namespace of a host.
    ///
    /// # Errors
    /// The process that holds the namespaces does not give one.
    ///
    /// # Panics
    /// The network has no such host.
    pub fn socket(&self, host: &Host, transport: Transport) -> io::Result<OwnedFd> {
        let request = Request::Socket { host: self.position(host), transport };
        let (_, descriptors) = self.ask(request)?;
        descriptors.into_iter().next().ok_or_else(|| io::Error::other("a socket is missing"))
    }

    fn ask(&self, request: Request) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        holder.ask(request).map_err(io::Error::other)
    }

    /// The rule of the link from a host to another.
    ///
    /// # Panics
    /// The network has no such host.
    #[must_use]
    pub fn rule(&self, from: &Host, to: &Host) -> LinkRule {
        self.switch.rule(self.position(from), self.position(to))
    }

    /// Changes the rules of links, all at the same moment. Links of [`Host::Control`] stay as they are.
    ///
    /// # Panics
    /// The network has no such host.
    pub fn set<'a>(&self, links: impl IntoIterator<Item = (&'a Host, &'a Host)>, rule: LinkRule) {
        let links = links.into_iter();
        let links = links.filter(|(from, to)| **from != Host::Control && **to != Host::Control);
        let at = links.map(|(from, to)| ((self.position(from), self.position(to)), rule));
        self.switch.set(at.collect::<Vec<_>>());
    }

    /// Every link disturbs nothing from now on.
    pub fn heal(&self) {
        self.switch.clear();
    }

    /// How many packets of a link had which fate so far.
    ///
    /// # Panics
    /// The network has no such host.
    #[must_use]
    pub fn counts(&self, from: &Host, to: &Host) -> LinkCounts {
        self.switch.counts(self.position(from), self.position(to))
    }

    /// How many TCP connections there are between two hosts, as far as their packets say.
    ///
    /// # Panics
    /// The network has no such host.
    #[must_use]
    pub fn connections(&self, one: &Host, other: &Host) -> usize {
        self.switch.connections(self.position(one), self.position(other))
    }

    /// Resets every TCP connection between two hosts: both ends get a forged RST. Returns how many there were.
    ///
    /// # Errors
    /// A packet cannot be sent.
    ///
    /// # Panics
    /// The network has no such host.
    pub fn reset(&self, one: &Host, other: &Host) -> io::Result<usize> {
        self.switch.reset(self.position(one), self.position(other))
    }

    /// Writes every packet that is delivered from now on to a pcap file, until [`end_capture`](Self::end_capture).
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn begin_capture(&self, path: &Path) -> io::Result<()> {
        Capture::create(path).map(|capture| self.switch.begin_capture(capture))
    }

    /// Ends a capture. Returns how many packets the file has.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn end_capture(&self) -> io::Result<u64> {
        self.switch.end_capture()
    }

    /// Why this is no network any more, if so: packets are not forwarded, or nobody makes sockets.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        // Somebody who asks for a socket meanwhile learns by himself whether he gets one.
        let holder = || self.holder.try_lock().ok()?.failure();
        self.switch.failed().or_else(holder)
    }

    /// What was wrong with the network itself so far. Such a network has disturbed the run by itself.
    ///
    /// # Errors
    /// It has failed, or does not say how it was; in words.
    pub fn health(&self) -> Result<NetworkHealth, String> {
        if let Some(why) = self.failed() {
            return Err(why);
        }
        match self.ask(Request::Dropped).map_err(|error| error.to_string())? {
            (Reply::Dropped { packets: dropped }, _) => {
                Ok(NetworkHealth { dropped, longest_stall: self.switch.longest_stall() })
            }
            (other, _) => Err(format!("asked what was dropped, a holder says {other:?}")),
        }
    }
}

/// What is wrong with a network itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkHealth {
    /// How many packets hosts could not send, because the switch did not take them.
    pub dropped: u64,
    /// How long the switch was kept from its work, at most.
    pub longest_stall: Duration,
}

fn namespace_and_device(descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; 2], String> {
    let missing = |_| "a namespace or a device is missing".to_owned();
    <[OwnedFd; 2]>::try_from(descriptors).map_err(missing)
}

fn address(host: usize) -> Ipv4Addr {
    let [first, second] = NETWORK;
    let third = u8::try_from(host / HOSTS_PER_BYTE).unwrap_or(u8::MAX);
    Ipv4Addr::new(first, second, third, (host % HOSTS_PER_BYTE) as u8 + 1)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Instant};

    use super::*;

    #[test]
    fn a_holder_that_has_ended_is_noticed_and_not_asked_again() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let program = directory.path().join("holder");
        fs::write(&program, "#!/bin/sh\nexit 3\n")?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let mut unasked = Holder::start(&program)?;
        let end = Instant::now() + ANSWER_DEADLINE;
        while unasked.failure().is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(unasked.failure().is_some_and(|why| why.contains("exit status: 3")));
        let mut asked = Holder::start(&program)?;
        let why = asked.ask(Request::Dropped).expect_err("nobody answers");
        assert_eq!(asked.failure().as_ref(), Some(&why));
        assert_eq!(asked.ask(Request::Begin).expect_err("it is not asked"), why);
        Ok(())
    }
}
