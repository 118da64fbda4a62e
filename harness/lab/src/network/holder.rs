//! The holder of a network: a process with one thread that makes the namespaces of the hosts and their devices,
//! and opens sockets in them. It hands everything to the harness as file descriptors, and ends with it: what no
//! process and no descriptor holds is gone, however the harness ends.
//!
//! A process with several threads cannot enter a user namespace, and need not: the harness and its clients use
//! the sockets of a host without being in its namespace.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::OpenOptionsExt as _,
    process::ExitCode,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sched::{CloneFlags, setns, unshare},
    unistd::{getegid, geteuid},
};
use rustix::{
    cmsg_space,
    ioctl::{Opcode, Setter, ioctl, opcode},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, netdevice::name_to_index,
        recvmsg, sendmsg, socket_with,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::netlink::{LinkAttribute, Netlink};

/// The command by which a program that links this crate becomes a holder: see [`main`].
pub const COMMAND: &str = "__network";

/// The name of the device of each host.
const DEVICE: &str = "eth0";

/// The most bytes of a packet, as in Ethernet.
const MTU: u32 = 1500;

/// The most packets that wait in a host: more than TCP has in flight, so that nothing is lost by itself.
const QUEUE_LENGTH: u32 = 10_000;

/// The most bytes of a message between the holder and the harness.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The most descriptors of a message.
const DESCRIPTORS_MAX: usize = 2;

/// What the harness asks for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// A namespace for this process, where it may make others. Answered with a user namespace, if one was needed.
    Begin,
    /// A host. Answered with its namespace and its device.
    Host { address: Ipv4Addr, prefix: u8 },
    /// Another namespace and device for a host, which has lost those that it had. Answered likewise.
    Replace { host: usize, address: Ipv4Addr, prefix: u8 },
    /// A socket at a host.
    Socket { host: usize, transport: Transport },
    /// How many packets hosts could not send.
    Dropped,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What the holder answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Dropped { packets: u64 },
    Failed { why: String },
}

/// The holder. Call it before the process has started a thread, when the program is called with [`COMMAND`].
#[must_use]
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    if arguments.next().is_some() {
        eprintln!("harness: usage: {COMMAND}, with a socket as standard input");
        return ExitCode::from(254);
    }
    let stdin = io::stdin();
    let mut hosts = Vec::new();
    while let Ok(Some((request, _))) = receive::<Request>(stdin.as_fd()) {
        let (reply, descriptors) = match obey(request, &mut hosts) {
            Ok(done) => done,
            Err(why) => (Reply::Failed { why }, Vec::new()),
        };
        if send(stdin.as_fd(), &reply, &descriptors).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// The namespace of a host.
struct Host(File);

type Answer = Result<(Reply, Vec<OwnedFd>), String>;

fn obey(request: Request, hosts: &mut Vec<Host>) -> Answer {
    match request {
        Request::Begin => begin(),
        Request::Host { address, prefix } => {
            let (host, descriptors) = add_host(address, prefix)?;
            hosts.push(host);
            Ok((Reply::Done, descriptors))
        }
        Request::Replace { host, address, prefix } => {
            let place = hosts.get_mut(host).ok_or("there is no such host")?;
            let (replacement, descriptors) = add_host(address, prefix)?;
            *place = replacement;
            Ok((Reply::Done, descriptors))
        }
        Request::Socket { host, transport } => {
            let host = hosts.get(host).ok_or("there is no such host")?;
            enter(host)?;
            let kind = match transport {
                Transport::Tcp => SocketType::STREAM,
                Transport::Udp => SocketType::DGRAM,
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET, kind, flags, None);
            let socket = socket.map_err(|error| format!("a socket: {error}"))?;
            Ok((Reply::Done, vec![socket]))
        }
        Request::Dropped => {
            let dropped = hosts.iter().map(|host| enter(host).and_then(|()| dropped()));
            let packets = dropped.sum::<Result<u64, String>>()?;
            Ok((Reply::Dropped { packets }, Vec::new()))
        }
    }
}

fn enter(host: &Host) -> Result<(), String> {
    setns(&host.0, CloneFlags::CLONE_NEWNET).map_err(|error| format!("a host: {error}"))
}

/// Makes sure that this process may make network namespaces.
fn begin() -> Answer {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => return Ok((Reply::Done, Vec::new())),
        Err(Errno::EPERM) => {}
        Err(error) => return Err(format!("no network namespace: {error}")),
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("not root, and no user namespace: {error}"))?;
    // The own ids are mapped to themselves: nobody is root in there.
    let map = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| format!("/proc/self/{file}: {error}"))
    };
    map("setgroups", "deny".to_owned())?;
    map("uid_map", format!("{uid} {uid} 1"))?;
    map("gid_map", format!("{gid} {gid} 1"))?;
    let user = File::open("/proc/self/ns/user").map_err(|error| error.to_string())?;
    Ok((Reply::Done, vec![user.into()]))
}

