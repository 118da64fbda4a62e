//! IPv4 packets, as far as the switch looks into them. What is no such packet is `None`, never a panic.

use std::net::{Ipv4Addr, SocketAddrV4};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

const IPV4_HEADER_BYTES: usize = 20;
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const ICMP_HEADER_BYTES: usize = 8;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The destination of a packet.
pub(super) fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let header = packet.get(..IPV4_HEADER_BYTES)?;
    (header[0] >> 4 == 4).then(|| address(&header[16..20]))
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

/// Where the parts of a packet are.
struct Layout {
    protocol: u8,
    /// Where the transport header begins.
    transport: usize,
    /// Where the packet ends.
    end: usize,
}

/// Finds the parts of a packet that is no later fragment of another one.
fn layout(packet: &[u8]) -> Option<Layout> {
    let header = packet.get(..IPV4_HEADER_BYTES)?;
    let transport = usize::from(header[0] & 0x0f) * 4;
    let end = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    let fits = header[0] >> 4 == 4
        && (IPV4_HEADER_BYTES..=end).contains(&transport)
        && end <= packet.len()
        && !is_later_fragment;
    fits.then_some(Layout { protocol: header[9], transport, end })
}

/// What the switch knows of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    /// The number of its first byte.
    pub(super) sequence: u32,
    /// The number of the first byte that follows it.
    pub(super) next: u32,
    /// The first byte that its sender has not received. `None` in the first segment of a connection.
    pub(super) acknowledged: Option<u32>,
    /// Whether it opens its direction of the connection.
    pub(super) opens: bool,
    /// Whether it ends its direction of the connection.
    pub(super) ends: bool,
    /// Whether it resets the connection.
    pub(super) is_reset: bool,
}

/// The TCP segment in a packet, if it has one.
pub(super) fn segment(packet: &[u8]) -> Option<Segment> {
    let Layout { protocol, transport, end } = layout(packet)?;
    let header = packet.get(transport..end)?;
    if protocol != TCP || header.len() < TCP_HEADER_BYTES {
        return None;
    }
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| header[at + n]));
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (sequence, flags) = (number(4), header[13]);
    let data = header.len().checked_sub(usize::from(header[12] >> 4) * 4)?;
    // A SYN and a FIN take a number each.
    let taken = data + usize::from(flags & SYN != 0) + usize::from(flags & FIN != 0);
    Some(Segment {
        from: SocketAddrV4::new(address(&packet[12..16]), port(0)),
        to: SocketAddrV4::new(address(&packet[16..20]), port(2)),
        sequence,
        next: sequence.wrapping_add(u32::try_from(taken).ok()?),
        acknowledged: (flags & ACK != 0).then(|| number(8)),
        opens: flags & SYN != 0,
        ends: flags & FIN != 0,
        is_reset: flags & RST != 0,
    })
}

