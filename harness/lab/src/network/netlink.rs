//! Configures the network devices of the namespace that the calling thread is in, over rtnetlink.

use std::{io, net::Ipv4Addr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;

/// The bytes of the header of a message.
const HEADER_BYTES: usize = 16;

/// A connection to the kernel.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Netlink> {
        let flags = SocketFlags::CLOEXEC;
        // The default protocol is that of routes.
        Ok(Netlink(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?))
    }

    /// Switches a device on.
    pub(super) fn set_up(
        &self,
        device: u32,
        attributes: &[(LinkAttribute, u32)],
    ) -> io::Result<()> {
        let mut body = vec![0; 4];
        body.extend(device.to_ne_bytes());
        // The flags, and which of them change.
        body.extend([IFF_UP.to_ne_bytes(), IFF_UP.to_ne_bytes()].concat());
        for (kind, value) in attributes {
            attribute(&mut body, *kind as u16, value.to_ne_bytes());
        }
        self.request(RTM_NEWLINK, 0, &body)
    }

    /// Gives a device an address in a network of which `prefix` bits are common.
    pub(super) fn add_address(&self, device: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut body = vec![AF_INET, prefix, 0, 0];
        body.extend(device.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, address.octets());
        attribute(&mut body, IFA_ADDRESS, address.octets());
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body)
    }

    /// Sends a request and waits until it was obeyed.
    fn request(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let bytes = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let mut message = bytes.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        // The number of the request and of the port: there is one request at a time.
        message.extend([0; 8]);
        message.extend(body);
        send(&self.0, &message, SendFlags::empty())?;
        let mut answer = [0_u8; 4096];
        let (_, length) = recv(&self.0, &mut answer, RecvFlags::empty())?;
        let code = match answer[..length.min(answer.len())].get(..HEADER_BYTES + 4) {
            Some(head) if u16::from_ne_bytes([head[4], head[5]]) == NLMSG_ERROR => {
                i32::from_ne_bytes([head[16], head[17], head[18], head[19]])
            }
            _ => return Err(io::Error::other("the kernel's answer is not understood")),
        };
        match code {
            0 => Ok(()),
            code => Err(Errno::from_raw_os_error(-code).into()),
        }
    }
}

/// An attribute of a device.
#[derive(Clone, Copy)]
pub(super) enum LinkAttribute {
    /// The most bytes of a packet.
    Mtu = IFLA_MTU as isize,
    /// The most packets that wait to be sent.
    QueueLength = IFLA_TXQLEN as isize,
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend(8_u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}