/// Makes a namespace with a device. Returns descriptors of both.
fn add_host(address: Ipv4Addr, prefix: u8) -> Result<(Host, Vec<OwnedFd>), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace: {error}"))?;
    let namespace = File::open("/proc/self/ns/net").map_err(|error| error.to_string())?;
    set("ipv6/conf/all/disable_ipv6", "1")?;
    set("ipv6/conf/default/disable_ipv6", "1")?;
    // A connection goes on at most a second after the end of a cut, where the kernel has this.
    set("ipv4/tcp_rto_max_ms", "1000")?;
    let device = open_device()?;
    let configured = configure(address, prefix);
    configured.map_err(|error| format!("the device of {address}: {error}"))?;
    let descriptor = namespace.try_clone().map_err(|error| format!("a descriptor: {error}"))?;
    Ok((Host(namespace), vec![descriptor.into(), device]))
}

fn configure(address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let probe = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let netlink = Netlink::open()?;
    netlink.set_up(name_to_index(&probe, "lo")?, &[])?;
    let device = name_to_index(&probe, DEVICE)?;
    let attributes = [(LinkAttribute::Mtu, MTU), (LinkAttribute::QueueLength, QUEUE_LENGTH)];
    netlink.set_up(device, &attributes)?;
    netlink.add_address(device, address, prefix)
}

/// Changes a setting of the namespace. One that the kernel does not have stays as it is.
fn set(name: &str, value: &str) -> Result<(), String> {
    let path = format!("/proc/sys/net/{name}");
    match fs::write(&path, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{path}: {error}")),
        _ => Ok(()),
    }
}

/// How a device is asked for: `struct ifreq`.
#[repr(C)]
struct DeviceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Opens a new device of this namespace: what the host sends is read from it.
fn open_device() -> Result<OwnedFd, String> {
    /// Packets without a link layer: no ARP, which would turn a cut into an error.
    const IFF_TUN: u16 = 0x0001;
    /// Packets begin with their IP header.
    const IFF_NO_PI: u16 = 0x1000;
    const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
    let cannot = |error: io::Error| format!("/dev/net/tun: {error}");
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let device = options.open("/dev/net/tun").map_err(cannot)?;
    let mut name = [0; 16];
    name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    let request = DeviceRequest { name, flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    // SAFETY: the kernel reads and writes a `struct ifreq`, which has this form and outlives the call.
    #[allow(unsafe_code)]
    let made = unsafe { ioctl(&device, Setter::<TUNSETIFF, DeviceRequest>::new(request)) };
    made.map_err(|error| cannot(error.into()))?;
    Ok(device.into())
}

/// How many packets the device of this namespace has dropped.
fn dropped() -> Result<u64, String> {
    const TABLE: &str = "/proc/thread-self/net/dev";
    let table = fs::read_to_string(TABLE).map_err(|error| format!("{TABLE}: {error}"))?;
    let columns = table.lines().find_map(|line| {
        let (name, columns) = line.split_once(':')?;
        (name.trim() == DEVICE).then_some(columns)
    });
    // Eight columns of what was received come first; then bytes, packets, errors, drops.
    let found = columns.and_then(|columns| columns.split_whitespace().nth(11)?.parse().ok());
    found.ok_or_else(|| format!("{TABLE} does not tell what {DEVICE} has dropped"))
}

/// Sends a message with descriptors.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("too many descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message with its descriptors. `None` if the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = [0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&text[..received.bytes])?, descriptors)))
}