/// A packet that resets a connection, as if `from` had sent it.
pub(super) fn reset(
    from: SocketAddrV4,
    to: SocketAddrV4,
    sequence: u32,
    acknowledged: u32,
) -> Vec<u8> {
    const BYTES: usize = IPV4_HEADER_BYTES + TCP_HEADER_BYTES;
    let mut packet = vec![0; BYTES];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(BYTES as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = TCP;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    let header = checksum(sum(&packet[..IPV4_HEADER_BYTES]));
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[28..32].copy_from_slice(&acknowledged.to_be_bytes());
    packet[32] = 0x50;
    packet[33] = RST | ACK;
    repair(&mut packet, &Layout { protocol: TCP, transport: IPV4_HEADER_BYTES, end: BYTES });
    packet
}

/// Flips a bit of the payload and makes the checksum right again: with a wrong one, the packet would only be
/// lost. Returns whether there was a payload.
pub(super) fn corrupt(packet: &mut [u8], rng: &mut ChaCha8Rng) -> bool {
    let Some(layout) = layout(packet) else { return false };
    let Layout { protocol, transport, end } = layout;
    let header_bytes = match protocol {
        TCP => packet.get(transport + 12).map_or(0, |offset| usize::from(offset >> 4) * 4),
        UDP => UDP_HEADER_BYTES,
        ICMP => ICMP_HEADER_BYTES,
        _ => return false,
    };
    let payload = transport + header_bytes;
    let is_whole = header_bytes >= UDP_HEADER_BYTES && (protocol != TCP || header_bytes >= 20);
    if !is_whole || payload >= end {
        return false;
    }
    packet[rng.random_range(payload..end)] ^= 1 << rng.random_range(0..8);
    repair(packet, &layout);
    true
}

/// Computes the checksum of the transport header, which is all there.
fn repair(packet: &mut [u8], layout: &Layout) {
    let Layout { protocol, transport, end } = *layout;
    let at = transport + if protocol == TCP { 16 } else { 6 };
    let at = if protocol == ICMP { transport + 2 } else { at };
    if protocol == UDP && packet[at..at + 2] == [0, 0] {
        // The sender has left it out.
        return;
    }
    packet[at..at + 2].fill(0);
    let mut total = sum(&packet[transport..end]);
    if protocol != ICMP {
        // The pseudo header: both addresses, the protocol, the length.
        total += sum(&packet[12..20]) + u64::from(protocol) + (end - transport) as u64;
    }
    let value = match checksum(total) {
        0 if protocol == UDP => 0xffff,
        value => value,
    };
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    words.map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low))).sum()
}

fn checksum(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;

    use super::*;

    fn sockets() -> (SocketAddrV4, SocketAddrV4) {
        let at = |last, port| SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, last), port);
        (at(1, 40_000), at(2, 7101))
    }

    /// Whether the checksum over the transport header is right.
    fn is_right(packet: &[u8]) -> bool {
        let Layout { protocol, transport, end } = layout(packet).expect("it is a packet");
        let pseudo = sum(&packet[12..20]) + u64::from(protocol) + (end - transport) as u64;
        checksum(sum(&packet[transport..end]) + pseudo) == 0
    }

    #[test]
    fn a_reset_is_read_back_with_right_checksums() {
        let (from, to) = sockets();
        let packet = reset(from, to, 7, 9);
        assert_eq!(destination(&packet), Some(*to.ip()));
        let expected = Segment {
            from,
            to,
            sequence: 7,
            next: 7,
            acknowledged: Some(9),
            opens: false,
            ends: false,
            is_reset: true,
        };
        assert_eq!(segment(&packet), Some(expected));
        assert_eq!(checksum(sum(&packet[..20])), 0);
        assert!(is_right(&packet));
    }

    #[test]
    fn corruption_changes_one_bit_of_the_payload_and_repairs_the_checksum() {
        let (from, to) = sockets();
        let mut packet = reset(from, to, 7, 9);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert!(!corrupt(&mut packet.clone(), &mut rng), "there is no payload");
        packet.extend_from_slice(b"odd payload");
        let bytes = u16::try_from(packet.len()).expect("it is short");
        packet[2..4].copy_from_slice(&bytes.to_be_bytes());
        let mut corrupted = packet.clone();
        assert!(corrupt(&mut corrupted, &mut rng));
        let flipped = packet[40..].iter().zip(&corrupted[40..]);
        assert_eq!(flipped.map(|(before, after)| (before ^ after).count_ones()).sum::<u32>(), 1);
        assert_eq!((&packet[..36], &packet[38..40]), (&corrupted[..36], &corrupted[38..40]));
        assert!(is_right(&corrupted));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), plain: bool) {
            if plain && bytes.len() > 9 {
                bytes[0] = 0x45;
                bytes[9] = [TCP, UDP, ICMP][usize::from(bytes[9] % 3)];
            }
            let _ = destination(&bytes);
            let _ = segment(&bytes);
            corrupt(&mut bytes, &mut ChaCha8Rng::seed_from_u64(0));
        }
    }
}
