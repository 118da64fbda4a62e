//! The page of a campaign: what its shards say together, as one self-contained HTML file without a script.

use campaign::{FailureGroup, FoundFailure, Merged, MissingShards};
use checker::Validity;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{
    PAGE,
    page::{THEME, counted, verdict_mark},
};

/// The style of the header, as that of the page on transactions.
const STYLE: &str = include_str!("page/transactions.css");

/// Shards that are missing, with the command that does them where it is known.
type Missing = (MissingShards, Option<String>);

/// Renders the page. Shards that are missing come with the command that does them.
#[must_use]
pub fn page(name: &str, merged: &Merged, missing: &[Missing]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (merged.verdict) ": " (name) }
                style { (PreEscaped(THEME)) (PreEscaped(STYLE)) }
            }
            body {
                (header(name, merged))
                main {
                    @if !missing.is_empty() { (absent(missing)) }
                    @if !merged.unknown_because.is_empty() { (doubts(&merged.unknown_because)) }
                    @for group in &merged.failures { (failures(group)) }
                    (shards(merged))
                }
            }
        }
    };
    page.into_string()
}

/// The verdict, and how much of the work is there.
fn header(name: &str, merged: &Merged) -> Markup {
    let Merged { verdict, of, commands, done, seconds, shards, .. } = merged;
    let count = |verdict| shards.iter().filter(|shard| shard.verdict == verdict).count();
    html! {
        header.verdict.(verdict.to_string()) {
            p.crumb { "Campaign " (name) }
            h1 { (verdict_mark(*verdict)) span { (verdict) } }
            p.outcome {
                (shards.len()) " of " (counted((*of).into(), "shard")) ": "
                (count(Validity::Valid)) " valid, " (count(Validity::Invalid)) " invalid, "
                (count(Validity::Unknown)) " unknown."
            }
            p.facts {
                @for (unit, count) in done { (count) " " (unit) ", " }
                (format!("{seconds:.1}")) " s of all machines together."
            }
            @for (command, count) in commands {
                p.command {
                    code { (command) }
                    @if commands.len() > 1 { " " (counted((*count).into(), "shard")) }
                }
            }
        }
    }
}

/// The shards that are not there.
fn absent(missing: &[Missing]) -> Markup {
    let count = missing.iter().map(|(missing, _)| missing.count()).sum();
    html! {
        section #missing {
            h2 { "Missing: " (counted(count, "shard")) }
            p { "The verdict is about the others." }
            table { thead { tr { th.n { "shard" } th { "what is known" } th { "command" } } }
                tbody { @for (MissingShards { first, last, why }, again) in missing {
                    tr {
                        td.n { (first) @if last > first { "–" (last) } }
                        td { (why) }
                        td { @match again { Some(again) => code { (again) }, None => "–" } }
                    }
                } } }
        }
    }
}

/// Why the shards that are there do not say all that was asked.
fn doubts(unknown_because: &[String]) -> Markup {
    html! {
        section #doubts {
            h2 { "Unknown because" }
            ul { @for why in unknown_because { li { (why) } } }
        }
    }
}

/// Failures of one kind.
fn failures(group: &FailureGroup) -> Markup {
    let FailureGroup { signature, verdict, failures } = group;
    html! {
        section {
            h2 { (verdict_mark(*verdict)) (signature) small { " " (counted(failures.len() as u64, "time")) } }
            table { thead { tr { th.n { "seed" } th.n { "shard" } th { "why" } th { "again" } th { "record" } } }
                tbody { @for found in failures { (failure(found)) } } }
        }
    }
}

fn failure(FoundFailure { shard, record, failure }: &FoundFailure) -> Markup {
    html! {
        tr {
            td.n { @if let Some(seed) = failure.seed { (seed) } @else { "–" } }
            td.n { (shard) }
            td { (failure.why) }
            td { code { (failure.command) } }
            td { @match record {
                Some(record) => a href=(record.join(PAGE).display()) { "page" },
                None => "–",
            } }
        }
    }
}

/// Every shard that is there.
fn shards(merged: &Merged) -> Markup {
    html! {
        section #shards {
            h2 { "Shards" }
            div.scroll { table {
                thead { tr { th.n { "shard" } th { "verdict" } th.n { "done" } th.n { "failures" } th.n { "seconds" }
                    th { "machine" } } }
                tbody { @for shard in &merged.shards {
                    tr {
                        td.n { (shard.shard) }
                        td { (verdict_mark(shard.verdict)) (shard.verdict) }
                        td.n { (shard.done) " " (shard.unit) }
                        td.n { (shard.failures.len()) }
                        td.n { (format!("{:.1}", shard.seconds)) }
                        td { (shard.host) }
                    }
                } }
            } }
        }
    }
}
