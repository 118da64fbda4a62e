//! A loopback address that belongs to one run, so that its nodes find their ports free however
//! often they restart, and never meet the nodes of another run.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use rand::RngExt;

/// The port that marks an address as taken; nodes listen on the ports above it.
const CLAIM_PORT: u16 = 7100;

/// An address of 127.0.0.0/8 that no other run uses while this value lives.
#[derive(Debug)]
pub(super) struct Address {
    ip: Ipv4Addr,
    /// Nobody ever connects to it; that it is bound is the claim.
    _claim: TcpListener,
}

impl Address {
    /// Claims an address on which `ports` ports are free.
    ///
    /// # Errors
    /// None of many addresses drawn at random is free.
    pub(super) fn claim(ports: u16) -> io::Result<Self> {
        let mut rng = rand::rng();
        let mut last = io::Error::other("no loopback address was tried");
        for _ in 0..64 {
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

    /// The socket address of the `n`-th node, counted from 0.
    #[must_use]
    pub(super) fn node(&self, n: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip), CLAIM_PORT + 1 + n)
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
            TcpListener::bind(address.node(n))?;
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
        let _used = TcpListener::bind(address.node(1))?;
        drop(address);
        assert!(Address::try_claim(ip, 2).is_err());
        Address::try_claim(ip, 1)?;
        Ok(())
    }
}
