//! Identities in use: how a connection proves who is at either end. An identity is replaced as a whole when its files
//! have changed; connections keep the one that they were made with.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::SystemTime,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use time::{Duration, OffsetDateTime};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{ANY_NODE, Caller, Role, TlsError, TlsFiles, files, files::Facts};
use crate::{meter::Transport, protocol::Node};

/// The only protocol that is spoken over TLS.
const HTTP2: &[u8] = b"h2";
/// A certificate that expires within this time is reported when it is loaded.
const EXPIRES_SOON: Duration = Duration::days(14);

/// An identity: a certificate with its key, and the authorities that it trusts.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    /// The role that the certificate has to have, if only one will do.
    expected: Option<Role>,
    loaded: RwLock<Arc<Loaded>>,
}

/// What the files contained when they were read last.
struct Loaded {
    role: Role,
    not_after: OffsetDateTime,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loaded({})", self.role)
    }
}

impl Tls {
    /// Loads an identity from its files. If a role is given, the certificate must have it.
    ///
    /// # Errors
    /// A file cannot be read, or they do not make an identity that others would accept: the key belongs to another
    /// certificate, the CA has not signed it, it has expired or names another role.
    pub fn load(files: TlsFiles, expected: Option<Role>) -> Result<Arc<Self>, TlsError> {
        let loaded = RwLock::new(Arc::new(Loaded::read(&files, expected)?));
        Ok(Arc::new(Tls { files, expected, loaded }))
    }

    /// Loads the files again. New connections use what they contain now; those that are open go on.
    ///
    /// # Errors
    /// As for [`Tls::load`]. The identity then stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = Arc::new(Loaded::read(&self.files, self.expected)?);
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// The role and the validity of the certificate, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let loaded = self.current();
        let left = loaded.not_after - OffsetDateTime::now_utc();
        let soon = if left < EXPIRES_SOON { ": renew it" } else { "" };
        format!(
            "{}, certificate of {}, valid until {} ({} days){soon}",
            self.files.certificate.display(),
            loaded.role,
            loaded.not_after.date(),
            left.whole_days()
        )
    }

    /// When the certificate expires.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.current().not_after.into()
    }

    fn current(&self) -> Arc<Loaded> {
        // No code panics while it replaces the identity.
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the handshake of an accepted connection, as a node.
    ///
    /// # Errors
    /// The other side does not speak TLS 1.3, or has a certificate that is not valid.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream, Caller)> {
        let acceptor = self.current().acceptor.clone();
        let stream = acceptor.accept(stream).await.map_err(handshake_failed)?;
        let caller = match stream.get_ref().1.peer_certificates() {
            None | Some([]) => Caller::Stranger,
            Some([certificate, ..]) => Facts::of(certificate)
                .and_then(|facts| facts.role)
                .map_or(Caller::Roleless, Caller::Known),
        };
        Ok((TlsStream(stream.into()), caller))
    }

    /// Makes the handshake of a dialed connection. The other side must be this node, or any node if none is given.
    /// That it accepts this identity shows only when it sends something.
    ///
    /// # Errors
    /// The other side does not speak TLS 1.3, or is not that node.
    pub async fn connect(&self, stream: TcpStream, to: Option<Node>) -> io::Result<TlsStream> {
        let name = to.map_or_else(|| ANY_NODE.to_owned(), |node| node.to_string());
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let connector = self.current().connector.clone();
        let stream = connector.connect(name, stream).await.map_err(handshake_failed)?;
        Ok(TlsStream(stream.into()))
    }
}

impl Loaded {
    fn read(files: &TlsFiles, expected: Option<Role>) -> Result<Self, TlsError> {
        let roots = trusted(&files.ca)?;
        let chain = files::certificates(&files.certificate)?;
        let key = files::key(&files.key)?;
        let at = files.certificate.as_path();
        let facts = Facts::of(&chain[0]).ok_or_else(|| files::content(at, "is not valid X.509"))?;
        let role = role(at, &facts, expected)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(&roots, &provider, &files.ca)?;
        check(&*verifier, &chain, &facts, files)?;
        let unusable = |error: Error| match error {
            Error::InconsistentKeys(_) => files::content(
                &files.key,
                format!("is not the key of the certificate in {}", at.display()),
            ),
            error => files::content(at, error.to_string()),
        };
        let acceptor = server(&provider, verifier, chain.clone(), key.clone_key());
        let connector = client(&provider, roots, chain, key);
        Ok(Loaded {
            role,
            not_after: facts.not_after,
            acceptor: Arc::new(acceptor.map_err(unusable)?).into(),
            connector: Arc::new(connector.map_err(unusable)?).into(),
        })
    }
}

