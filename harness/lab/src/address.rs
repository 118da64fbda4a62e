//! A loopback address reserved for one run. Its nodes find their ports free however often they
//! restart, and never meet the nodes of another run.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use rand::RngExt;

/// The port whose listener marks an address as reserved. Nodes use the ports above it.
const CLAIM_PORT: u16 = 7100;

/// The first port of a node, at a loopback address and elsewhere.
pub const FIRST_PORT: u16 = CLAIM_PORT + 1;

/// How many random addresses are tried before [`Address::claim`] fails.
const ATTEMPTS_MAX: u32 = 64;

/// An address in 127.0.0.0/8 that no other run uses while this value lives.
#[derive(Debug)]
pub struct Address {
    ip: Ipv4Addr,
    /// Nobody connects to it: the bound port itself is the reservation.
    _claim: TcpListener,
}

impl Address {
    /// Reserves an address on which `ports` consecutive ports are free.
    ///
    /// # Errors
    /// None of many randomly chosen addresses is free.
    pub fn claim(ports: u16) -> io::Result<Self> {
        let mut rng = rand::rng();
        let mut last = io::Error::other("no loopback address was tried");
        for _ in 0..ATTEMPTS_MAX {
            let ip = Ipv4Addr::new(
                127,
                rng.random_range(1..=254),
                rng.random_range(1..=254),
                rng.random_range(1..=254),
            );
            match Self::try_claim(ip, ports) {
                Ok(address) => return Ok(address),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn try_claim(ip: Ipv4Addr, ports: u16) -> io::Result<Self> {
        let claim = TcpListener::bind((ip, CLAIM_PORT))?;
        for port in 1..=ports {
            TcpListener::bind((ip, CLAIM_PORT + port))?;
        }
        Ok(Address { ip, _claim: claim })
    }

    /// The socket address of port number `n`, counted from 0.
    #[must_use]
    pub fn socket(&self, n: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip), FIRST_PORT + n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_claimed_once_and_its_ports_are_free() -> io::Result<()> {
        let address = Address::claim(4)?;
        assert!(Address::try_claim(address.ip, 4).is_err());
        for n in 0..4 {
            TcpListener::bind(address.socket(n))?;
        }
        let ip = address.ip;
        drop(address);
        Address::try_claim(ip, 4)?;
        Ok(())
    }

    #[test]
    fn an_address_with_a_port_in_use_is_not_claimed() -> io::Result<()> {
        let address = Address::claim(2)?;
        let ip = address.ip;
        let _used = TcpListener::bind(address.socket(1))?;
        drop(address);
        assert!(Address::try_claim(ip, 2).is_err());
        Address::try_claim(ip, 1)?;
        Ok(())
    }
}
