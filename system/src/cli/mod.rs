//! The programs' command lines, as parts that an executable puts together: `master`, `replica` and
//! `client` each have one, the harness has the nodes' as hidden subcommands of its own. Knows
//! flags, environment and exit statuses; nothing of what a node or a client does.

mod answers;
mod client;
mod load;
mod node;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    layer::{Layer as _, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

pub use self::{
    client::{ClientArgs, ClientCommand},
    load::{LoadArgs, Mix},
    node::{MasterArgs, NodeArgs, ReplicaArgs},
};

/// Sends the log to standard error, as `TWOPC_LOG` or `RUST_LOG` filters it (a level, or
/// `TARGET=LEVEL` with commas between); `info` by default. Does nothing if the process has set up
/// its log before.
fn log() {
    let filter = ["TWOPC_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok()?.parse::<Targets>().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let to_stderr = fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_filter(filter);
    // Fails only if there is one already, which is then the right one.
    let _ = tracing_subscriber::registry().with(to_stderr).try_init();
}

/// The longest period that anyone may ask for: a thousand hours.
const PERIOD_MAX: Duration = Duration::from_secs(1000 * 60 * 60);

/// Reads a period: `20s`, `500ms`, `2m`, or seconds without a unit.
fn period(text: &str) -> Result<Duration, String> {
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
        .filter(|period| *period <= PERIOD_MAX)
        .ok_or_else(|| format!("'{text}' is no period: want a number with ms, s or m, as in 20s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read() {
        assert_eq!(period("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(period("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(period("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(period("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1s", "5 s", "1h", "1e3s", "99999999999s"] {
            assert!(period(wrong).is_err(), "{wrong}");
        }
    }
}
