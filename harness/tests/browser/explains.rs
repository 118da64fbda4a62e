//! The page of an invalid run explains it: what is linked leads somewhere, counts agree, and nothing is cut off.

use std::{fs, path::Path};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::{
    READY, assert_no_errors, browser, checked_copy, chrome::Chrome, golden, temporary_directory,
};

/// The page of a golden run, opened.
fn opened(chrome: &mut Chrome, run: &str, hash: &str) -> TempDir {
    let directory = temporary_directory();
    checked_copy(&golden().join(run), directory.path());
    open(chrome, directory.path(), hash);
    directory
}

fn open(chrome: &mut Chrome, directory: &Path, hash: &str) {
    let path = fs::canonicalize(directory.join("report.html")).expect("it was written");
    // Changing only the part after # would not load the page again.
    chrome.open("about:blank", "true");
    chrome.open(&format!("file://{}{hash}", path.display()), READY);
}

/// Asserts that the heading of an element is at the top of the viewport.
fn assert_at_heading(chrome: &mut Chrome, selector: &str) {
    chrome.wait(&format!(
        "(() => {{ const top = document.querySelector({selector:?}).getBoundingClientRect().top; \
         const isLast = innerHeight + scrollY >= document.documentElement.scrollHeight - 2; \
         return top > -5 && (top < 120 || isLast); }})()"
    ));
}

#[test]
fn the_cause_comes_first_with_its_terms_and_what_follows_is_folded() {
    let Some(mut chrome) = browser("the_cause_comes_first") else { return };
    let run = opened(&mut chrome, "caught/ack-after-durable", "");
    let cause = chrome.text("document.querySelector('.cause').innerText");
    for part in
        ["Cause, after ", "r1 acknowledged 1.5", "AC1: all nodes", "A client got a wrong answer"]
    {
        assert!(cause.contains(part), "{part}\n{cause}");
    }
    assert!(!cause.contains("r1 aborted 1.5"), "what follows is folded: {cause}");
    chrome.click(".consequences summary");
    let follows = chrome.text("document.querySelector('.consequences').innerText");
    assert!(
        follows.contains("AC1: r1 aborted 1.5") && follows.contains("reply-soundness: "),
        "{follows}"
    );
    let results = fs::read(run.path().join("results.json")).expect("it was written");
    let results: Json = serde_json::from_slice(&results).expect("JSON");
    let first = results["cause"]["finding"]["text"].as_str().expect("a sentence");
    assert!(cause.contains(first), "{first}\n{cause}");
    // The same goes wrong in the model, step by step.
    chrome.click("a[href='#schedule-ack-after-durable']");
    assert_at_heading(&mut chrome, "#schedule-ack-after-durable h2");
    let steps =
        chrome.value("document.querySelectorAll('#schedule-ack-after-durable ol li').length");
    assert!(steps.as_u64() > Some(5), "{steps}");
    let claim =
        chrome.text("document.querySelector('#schedule-ack-after-durable .findings').innerText");
    assert!(claim.contains("Violated: "), "{claim}");
    assert_no_errors(&mut chrome, "the cause");
}

#[test]
fn words_and_diagram_follow_the_selected_transaction() {
    let Some(mut chrome) = browser("words_and_diagram_follow") else { return };
    let _run = opened(&mut chrome, "caught/ack-after-durable", "");
    let summary = "document.querySelector('#trace summary').textContent";
    let words = "document.querySelector('#trace .words').textContent";
    assert_eq!(chrome.text(summary), "Transaction 1.5 in words");
    chrome.value(
        "(() => { const s = document.querySelector('select[name=transaction]'); s.value = '1.2'; \
         s.dispatchEvent(new Event('change')); })()",
    );
    assert_eq!(chrome.text(summary), "Transaction 1.2 in words");
    let text = chrome.text(words);
    assert!(text.contains("append PREPARE") && text.contains("received after"), "{text}");
    // Also one whose messages the page does not have.
    chrome.value(
        "run.data.traces.splice(run.data.traces.findIndex((t) => t.transaction === '1.3'), 1)",
    );
    chrome.value("location.hash = '#transaction=1.3'");
    chrome.wait(&format!("{summary} === 'Transaction 1.3 in words'"));
    let text = chrome.text(words);
    assert!(text.contains("omits the messages") && text.contains("key locked"), "{text}");
    assert_no_errors(&mut chrome, "the words");
}

