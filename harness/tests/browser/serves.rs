//! The pages of the server: ways back, dates, states of runs, comparisons, and narrow screens.

use std::fs;

use checker::Results;
use report::store::JudgingMark;
use serde_json::json;
use tempfile::TempDir;

use super::{
    READY, assert_no_errors, browser, checked_copy, golden, server::Server, temporary_directory,
    url,
};

/// A store with two runs, one that could not be made, and one that was not checked.
fn store() -> TempDir {
    let store = temporary_directory();
    let run = |path: &str| store.path().join(path);
    checked_copy(&golden().join("valid/all"), &run("twopc-all/20260101T000000Z"));
    checked_copy(&golden().join("caught/vote-forced"), &run("twopc-b/20261207T080910Z"));
    let failed = run("twopc-failed/20260103T000000Z");
    fs::create_dir_all(failed.join("nodes/r1")).expect("it can be created");
    fs::write(failed.join("test.json"), "{}").expect("it can be written");
    fs::write(failed.join("failed.json"), r#"{"why": "the cluster was not ready within 20s"}"#)
        .expect("it can be written");
    fs::write(failed.join("nodes/r1/log"), "INFO begins\nERROR the port is in use\n")
        .expect("it can be written");
    store
}

#[test]
fn every_page_leads_back_and_says_when_as_people_do() {
    let Some(mut chrome) = browser("every_page_leads_back") else { return };
    let store = store();
    let server = Server::start(store.path());
    let list = format!("document.querySelector('#runs') && {READY}");
    chrome.open(&url(&server, "/"), &list);
    let text = chrome.text("document.body.innerText");
    for part in
        ["7 Dec 2026, 08:09:10", "1 Jan 2026, 00:00:00", "not made", "was not ready within 20s"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // Fifteen faults are folded to a few.
    let folded = chrome.text("document.querySelector('details.faults summary').innerText");
    assert!(folded.contains(" more"), "{folded}");
    for (page, back) in [
        ("/run/twopc-b/20261207T080910Z/", "a.back"),
        ("/run/twopc-b/20261207T080910Z/nodes/", "nav a"),
        ("/run/twopc-failed/20260103T000000Z/", "nav a"),
        ("/compare?a=twopc-all/20260101T000000Z&b=twopc-b/20261207T080910Z", "nav a"),
        ("/live/twopc-failed/20260103T000000Z", "nav a"),
        ("/no/such/page", "nav a"),
    ] {
        chrome.open(
            &url(&server, page),
            &format!("document.querySelector({back:?})?.offsetParent && {READY}"),
        );
        if page.contains("twopc-failed") && page.starts_with("/run") {
            let text = chrome.text("document.body.innerText");
            assert!(
                text.contains("could not be made") && text.contains("the port is in use"),
                "{text}"
            );
        }
        chrome.click(back);
        chrome.wait(&list);
        if page == "/no/such/page" {
            // That it is missing is an error to the browser.
            chrome.errors();
        }
    }
    assert_no_errors(&mut chrome, "the ways back");
}

#[test]
fn a_run_that_is_being_judged_is_followed() {
    let Some(mut chrome) = browser("a_run_that_is_being_judged") else { return };
    let store = store();
    let run = store.path().join("twopc-b/20261207T080910Z");
    let server = Server::start(store.path());
    let page = fs::read(run.join("report.html")).expect("it was written");
    let results = fs::read(run.join("results.json")).expect("it was written");
    for file in ["report.html", "results.json"] {
        fs::remove_file(run.join(file)).expect("it can be removed");
    }
    // The history is old, and nothing was written since.
    let mark = JudgingMark::set(&run);
    let state = "document.querySelector('#state')?.textContent";
    chrome.open(
        &url(&server, "/run/twopc-b/20261207T080910Z/"),
        &format!("{state} === 'Being judged'"),
    );
    fs::write(run.join("results.json"), &results).expect("it can be written");
    let _: Results = serde_json::from_slice(&results).expect("they are complete");
    // The results are there and the page is not: the run is still being judged.
    chrome.open(
        &url(&server, "/run/twopc-b/20261207T080910Z/"),
        &format!("{state} === 'Being judged'"),
    );
    fs::write(run.join("report.html"), page).expect("it can be written");
    drop(mark);
    chrome.wait(&format!("document.querySelector('#timeline') && {READY}"));
    assert_no_errors(&mut chrome, "a run that is being judged");
}

#[test]
fn compared_plots_have_titles_and_the_same_axes() {
    let Some(mut chrome) = browser("compared_plots") else { return };
    let store = store();
    let server = Server::start(store.path());
    let compare = "/compare?a=twopc-all/20260101T000000Z&b=twopc-b/20261207T080910Z";
    chrome.open(
        &url(&server, compare),
        "document.readyState === 'complete' && document.images.length === 8",
    );
    let titles = chrome.value("[...document.querySelectorAll('h2')].map((h) => h.textContent)");
    for title in ["Latency of each operation", "Completed operations per second"] {
        assert!(titles.as_array().expect("titles").contains(&json!(title)), "{titles}");
    }
    // The labels of the axes, which are in black, are the same in both.
    let differ = chrome.value(
        "(async () => { const labels = async (image) => { \
           const text = await (await fetch(image.src)).text(); \
           return [...text.matchAll(/<text[^>]*fill=\"#1F2328\"[^>]*>\\s*([^<]*)/g)].map((found) => found[1].trim()) \
             .filter((t) => /^[\\d.]+( ?(s|ms|µs))?$/.test(t)).sort().join(' '); }; \
         const images = [...document.images].filter((image) => !image.src.includes('in-doubt')); const wrong = []; \
         for (let i = 0; i < images.length; i += 2) { \
           const [a, b] = [await labels(images[i]), await labels(images[i + 1])]; \
           if (a !== b || !a) wrong.push([images[i].src, a, b]); } \
         return wrong; })()",
    );
    assert_eq!(differ, json!([]));
    assert_no_errors(&mut chrome, "the comparison");
}

#[test]
fn the_servers_pages_fit_a_narrow_screen() {
    let Some(mut chrome) = browser("the_servers_pages_fit") else { return };
    let store = store();
    let server = Server::start(store.path());
    for (width, dark) in [(390, false), (390, true), (1400, true)] {
        chrome.size(width, 844);
        chrome.dark(dark);
        for page in [
            "/",
            "/compare?a=twopc-all/20260101T000000Z&b=twopc-b/20261207T080910Z",
            "/run/twopc-failed/20260103T000000Z/",
            "/run/twopc-b/20261207T080910Z/nodes/",
            "/live/twopc-failed/20260103T000000Z",
        ] {
            chrome.open("about:blank", "true");
            chrome.open(&url(&server, page), &format!("document.querySelector('nav') && {READY}"));
            let wide = chrome.value("document.documentElement.scrollWidth");
            assert!(wide.as_u64() <= Some(width.into()), "{page}: {wide} at {width}");
            let clipped = chrome.value(
                "[...document.querySelectorAll('main *')].filter((e) => e.scrollWidth > e.clientWidth + 1 \
                 && getComputedStyle(e).overflowX !== 'visible').map((e) => e.className || e.tagName)",
            );
            assert_eq!(clipped, json!([]), "{page} at {width}");
        }
    }
}
