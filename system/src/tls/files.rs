//! Certificates and keys in files: reads them within bounds, and tells what a certificate says. Trusts nothing.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};
use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::{Role, TlsError};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Everyone but the owner and the group.
const OTHERS: u32 = 0o007;

/// What a certificate says.
#[derive(Debug)]
pub(super) struct Facts {
    /// The role of its holder, if it names exactly one.
    pub(super) role: Option<Role>,
    pub(super) is_ca: bool,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    /// The alternative names, as text.
    pub(super) hosts: Vec<String>,
}

impl Facts {
    /// What a certificate says, or none if it cannot be parsed.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let validity = certificate.validity();
        rest.is_empty().then(|| Facts {
            role: Role::of_uris(uris),
            is_ca: certificate.is_ca(),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            hosts: names.iter().filter_map(host).collect(),
        })
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            Some(v4.or_else(|_| v6()).ok()?.to_string())
        }
        _ => None,
    }
}

/// Why the content of a file is of no use.
pub(super) fn content(path: &Path, why: impl Into<String>) -> TlsError {
    TlsError::Content { path: path.to_owned(), why: why.into() }
}

/// Reads the certificates of a file: one at least.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(&open(path)?, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| malformed(path, "certificate", &error))?;
    match found.iter().position(|der| Facts::of(der).is_none()) {
        _ if found.is_empty() => Err(malformed(path, "certificate", &pem::Error::NoItemsFound)),
        Some(at) => Err(content(path, format!("certificate {} is not valid X.509", at + 1))),
        None => Ok(found),
    }
}

/// Reads the private key of a file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let file = open(path)?;
    let mode = file.metadata().map_err(|cause| unreadable(path, cause))?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(content(
            path,
            format!(
                "everybody on this machine has access to this key (mode {:04o}): chmod 600, and if others \
                 may have read it, make another one",
                mode & 0o7777
            ),
        ));
    }
    PrivateKeyDer::from_pem_slice(&read(&file, path)?)
        .map_err(|error| malformed(path, "private key", &error))
}

fn open(path: &Path) -> Result<File, TlsError> {
    File::open(path).map_err(|cause| unreadable(path, cause))
}

fn read(file: &File, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    // One byte more, to tell a file of the largest size from a larger one.
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|cause| unreadable(path, cause))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(content(path, "is larger than 1 MiB: expected certificates or a key, in PEM"));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, cause: io::Error) -> TlsError {
    TlsError::File { path: path.to_owned(), done: "read", cause }
}

fn malformed(path: &Path, what: &str, error: &pem::Error) -> TlsError {
    let why = match error {
        pem::Error::NoItemsFound => format!("has no {what} in PEM"),
        error => format!("expected a {what} in PEM: {error}"),
    };
    content(path, why)
}