#[test]
fn labels_are_whole_and_tables_have_no_json() {
    let Some(mut chrome) = browser("labels_are_whole") else { return };
    for run in ["caught/commit-is-final", "valid/messages", "caught/piggyback-on-prepare"] {
        let _run = opened(&mut chrome, run, "");
        let json = chrome.value("[...document.querySelectorAll('td, #diagram text, .legend')].map((e) => e.textContent).filter((text) => /[{}]|\":/.test(text))");
        assert_eq!(json, json!([]), "{run}");
        // Every label of a message is how its sentence begins, but for the transaction that the title names.
        let wrong = chrome.value(
            "run.data.traces.flatMap((trace) => { \
             const s = document.querySelector('select[name=transaction]'); s.value = trace.transaction; \
             s.dispatchEvent(new Event('change')); \
             return [...document.querySelectorAll('#diagram g.message')].filter((g) => { \
               const label = g.querySelector('.label').textContent.replace(/…$/, ''); \
               const title = g.querySelector('title').textContent; \
               const digits = (text) => text.match(/\\d+[.]\\d+/g) || []; \
               return !digits(label.slice(0, -4)).every((id) => title.includes(id)); \
             }).map((g) => g.textContent); })",
        );
        assert_eq!(wrong, json!([]), "{run}");
        // What has lost an end names the node at it.
        let stray = chrome.value(
            "[...document.querySelectorAll('#diagram g.lost')].filter((g) => !/✕ to (master|r\\d)/.test(g.textContent)).length",
        );
        assert_eq!(stray, json!(0), "{run}");
        let legend = chrome.text("document.querySelector('#diagram').textContent");
        assert!(legend.contains("never arrived") && legend.contains("milliseconds"), "{run}");
        assert_no_errors(&mut chrome, run);
    }
}

#[test]
fn violations_have_marks_and_links_lead_to_what_they_name() {
    let Some(mut chrome) = browser("violations_have_marks") else { return };
    let run = opened(&mut chrome, "caught/commit-is-final", "");
    // The key e goes to the first violation, and the flag at its time opens it again.
    chrome.click("[data-action=whole-run]");
    chrome.value("document.querySelector('#lanes').focus({ preventScroll: true })");
    chrome.key("e");
    chrome.wait("run.details().startsWith('violation found by the check atomicity')");
    chrome.key("Escape");
    chrome.wait("!run.details().includes('violation')");
    let at = chrome.value(
        "(() => { const c = document.querySelector('#canvas'); c.scrollIntoView({ block: 'center', behavior: 'instant' }); \
         const b = c.getBoundingClientRect(); const [from, to] = run.view(); \
         return [b.x + 124 + (run.data.errors_found[0].at - from) / (to - from) * (b.width - 124) + 4, b.y + 16]; })()",
    );
    chrome.click_at(at[0].as_f64().expect("a position"), at[1].as_f64().expect("a position"));
    chrome.wait("run.details().startsWith('violation found by the check')");
    // An outcome after the opposite one is drawn.
    let crosses = chrome.value(
        "run.data.lanes.map((lane) => lane.marks.filter((mark) => mark.shape === 'cross').flatMap((mark) => [...mark.from]).length)",
    );
    assert!(crosses.as_array().expect("lanes").iter().any(|n| *n != json!(0)), "{crosses}");
    // A journal line is framed in the diagram and quoted.
    chrome.click(".cause a.line");
    chrome.wait("document.querySelectorAll('#diagram g.selected').length === 1 && run.details().includes('journal line')");
    assert_at_heading(&mut chrome, "#timeline h2");
    for (hash, heading) in [
        ("#check-atomicity", "#check-atomicity h3"),
        ("#faults", "#faults h2"),
        ("#transaction=1.8", "#messages h2"),
        ("#key=k1", "#timeline h2"),
    ] {
        open(&mut chrome, run.path(), hash);
        assert_at_heading(&mut chrome, heading);
    }
    assert_no_errors(&mut chrome, "the links");
}

#[test]
fn counts_of_faults_agree_and_an_exit_is_none() {
    let Some(mut chrome) = browser("counts_of_faults_agree") else { return };
    for run in
        ["caught/forget-after-all-acks", "valid/all", "valid/master-uncertainty", "valid/messages"]
    {
        let _run = opened(&mut chrome, run, "");
        let facts = chrome.text("document.querySelector('.facts').textContent");
        let said = chrome.text("document.querySelector('#faults p').textContent");
        let count =
            facts.rsplit(", ").next().and_then(|part| part.split(' ').next()).expect("a count");
        assert!(said.starts_with(&format!("{count} fault")), "{run}: {facts} / {said}");
        let rows = chrome.value(
            "[...document.querySelectorAll('#faults tbody tr')].filter((row) => \
             !/exited by itself|affected nothing|part of the injection/.test(row.textContent)).length",
        );
        assert_eq!(rows.to_string(), count, "{run}: {said}");
        if run.ends_with("forget-after-all-acks") {
            assert!(said.contains("2 times a node exited by itself"), "{said}");
        }
    }
}

#[test]
fn a_page_fits_a_narrow_screen() {
    let Some(mut chrome) = browser("a_page_fits_a_narrow_screen") else { return };
    for (width, dark) in [(390, false), (390, true), (1400, true)] {
        chrome.size(width, 844);
        chrome.dark(dark);
        for run in ["caught/ack-after-durable", "checks/linearizability-invalid", "valid/all"] {
            let _run = opened(&mut chrome, run, "");
            let wide = chrome.value("document.documentElement.scrollWidth");
            assert!(wide.as_u64() <= Some(width.into()), "{run}: {wide} at {width}");
            assert_no_errors(&mut chrome, run);
        }
    }
}
