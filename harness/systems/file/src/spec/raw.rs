//! The tables of a system file as they are written, before anything of them is checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) system: System,
    pub(super) roles: BTreeMap<String, RawRole>,
    #[serde(default)]
    pub(super) files: Vec<RawFile>,
    #[serde(default)]
    pub(super) hooks: RawHooks,
    pub(super) client: Spanned<RawClient>,
    #[serde(default)]
    pub(super) claims: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    pub(super) faults: RawFaults,
}

pub(super) type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct System {
    pub(super) name: Text,
    pub(super) version_cmd: Option<Vec<Text>>,
    /// The package that contains the programs, for the message when one is missing.
    pub(super) package: Option<String>,
    /// Whether the nodes need a virtual network: required or best.
    pub(super) netns: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRole {
    pub(super) count: Spanned<u32>,
    pub(super) start: Spanned<Vec<Text>>,
    pub(super) first_start: Option<Spanned<Vec<Text>>>,
    pub(super) join_start: Option<Spanned<Vec<Text>>>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, Text>,
    pub(super) ports: Vec<Text>,
    pub(super) ready: Spanned<RawReady>,
    pub(super) user: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReady {
    pub(super) tcp: Option<Text>,
    pub(super) http: Option<Text>,
    pub(super) contains: Option<String>,
    pub(super) log: Option<Text>,
    pub(super) cmd: Option<Spanned<Vec<Text>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) role: Option<Text>,
    pub(super) path: Text,
    pub(super) template: Text,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHooks {
    pub(super) prepare: Option<Spanned<Vec<Text>>>,
    pub(super) after_start: Option<Spanned<Vec<Text>>>,
    pub(super) leader: Option<Spanned<Vec<Text>>>,
    pub(super) member_remove: Option<Spanned<Vec<Text>>>,
    pub(super) member_add: Option<Spanned<Vec<Text>>>,
    pub(super) promote: Option<Spanned<Vec<Text>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClient {
    pub(super) kind: Text,
    pub(super) command: Option<Spanned<Vec<Text>>>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, Text>,
    pub(super) port: Option<Text>,
    #[serde(default)]
    pub(super) ops: BTreeMap<Text, Spanned<RawOperation>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOperation {
    pub(super) method: Text,
    pub(super) path: Text,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Text>,
    pub(super) body: Option<Text>,
    pub(super) ok: Vec<u16>,
    #[serde(default)]
    pub(super) fail: Vec<u16>,
    #[serde(default)]
    pub(super) absent: Vec<u16>,
    pub(super) value: Option<Text>,
    pub(super) succeeded: Option<Text>,
    #[serde(default)]
    pub(super) base64: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFaults {
    pub(super) kill: bool,
    pub(super) pause: bool,
    pub(super) restart: bool,
    pub(super) partition: bool,
    pub(super) packet: bool,
    pub(super) reset: bool,
    /// Not by itself: a program may wait in the kernel for a moment of a clock that stays true there.
    pub(super) clock: bool,
    /// The directories that are on a node's disk.
    pub(super) power: Vec<Text>,
}

impl Default for RawFaults {
    fn default() -> Self {
        RawFaults {
            kill: true,
            pause: true,
            restart: true,
            partition: true,
            packet: true,
            reset: true,
            clock: false,
            power: Vec::new(),
        }
    }
}
