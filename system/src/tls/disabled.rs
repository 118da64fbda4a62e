//! TLS in a build without it: nothing of it can exist, and whoever asks for it is told which build has it.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{Caller, CertificateRequest, Role, TlsError, TlsFiles};
use crate::{meter::Transport, protocol::Node};

/// An identity, of which there is none in this build.
#[derive(Debug)]
pub enum Tls {}

impl Tls {
    /// Refuses: this build has no TLS.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: TlsFiles, _: Option<Role>) -> Result<Arc<Self>, TlsError> {
        Err(TlsError::NotBuilt)
    }

    /// Never called: there is no identity.
    ///
    /// # Errors
    /// Never.
    pub fn reload(&self) -> Result<(), TlsError> {
        match *self {}
    }

    /// Never called: there is no identity.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        match *self {}
    }

    /// Never called: there is no identity.
    #[must_use]
    pub fn describe(&self) -> String {
        match *self {}
    }

    /// Never called: there is no identity.
    ///
    /// # Errors
    /// Never.
    pub async fn accept(&self, _: TcpStream) -> io::Result<(TlsStream, Caller)> {
        match *self {}
    }

    /// Never called: there is no identity.
    ///
    /// # Errors
    /// Never.
    pub async fn connect(&self, _: TcpStream, _: Option<Node>) -> io::Result<TlsStream> {
        match *self {}
    }
}

/// A connection, of which there is none in this build.
#[derive(Debug)]
pub enum TlsStream {}

impl Transport for TlsStream {
    fn has_sent_all(&self) -> bool {
        match *self {}
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match *self {}
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}

/// A certificate authority, of which there is none in this build.
#[derive(Debug)]
pub enum Authority {}

impl Authority {
    /// Refuses: this build has no TLS.
    ///
    /// # Errors
    /// Always.
    pub fn create(_: &Path, _: Duration) -> Result<Self, TlsError> {
        Err(TlsError::NotBuilt)
    }

    /// Refuses: this build has no TLS.
    ///
    /// # Errors
    /// Always.
    pub fn open(_: &Path) -> Result<Self, TlsError> {
        Err(TlsError::NotBuilt)
    }

    /// Never called: there is no authority.
    ///
    /// # Errors
    /// Never.
    pub fn issue(&self, _: &CertificateRequest) -> Result<String, TlsError> {
        match *self {}
    }

    /// Never called: there is no authority.
    ///
    /// # Errors
    /// Never.
    pub fn renew(&self, _: &str, _: Duration) -> Result<String, TlsError> {
        match *self {}
    }
}
