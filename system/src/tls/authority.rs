//! A certificate authority in a directory: its own certificate and key, and those that it has issued. For clusters
//! whose operators have none of their own.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::{ANY_NODE, CertificateRequest, Role, TlsError, files, files::Facts};

/// The name of the authority's files.
const CA: &str = "ca";
/// The longest name of a certificate.
const NAME_BYTES_MAX: usize = 64;
/// Clocks of other machines may be late by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);
/// Who may read a certificate, and who a key.
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

/// An authority, with its key.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// When its own certificate expires. None that it issues lasts longer.
    not_after: OffsetDateTime,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.dir.display())
    }
}

impl Authority {
    /// Creates an authority in a directory, which is created if it is missing: `ca.crt`, and `ca.key` that only its
    /// owner can read.
    ///
    /// # Errors
    /// There is one already, or a file cannot be written.
    pub fn create(dir: &Path, validity: Duration) -> Result<Self, TlsError> {
        fs::create_dir_all(dir).map_err(|cause| unwritable(dir, cause))?;
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let mut params = CertificateParams::default();
        // Two authorities have two names, so that a file with both of them is clear about which is which.
        let name = format!("twopc CA {:016x}", rand::random::<u64>());
        params.distinguished_name = distinguished_name(&name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let not_after = validate(&mut params, validity, None);
        let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
        write_new(dir, CA, &certificate, &key)?;
        Ok(Authority { dir: dir.to_owned(), issuer: Issuer::new(params, key), not_after })
    }

    /// Opens the authority of a directory.
    ///
    /// # Errors
    /// Its files cannot be read or are not those of an authority.
    pub fn open(dir: &Path) -> Result<Self, TlsError> {
        let (path, key_path) = paths(dir, CA);
        // The first certificate is this one; others may follow while a former authority is replaced.
        let certificate = files::certificates(&path)?.swap_remove(0);
        let facts = Facts::of(&certificate).filter(|facts| facts.is_ca);
        let facts = facts.ok_or_else(|| files::content(&path, "is not one of an authority"))?;
        let unusable = |error: rcgen::Error| files::content(&key_path, error.to_string());
        let key = KeyPair::try_from(&files::key(&key_path)?).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key);
        let issuer = issuer.map_err(|error| files::content(&path, error.to_string()))?;
        Ok(Authority { dir: dir.to_owned(), issuer, not_after: facts.not_after })
    }

    /// Issues a certificate: `NAME.crt`, and `NAME.key` that only its owner can read. Returns a description.
    ///
    /// # Errors
    /// The request is not valid, there is such a file already, or it cannot be written.
    pub fn issue(&self, request: &CertificateRequest) -> Result<String, TlsError> {
        let (certificate, key, not_after) = self.sign(request)?;
        write_new(&self.dir, &request.name, &certificate, &key)?;
        Ok(self.describe(request, not_after))
    }

    /// Replaces a certificate that this command has issued, and its key, by new ones with the same role and hosts.
    /// Nodes that run use them when they are told to.
    ///
    /// # Errors
    /// There is no such certificate, or a file cannot be written.
    pub fn renew(&self, name: &str, validity: Duration) -> Result<String, TlsError> {
        check_name(name)?;
        let (path, _) = paths(&self.dir, name);
        let facts = Facts::of(&files::certificates(&path)?[0]);
        let role = facts.as_ref().and_then(|facts| facts.role);
        let (Some(facts), Some(role)) = (facts, role) else {
            return Err(files::content(&path, "has no role, so it is not one that can be renewed"));
        };
        let own = names(role);
        let hosts = facts.hosts.into_iter().filter(|host| !own.contains(host)).collect();
        let request = CertificateRequest { name: name.to_owned(), role, hosts, validity };
        let (certificate, key, not_after) = self.sign(&request)?;
        replace(&self.dir, name, &certificate, &key)?;
        Ok(self.describe(&request, not_after))
    }

    fn describe(&self, request: &CertificateRequest, not_after: OffsetDateTime) -> String {
        let (path, key) = paths(&self.dir, &request.name);
        let (path, key, date) = (path.display(), key.display(), not_after.date());
        format!("{path} and {key}: {} ({}), valid until {date}", request.role, request.role.uri())
    }

    fn sign(
        &self,
        request: &CertificateRequest,
    ) -> Result<(Certificate, KeyPair, OffsetDateTime), TlsError> {
        check_name(&request.name)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&request.name);
        params.subject_alt_names = alternative_names(request)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if let Role::Node(_) = request.role {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        let not_after = validate(&mut params, request.validity, Some(self.not_after));
        if not_after <= OffsetDateTime::now_utc() {
            let path = paths(&self.dir, CA).0;
            return Err(files::content(&path, "has expired: create another CA"));
        }
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| failed(&error))?;
        Ok((certificate, key, not_after))
    }
}

