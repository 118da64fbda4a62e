//! The sections about the verdict: violations with their counterexamples, and all check results.

use std::cmp::Reverse;

use checker::{Cause, CheckResult, Finding, linearizability::NonLinearizableKey};
use history::Operation;
use maud::{Markup, html};

use super::{check_property, counted, verdict_mark};
use crate::{
    counterexample::{describe, figure},
    links::linked,
    page_data::PageData,
    sections::SystemEvidence,
    verdict::terms_used,
};

/// The most counterexamples that are drawn.
const FIGURES_MAX: usize = 3;

/// The last operations of a linearizable prefix that are listed.
const PREFIX_SHOWN: usize = 8;

/// The findings of a check that are listed without a click.
const FINDINGS_SHOWN: usize = 3;

/// What the verdict comes from, what follows from it, and the counterexamples.
pub(super) fn violations(data: &PageData<'_>, evidence: &dyn SystemEvidence) -> Markup {
    let operations = data.run.operations;
    html! {
        section #violations {
            h2 { "What went wrong" }
            @if let Some(cause) = &data.run.results.cause { (first_violation(data, evidence, cause)) }
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
        }
    }
}

/// The earliest violation, what it means, and those that follow from it.
fn first_violation(data: &PageData<'_>, evidence: &dyn SystemEvidence, cause: &Cause) -> Markup {
    let results = data.run.results;
    let when = cause.finding.at().filter(|at| *at >= 0);
    let follow = if cause.consequences.len() == 1 { "follows" } else { "follow" };
    html! {
        article.violation.cause {
            h3 {
                "Cause"
                @if let Some(at) = when { ", after " (format!("{:.3}", at as f64 / 1e9)) " s" }
                small { " found by the check " a href=(format!("#check-{}", cause.first.check)) {
                    (cause.first.check) } }
            }
            p.reason { (linked(&cause.finding, "")) "." }
            @for more in [&cause.trigger, &cause.fault].into_iter().flatten() {
                p.trigger { (linked(more, "")) "." }
            }
            (terms(evidence, &cause.first.check, [&cause.finding]))
            p.impact { (cause.meaning()) }
            @if !cause.consequences.is_empty() {
                details.consequences {
                    summary { (counted(cause.consequences.len() as u64, "later violation")) " "
                        (follow) " from it" }
                    ol.findings { @for id in &cause.consequences {
                        @if let Some(finding) = results.violation(id) {
                            li { small { (id.check) ": " } (linked(&finding.split_first_line().0, "")) }
                        }
                    } }
                }
            }
            @if let Some(others) = cause.others_in_words() {
                p.more { (others) ": see " a href="#checks" { "the checks" } "." }
            }
        }
    }
}

/// The meaning of the terms that findings of a check use.
fn terms<'a>(
    evidence: &dyn SystemEvidence,
    check: &str,
    findings: impl IntoIterator<Item = &'a Finding>,
) -> Markup {
    let used = terms_used(evidence.terms(check), findings);
    html! {
        @if !used.is_empty() {
            dl.terms { @for (name, meaning) in used { div { dt { (name) ": " } dd { (meaning) } } } }
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
            (terms(evidence, check, violations))
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
            @if !unknown_because.is_empty() { (list(unknown_because.iter().take(FINDINGS_SHOWN))) }
            @if unknown_because.len() > FINDINGS_SHOWN {
                details {
                    summary { (unknown_because.len() - FINDINGS_SHOWN) " more" }
                    (list(unknown_because.iter().skip(FINDINGS_SHOWN)))
                }
            }
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