/// The authorities of a file.
fn trusted(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for (certificate, number) in files::certificates(path)?.into_iter().zip(1..) {
        if !Facts::of(&certificate).is_some_and(|facts| facts.is_ca) {
            let why = format!("certificate {number} is not one of an authority");
            return Err(files::content(path, why));
        }
        roots.add(certificate).map_err(|error| files::content(path, error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// The role of this identity's certificate.
fn role(path: &Path, facts: &Facts, expected: Option<Role>) -> Result<Role, TlsError> {
    let Some(role) = facts.role else {
        let why = format!(
            "the certificate has no role: among its alternative names there must be one URI such as '{}'",
            expected.unwrap_or(Role::Client).uri()
        );
        return Err(files::content(path, why));
    };
    match expected {
        Some(expected) if expected != role => Err(files::content(
            path,
            format!("is the certificate of {role}, and this is {expected}"),
        )),
        _ => Ok(role),
    }
}

/// What checks the certificates of callers. They may come without one, since the health service is for everybody.
fn verifier(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    path: &Path,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| files::content(path, error.to_string()))
}

/// Checks this identity as others will: better refused here, with the reason, than by all of them.
fn check(
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'_>],
    facts: &Facts,
    files: &TlsFiles,
) -> Result<(), TlsError> {
    let checked = verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now());
    let why = match checked {
        Ok(_) => return Ok(()),
        Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => format!(
            "the certificate expired on {}: renew it, with `client cert renew` if that made it",
            facts.not_after.date()
        ),
        Err(Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        )) => format!("the certificate is not valid before {}", facts.not_before),
        Err(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => format!("the certificate is not signed by the CA in {}", files.ca.display()),
        Err(error) => error.to_string(),
    };
    Err(files::content(&files.certificate, why))
}

fn server(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The error of a connection, in words for whoever has to repair it.
fn described(error: io::Error) -> io::Error {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match of_tls {
        Some(of_tls) => io::Error::new(error.kind(), words(of_tls)),
        // The process has ended, or nobody knows what cut the connection.
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            io::Error::new(error.kind(), "the connection ended without the farewell of TLS")
        }
        None => error,
    }
}

/// The error of a handshake.
fn handshake_failed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(
            error.kind(),
            "the other side closed the connection during the TLS handshake; does it speak TLS?",
        ),
        _ => described(error),
    }
}

fn words(error: &Error) -> String {
    match error {
        Error::AlertReceived(AlertDescription::UnknownCA) => {
            "the other side refuses this certificate: its CA has not signed it".into()
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "the other side refuses this certificate: it has expired".into()
        }
        Error::AlertReceived(alert) => format!("the other side ended the TLS handshake: {alert:?}"),
        Error::InvalidMessage(_) => "the other side does not speak TLS".into(),
        Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the certificate of the other side is not signed by the CA that is trusted here"
                    .into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate of the other side has expired".into()
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let dns = |name: &String| Some(name.strip_prefix("DnsName(\"")?.to_owned());
                let name = presented.iter().find_map(dns).unwrap_or_default();
                let other = name.trim_end_matches("\")");
                format!("the other side is not {}, but {other}", expected.to_str())
            }
            why => format!("the certificate of the other side is not valid: {why}"),
        },
        error => format!("TLS failed: {error}"),
    }
}

/// A connection with TLS, of either side.
#[derive(Debug)]
pub struct TlsStream(tokio_rustls::TlsStream<TcpStream>);

impl Transport for TlsStream {
    fn has_sent_all(&self) -> bool {
        !self.0.get_ref().1.wants_write()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The other side may refuse this one's certificate only after the handshake.
        Pin::new(&mut self.0).poll_read(cx, buf).map_err(described)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
