//! The certificates of a run with TLS: a CA of its own, and an identity for every node, for the clients and for the
//! harness itself, which inspects nodes as an administrator.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use system::{
    protocol::Node,
    tls::{Authority, CertificateRequest, Role, Tls, TlsError, TlsFiles},
};

/// Longer than any run.
const VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The certificates of a run.
#[derive(Debug)]
pub struct Certificates {
    dir: PathBuf,
    identities: BTreeMap<Role, Arc<Tls>>,
}

impl Certificates {
    /// Makes a CA in this directory, and a certificate for each of these nodes, the clients and the harness.
    ///
    /// # Errors
    /// This build has no TLS, or a file cannot be written.
    pub fn create(
        dir: PathBuf,
        nodes: impl IntoIterator<Item = Node>,
    ) -> Result<Arc<Self>, TlsError> {
        let authority = Authority::create(&dir, VALIDITY)?;
        let roles = nodes.into_iter().map(Role::Node).chain([Role::Client, Role::Admin]);
        let issue = |role: Role| {
            let name = role.to_string();
            authority.issue(&CertificateRequest {
                name,
                role,
                hosts: vec![],
                validity: VALIDITY,
            })?;
            Ok((role, Tls::load(files(&dir, role), Some(role))?))
        };
        let identities = roles.map(issue).collect::<Result<_, TlsError>>()?;
        Ok(Arc::new(Certificates { dir, identities }))
    }

    /// The identity with this role.
    ///
    /// # Panics
    /// There is no such node in the run.
    #[must_use]
    pub fn identity(&self, role: Role) -> Arc<Tls> {
        self.identities[&role].clone()
    }

    /// The section of the nodes' configuration that names their files.
    #[must_use]
    pub fn config_section(&self) -> String {
        let path = |file: &str| toml_string(&self.dir.join(file));
        format!(
            "[tls]\nca = {}\ncertificate = {}\nkey = {}\n",
            path("ca.crt"),
            path("{name}.crt"),
            path("{name}.key")
        )
    }
}

fn files(dir: &Path, role: Role) -> TlsFiles {
    TlsFiles {
        ca: dir.join("ca.crt"),
        certificate: dir.join(format!("{role}.crt")),
        key: dir.join(format!("{role}.key")),
    }
}

/// A path as a string of TOML.
fn toml_string(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}
