//! The sections about the verdict: violations with their counterexamples, and all check results.

use std::cmp::Reverse;

use checker::{
    CheckResult, Finding, Validity,
    linearizability::{self, NonLinearizableKey},
};
use history::Operation;
use maud::{Markup, html};

use super::{check_property, verdict_mark};
use crate::{
    counterexample::{describe, figure},
    links::linked,
    page_data::PageData,
    sections::SystemEvidence,
};

/// The most counterexamples that are drawn.
const FIGURES_MAX: usize = 3;

/// The last operations of a linearizable prefix that are listed.
const PREFIX_SHOWN: usize = 8;

/// The findings of a check that are listed without a click.
const FINDINGS_SHOWN: usize = 3;

/// The counterexamples, and the first violation of every other failed check.
pub(super) fn violations(data: &PageData<'_>) -> Markup {
    let operations = data.run.operations;
    let others = data.run.results.checks.iter().filter(|check| {
        let drawn = check.check == linearizability::NAME && !data.counterexamples.is_empty();
        check.verdict == Validity::Invalid && !drawn
    });
    html! {
        section #violations {
            h2 { "Violations" }
            @for (number, broken) in data.counterexamples.iter().take(FIGURES_MAX).enumerate() {
                article.counterexample {
                    h3 { "The history of " code { (broken.explanation.key) } " is not linearizable" }
                    p.reason { (broken.explanation.sentence) "." }
                    (figure(broken, operations))
                    (prefix(broken, operations))
                    p.script-only {
                        button type="button" data-counterexample=(number) { "Show in the timeline" }
                    }
                }
            }
            @if data.counterexamples.len() > FIGURES_MAX {
                p { (data.counterexamples.len() - FIGURES_MAX)
                    " more keys are not linearizable; see the check below." }
            }
            @for check_result in others {
                article.violation {
                    h3 { (capitalized(&check_result.check)) }
                    @if let Some(finding) = check_result.violations.first() {
                        p.reason { (linked(&finding.split_first_line().0, "")) "." }
                    }
                    @if check_result.violations_total > 1 {
                        p.more { "The first of " (check_result.violations_total)
                            " violations; the check below lists more." }
                    }
                }
            }
        }
    }
}

/// The end of the longest linearizable prefix.
fn prefix(broken: &NonLinearizableKey, operations: &[Operation]) -> Markup {
    let first = broken.prefix.len().saturating_sub(PREFIX_SHOWN);
    let stuck = &operations[broken.breaks_at as usize];
    html! {
        @if !broken.prefix.is_empty() {
            p { "Up to that point the history is linearizable. The numbered points in the figure are one "
                "possible linearization; it ends with:" }
            ol.order start=(first + 1) {
                @for number in &broken.prefix[first..] {
                    @let operation = &operations[*number as usize];
                    li { (describe(operation)) small { " p" (operation.process) } }
                }
                li.unplaced { (describe(stuck)) small { " p" (stuck.process) " cannot be placed" } }
            }
        }
    }
}

fn capitalized(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// All check results, the worst first.
pub(super) fn checks(data: &PageData<'_>, evidence: &dyn SystemEvidence) -> Markup {
    let mut checks: Vec<&CheckResult> = data.run.results.checks.iter().collect();
    checks.sort_by_key(|check| Reverse(check.verdict));
    html! {
        section #checks {
            h2 { "Checks" }
            div.checks { @for check_result in checks { (check(check_result, evidence)) } }
        }
    }
}

fn check(check_result: &CheckResult, evidence: &dyn SystemEvidence) -> Markup {
    let CheckResult { check, verdict, violations, violations_total, unknown_because, .. } =
        check_result;
    let property = check_property(check).or_else(|| evidence.check_property(check));
    html! {
        div.check.(verdict.to_string()) id=(format!("check-{check}")) {
            h3 { (verdict_mark(*verdict)) (check) span.result { (verdict) } }
            @if let Some(property) = property { p.property { (property) } }
            @if !violations.is_empty() { (list(violations.iter().take(FINDINGS_SHOWN))) }
            @if violations.len() > FINDINGS_SHOWN {
                details {
                    summary { (violations_total - FINDINGS_SHOWN) " more" }
                    (list(violations.iter().skip(FINDINGS_SHOWN)))
                    @if *violations_total > violations.len() {
                        p { "Only the first " (violations.len()) " are listed." }
                    }
                }
            }
            @if !unknown_because.is_empty() { (list(unknown_because.iter())) }
        }
    }
}

fn list<'a>(findings: impl Iterator<Item = &'a Finding>) -> Markup {
    html! {
        ul.findings { @for finding in findings {
            @let (first, rest) = finding.split_first_line();
            li { (linked(&first, "")) @if !rest.is_empty() { pre { (rest) } } }
        } }
    }
}
