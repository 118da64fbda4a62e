//! The command `client cert`: makes a certificate authority (CA) and the certificates that it issues. Knows flags and
//! names, but not how a certificate is made.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::output::{ClientError, ExitStatus, print_line};
use crate::{
    protocol::Node,
    tls::{Authority, CertificateRequest, Role, TlsError},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const FILES: &str = "\
Everything is in one directory: ca.crt and ca.key, and NAME.crt and NAME.key for each certificate. Nothing is
overwritten but by renew. A node needs ca.crt and its own two files; ca.key should be on none of them.

  client cert create-ca
  client cert create-node master r1 r2 r3
  client cert create-client
  client cert create-admin

Then, in the configuration of the cluster, beside this directory:

  [tls]
  ca = \"certs/ca.crt\"
  certificate = \"certs/{name}.crt\"
  key = \"certs/{name}.key\"

To renew: client cert renew r1, copy the two files to the node, and send it SIGHUP. Its connections go on, new
ones use the new certificate.";

/// The command line of `client cert`.
#[derive(Args, Clone, Debug)]
#[command(after_help = FILES)]
pub struct CertArgs {
    /// The directory of the CA and its certificates
    #[arg(long = "certs", value_name = "DIR", default_value = "certs", global = true)]
    pub dir: PathBuf,

    /// What to make
    #[command(subcommand)]
    pub command: CertCommand,
}

/// What to make.
#[derive(Clone, Debug, Subcommand)]
pub enum CertCommand {
    /// Make a certificate authority. Whoever has its key can do everything
    CreateCa {
        /// How long it is valid, in days
        #[arg(long, value_name = "N", default_value_t = 3650, value_parser = days())]
        days: u32,
    },
    /// Make the certificates of nodes: master, r1, r2 and so on. Each can speak as its node only
    CreateNode {
        /// The nodes
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<Node>,
        /// A name or an address of the node's host, for clients of other projects that check it. May be
        /// repeated
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// How long they are valid, in days
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = days())]
        days: u32,
    },
    /// Make the certificate of a client, which reads and writes
    CreateClient {
        /// The name of the files, and in the certificate
        #[arg(default_value = "client")]
        name: String,
        /// How long it is valid, in days
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = days())]
        days: u32,
    },
    /// Make the certificate of an administrator, who also inspects nodes
    CreateAdmin {
        /// The name of the files, and in the certificate
        #[arg(default_value = "admin")]
        name: String,
        /// How long it is valid, in days
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = days())]
        days: u32,
    },
    /// Replace certificates, and their keys, by new ones for the same roles and hosts
    Renew {
        /// The names of the certificates
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// How long the new ones are valid, in days
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = days())]
        days: u32,
    },
}

/// At most a hundred years.
fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36_525)
}

impl CertArgs {
    /// Runs the command, and prints a line for each certificate.
    pub(super) fn run(self) -> Result<ExitStatus, ClientError> {
        let CertArgs { dir, command } = self;
        let validity = |days: u32| DAY * days;
        let open = || Authority::open(&dir).map_err(|error| advise(&error));
        let request = |role: Role, name: String, hosts: &[String], days| CertificateRequest {
            name,
            role,
            hosts: hosts.to_vec(),
            validity: validity(days),
        };
        match command {
            CertCommand::CreateCa { days } => {
                Authority::create(&dir, validity(days)).map_err(|error| error.to_string())?;
                print_line(&format!(
                    "{}: the CA, and ca.key beside it",
                    dir.join("ca.crt").display()
                ))?;
            }
            CertCommand::CreateNode { nodes, hosts, days } => {
                let authority = open()?;
                for node in nodes {
                    let role: Role = node.to_string().parse()?;
                    print_issued(authority.issue(&request(role, node.to_string(), &hosts, days)))?;
                }
            }
            CertCommand::CreateClient { name, days } => {
                print_issued(open()?.issue(&request(Role::Client, name, &[], days)))?;
            }
            CertCommand::CreateAdmin { name, days } => {
                print_issued(open()?.issue(&request(Role::Admin, name, &[], days)))?;
            }
            CertCommand::Renew { names, days } => {
                let authority = open()?;
                for name in names {
                    print_issued(authority.renew(&name, validity(days)))?;
                }
            }
        }
        Ok(ExitStatus::Ok)
    }
}

fn print_issued(issued: Result<String, TlsError>) -> Result<(), ClientError> {
    print_line(&issued.map_err(|error| error.to_string())?)
}

/// What to do where there is no authority.
fn advise(error: &TlsError) -> String {
    match error {
        TlsError::File { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound => {
            format!("{error}; make a CA first: client cert create-ca")
        }
        _ => error.to_string(),
    }
}
