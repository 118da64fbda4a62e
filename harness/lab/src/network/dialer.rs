//! How clients within this process connect.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::Socket;
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    task::spawn_blocking,
};

use super::{Host, Network, Transport};

/// Opens connections from a host of a [`Network`], or from this machine.
#[derive(Clone, Default)]
pub struct Dialer(Option<(Arc<Network>, Host)>);

impl Dialer {
    /// The dialer of a worker's client.
    #[must_use]
    pub fn of_client(network: Option<&Arc<Network>>, worker: u32) -> Self {
        Dialer(network.map(|network| (network.clone(), network.client(worker))))
    }

    /// The dialer of whoever watches the nodes.
    #[must_use]
    pub fn of_control(network: Option<&Arc<Network>>) -> Self {
        Dialer(network.map(|network| (network.clone(), Host::Control)))
    }

    /// Connects to an address and port.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn connect(&self, authority: &str) -> io::Result<TcpStream> {
        let Some((network, host)) = self.0.clone() else {
            return TcpStream::connect(authority).await;
        };
        let address: SocketAddr = match authority.parse() {
            Ok(address) => address,
            Err(_) => lookup_host(authority).await?.next().ok_or(io::ErrorKind::NotFound)?,
        };
        let socket = spawn_blocking(move || network.socket(&host, Transport::Tcp))
            .await
            .map_err(io::Error::other)??;
        TcpSocket::from_std_stream(socket.into()).connect(address).await
    }

    /// Whether an address accepts a connection within this time. For callers that cannot wait asynchronously.
    #[must_use]
    pub fn accepts(&self, address: SocketAddr, deadline: Duration) -> bool {
        let Some((network, host)) = &self.0 else {
            return std::net::TcpStream::connect_timeout(&address, deadline).is_ok();
        };
        let Ok(socket) = network.socket(host, Transport::Tcp) else { return false };
        Socket::from(socket).connect_timeout(&address.into(), deadline).is_ok()
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((_, host)) => write!(f, "Dialer({host})"),
            None => f.write_str("Dialer"),
        }
    }
}
