//! The command lines of the programs, as parts that an executable assembles: `master`, `replica`
//! and `client` each have one, and the harness has the nodes' as hidden subcommands. Knows flags,
//! environment variables and exit statuses, but not what a node or a client does.

mod cert;
mod client;
mod load;
mod log;
mod node;
mod output;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::{self, MakeWriter},
    layer::{Layer as _, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

pub use self::{
    cert::{CertArgs, CertCommand},
    client::{ClientArgs, ClientCommand},
    load::{LoadArgs, Mix},
    log::LogFormat,
    node::{MasterArgs, NodeArgs, ReplicaArgs},
};
use crate::{config::TlsConfig, tls::TlsFiles};

/// The files for TLS, instead of those in the configuration.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// The certificates of the authorities that are trusted, instead of tls.ca in the configuration
    #[arg(id = "tls_ca", long = "ca", env = "TWOPC_CA", value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,

    /// The certificate to show, instead of tls.certificate in the configuration
    #[arg(
        id = "tls_certificate",
        long = "certificate",
        env = "TWOPC_CERTIFICATE",
        value_name = "FILE",
        global = true
    )]
    pub certificate: Option<PathBuf>,

    /// The private key of the certificate, instead of tls.key in the configuration
    #[arg(id = "tls_key", long = "key", env = "TWOPC_KEY", value_name = "FILE", global = true)]
    pub key: Option<PathBuf>,
}

impl TlsArgs {
    /// The files of whoever has this name, or none if neither flags nor configuration name any.
    fn files(self, config: Option<&TlsConfig>, name: &str) -> Result<Option<TlsFiles>, String> {
        let config = config.cloned().unwrap_or_default();
        let merged = TlsConfig {
            ca: self.ca.or(config.ca),
            certificate: self.certificate.or(config.certificate),
            key: self.key.or(config.key),
        };
        merged.files(name)
    }
}

/// Logs to a writer, filtered by `TWOPC_LOG` or `RUST_LOG` (a level, or a comma-separated
/// list of `TARGET=LEVEL`), by default at level `info`. Does nothing if the process has already set
/// up logging.
fn log_to(writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static, format: LogFormat) {
    let filter = ["TWOPC_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok()?.parse::<Targets>().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let layer = fmt::layer().with_ansi(false).with_writer(writer);
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let layer = layer.with_filter(filter);
    // Fails only if there is a subscriber already, which then stays.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// The longest duration that a flag accepts: a thousand hours.
const DURATION_MAX: Duration = Duration::from_secs(1000 * 60 * 60);

/// Parses a duration: `20s`, `500ms`, `2m`, or seconds without a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => f64::NAN,
    };
    number
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * seconds).ok())
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| {
            format!("invalid duration '{text}': expected a number with ms, s or m, for example 20s")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1s", "5 s", "1h", "1e3s", "99999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
