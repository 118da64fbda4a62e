//! Mutual TLS: who may connect, and as whom. A certificate names its holder's [`Role`], and the services of a node
//! take the roles that they are for. Does not know what is called on a connection.
//!
//! The cluster's certificate authority (CA) is trusted, and nothing else: names of hosts are not checked, so a node
//! can move without a new certificate. A dialed node has to prove that it is the node that was meant, by the DNS name
//! that its certificate has for that: `master`, `r1`, `r2` and so on. TLS 1.3 only, without resumption: every
//! connection proves its identity in full, and a certificate that has expired makes no new ones.
//!
//! All of it is behind the feature `tls`. Without it, the same functions refuse, and say which build has it.

#[cfg(feature = "tls")]
mod authority;
#[cfg(not(feature = "tls"))]
mod disabled;
#[cfg(feature = "tls")]
mod enabled;
#[cfg(feature = "tls")]
mod files;

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

#[cfg(not(feature = "tls"))]
pub use self::disabled::{Authority, Tls, TlsStream};
#[cfg(feature = "tls")]
pub use self::{
    authority::Authority,
    enabled::{Tls, TlsStream},
};
use crate::protocol::{Node, Replicas};

/// Whether this build has TLS.
pub const AVAILABLE: bool = cfg!(feature = "tls");

/// The scheme of the URI that names the role, among the alternative names of a certificate.
const ROLE_SCHEME: &str = "twopc:";
/// The DNS name in the certificate of every node, for callers that do not know which node they dial.
#[cfg(feature = "tls")]
const ANY_NODE: &str = "node";

/// What the holder of a certificate may do. A certificate says it by one URI among its alternative names:
/// `twopc:node:master`, `twopc:node:r1`, `twopc:client` or `twopc:admin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A node: it serves, and exchanges messages with other nodes, as this node only.
    Node(Node),
    /// A client: it reads and writes.
    Client,
    /// An administrator: a client that may also inspect nodes.
    Admin,
}

impl Role {
    /// The URI of the role.
    #[must_use]
    pub fn uri(self) -> String {
        match self {
            Role::Node(node) => format!("{ROLE_SCHEME}node:{node}"),
            Role::Client => format!("{ROLE_SCHEME}client"),
            Role::Admin => format!("{ROLE_SCHEME}admin"),
        }
    }

    /// The role that the URIs of a certificate name, if they name exactly one.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "there are no certificates"))]
    fn of_uris<'a>(uris: impl IntoIterator<Item = &'a str>) -> Option<Role> {
        let mut ours = uris.into_iter().filter(|uri| uri.starts_with(ROLE_SCHEME));
        let (first, second) = (ours.next()?, ours.next());
        let role = match first.strip_prefix(ROLE_SCHEME)? {
            "client" => Role::Client,
            "admin" => Role::Admin,
            other => Role::Node(other.strip_prefix("node:")?.parse().ok()?),
        };
        // Written as it is always written: `r01` is not `r1`.
        (second.is_none() && role.uri() == first).then_some(role)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Node(node) => node.fmt(f),
            Role::Client => f.write_str("client"),
            Role::Admin => f.write_str("admin"),
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "client" => Ok(Role::Client),
            "admin" => Ok(Role::Admin),
            node => match node.parse() {
                Ok(Node::Replica(slot)) if slot > Replicas::MAX => {
                    Err(format!("invalid replica '{node}': a cluster has r1 to r{}", Replicas::MAX))
                }
                Ok(node) => Ok(Role::Node(node)),
                Err(_) => Err(format!(
                    "invalid role '{node}': expected master, r1, r2, …, client or admin"
                )),
            },
        }
    }
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Anybody: the connection has no TLS, so nobody is told apart.
    Anybody,
    /// Somebody without a certificate.
    Stranger,
    /// Somebody with a certificate of the CA that names no role, or several.
    Roleless,
    /// The holder of a certificate with this role.
    Known(Role),
}

/// The files of an identity, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the authorities that are trusted: one, or two while one replaces the other.
    pub ca: PathBuf,
    /// The certificate, followed by intermediate ones if there are any.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

/// A certificate to be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The name of the files: `NAME.crt` and `NAME.key`, and the common name in the certificate.
    pub name: String,
    /// The role of the holder.
    pub role: Role,
    /// Names or addresses of hosts, for clients of other projects that check them.
    pub hosts: Vec<String>,
    /// How long it is valid. At most as long as the CA.
    pub validity: Duration,
}

/// TLS cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The build has no TLS.
    #[error(
        "this build has no TLS: `cargo build --release -p system` makes programs that have it, and \
         `cargo run -p harness --features tls` a harness that has it"
    )]
    NotBuilt,
    /// A file cannot be read or written.
    #[error("{}: cannot be {done}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What cannot be done with it: `read` or `written`.
        done: &'static str,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
    /// A file exists that must not be overwritten.
    #[error("{}: exists, and is not overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file has not the content that it should have.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A request for a certificate is not valid.
    #[error("{0}")]
    Request(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_has_one_role_or_none() {
        for role in [
            Role::Node(Node::Master),
            Role::Node(Node::Replica(1)),
            Role::Node(Node::Replica(64)),
            Role::Client,
            Role::Admin,
        ] {
            let uri = role.uri();
            assert_eq!(Role::of_uris([uri.as_str()]), Some(role));
            assert_eq!(Role::of_uris(["https://example.com", &uri]), Some(role));
            assert_eq!(Role::of_uris([uri.as_str(), "twopc:admin"]), None, "{uri} and another");
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        for wrong in [
            "twopc:",
            "twopc:node",
            "twopc:node:",
            "twopc:node:r0",
            "twopc:node:r01",
            "twopc:node:r+1",
            "twopc:node:r256",
            "twopc:Admin",
            "twopc:admin ",
            "admin",
            "twopc:admin:x",
        ] {
            assert_eq!(Role::of_uris([wrong]), None, "{wrong}");
        }
        assert!("r65".parse::<Role>().is_err() && "root".parse::<Role>().is_err());
    }
}