/// Sets the validity of a certificate, which ends with that of its issuer at the latest. Returns when it ends.
fn validate(
    params: &mut CertificateParams,
    validity: Duration,
    latest: Option<OffsetDateTime>,
) -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    // Later than certificates can say: as late as they can.
    let wanted = now.checked_add(validity.try_into().unwrap_or(time::Duration::MAX));
    let most = rcgen::date_time_ymd(9999, 12, 31);
    let not_after = wanted.unwrap_or(most).min(latest.unwrap_or(most)).min(most);
    params.not_before = now - CLOCK_SKEW;
    params.not_after = not_after;
    not_after
}

fn distinguished_name(name: &str) -> rcgen::DistinguishedName {
    let mut distinguished = rcgen::DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// The DNS names that a certificate has because of its role: nothing but a node may have them.
fn names(role: Role) -> Vec<String> {
    match role {
        Role::Node(node) => vec![node.to_string(), ANY_NODE.to_owned()],
        Role::Client | Role::Admin => Vec::new(),
    }
}

fn alternative_names(request: &CertificateRequest) -> Result<Vec<SanType>, TlsError> {
    let invalid = |what: &str| TlsError::Request(format!("'{what}' is not a name of a host"));
    if !request.hosts.is_empty() && !matches!(request.role, Role::Node(_)) {
        return Err(TlsError::Request("only a node has hosts: nobody connects to a client".into()));
    }
    let uri = request.role.uri();
    let mut all = vec![SanType::URI(uri.as_str().try_into().map_err(|_| invalid(&uri))?)];
    for name in names(request.role) {
        all.push(SanType::DnsName(name.as_str().try_into().map_err(|_| invalid(&name))?));
    }
    for host in &request.hosts {
        // Such a name says which node this is, to those who dial it.
        if host == ANY_NODE || host.parse::<crate::protocol::Node>().is_ok() {
            return Err(TlsError::Request(format!(
                "'{host}' cannot be a host: it is the name of a node"
            )));
        }
        all.push(match host.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) if rustls::pki_types::DnsName::try_from(host.as_str()).is_ok() => {
                SanType::DnsName(host.as_str().try_into().map_err(|_| invalid(host))?)
            }
            Err(_) => return Err(invalid(host)),
        });
    }
    Ok(all)
}

/// Checks the name of a certificate, which is part of the names of files.
fn check_name(name: &str) -> Result<(), TlsError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || name.starts_with('.')
        || !name.chars().all(is_plain)
    {
        return Err(TlsError::Request(format!(
            "invalid name '{}': expected 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' and '.', and no '.' first",
            crate::excerpt::excerpt(name)
        )));
    }
    if name == CA {
        return Err(TlsError::Request(format!("'{CA}' is the name of the authority")));
    }
    Ok(())
}

fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
}

fn failed(error: &rcgen::Error) -> TlsError {
    TlsError::Request(format!("the certificate cannot be made: {error}"))
}

fn unwritable(path: &Path, cause: io::Error) -> TlsError {
    let path = path.to_owned();
    match cause.kind() {
        io::ErrorKind::AlreadyExists => TlsError::Exists { path },
        _ => TlsError::File { path, done: "written", cause },
    }
}

/// Writes a certificate and its key to new files.
fn write_new(
    dir: &Path,
    name: &str,
    certificate: &Certificate,
    key: &KeyPair,
) -> Result<(), TlsError> {
    let (path, key_path) = paths(dir, name);
    // Both are looked for before one of them is made.
    if path.exists() {
        return Err(TlsError::Exists { path });
    }
    let new = |path: &Path, text: &str, mode| {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        file.and_then(|file| fill(file, text)).map_err(|cause| unwritable(path, cause))
    };
    new(&key_path, &key.serialize_pem(), KEY_MODE)?;
    new(&path, &certificate.pem(), CERTIFICATE_MODE)
}

/// Replaces a certificate and its key. Each file is replaced as a whole; whoever reads one of them between the two
/// finds that they do not fit together, and keeps what it had.
fn replace(
    dir: &Path,
    name: &str,
    certificate: &Certificate,
    key: &KeyPair,
) -> Result<(), TlsError> {
    let (path, key_path) = paths(dir, name);
    let files = [
        (&key_path, dir.join(format!("{name}.key.new")), key.serialize_pem(), KEY_MODE),
        (&path, dir.join(format!("{name}.crt.new")), certificate.pem(), CERTIFICATE_MODE),
    ];
    for (_, new, text, mode) in &files {
        // What an interrupted renewal left there was used by nobody.
        let _ = fs::remove_file(new);
        let file = OpenOptions::new().write(true).create_new(true).mode(*mode).open(new);
        file.and_then(|file| fill(file, text)).map_err(|cause| unwritable(new, cause))?;
    }
    for (path, new, ..) in &files {
        fs::rename(new, path).map_err(|cause| unwritable(path, cause))?;
    }
    Ok(())
}

fn fill(mut file: File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
