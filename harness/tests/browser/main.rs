//! Tests the pages in a browser: they load, respond to input, and log no error. Without Chromium each
//! test prints that it was skipped.
//!
//! `cargo test -p harness --test browser -- --ignored` renews the pictures of `histories/golden`.

mod chrome;
#[path = "../support/copy.rs"]
mod copy;
mod explains;
#[path = "../support/server.rs"]
mod server;
mod serves;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use checker::{Results, linearizability::Limits};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use twopc::{
    checks::{Run, check},
    page,
};

use self::{chrome::Chrome, copy::copy, server::Server};

const READY: &str = "document.documentElement.dataset.ready === 'yes'";

/// Starts a browser, or prints why the test is skipped.
fn browser(test: &str) -> Option<Chrome> {
    Chrome::start()
        .map_err(|reason| {
            // Past the capture of the test harness, which would hide it.
            let _ = writeln!(io::stderr(), "skipped: {test}: {reason}");
        })
        .ok()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden")
}

/// The paths of all golden runs.
fn golden_runs() -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("the directory can be listed").flatten() {
            let path = entry.path();
            if path.join("verdict.json").exists() {
                found.push(path);
            } else if path.is_dir() {
                walk(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(&golden(), &mut found);
    found.sort();
    found
}

/// Copies a golden run, checks it and writes its page.
fn checked_copy(run: &Path, to: &Path) -> Results {
    copy(run, to);
    let run = Run::load(to).expect("a run");
    let results = check(&run, &Limits::default());
    let text = serde_json::to_string(&results).expect("it serialises");
    fs::write(to.join("results.json"), text).expect("the file can be written");
    page::write(to, &run, &results).expect("the file can be written");
    results
}

fn temporary_directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn assert_no_errors(chrome: &mut Chrome, what: &str) {
    assert_eq!(chrome.errors(), Vec::<String>::new(), "{what}");
}

#[test]
fn the_page_of_every_golden_run_reproduces_its_history() {
    let Some(mut chrome) = browser("the_page_of_every_golden_run_reproduces_its_history") else {
        return;
    };
    for (run, dark) in golden_runs().iter().zip([false, true].into_iter().cycle()) {
        let what = run.display().to_string();
        let directory = temporary_directory();
        let results = checked_copy(run, directory.path());
        chrome.dark(dark);
        chrome.open_file(&directory.path().join("report.html"), READY);
        let verdict = chrome.text("document.querySelector('h1 span:last-child').textContent");
        assert_eq!(verdict, results.verdict.to_string(), "{what}");
        // The details of the operations are the lines of the history.
        let lines = chrome.value(
            "Array.from(run.data.columns['op.index'], (_, i) => run.historyLines(run.operation(i))).flat()",
        );
        let mut shown: Vec<&str> =
            lines.as_array().expect("lines").iter().filter_map(Json::as_str).collect();
        let history = fs::read_to_string(run.join("history.jsonl")).expect("the file exists");
        let mut written: Vec<&str> =
            history.lines().filter(|line| !line.contains("\"process\":\"nemesis\"")).collect();
        shown.sort_unstable();
        written.sort_unstable();
        assert_eq!(shown, written, "{what}");
        assert_no_errors(&mut chrome, &what);
    }
}

#[test]
fn the_controls_of_a_page_work() {
    let Some(mut chrome) = browser("the_controls_of_a_page_work") else { return };
    for name in ["linearizability-invalid", "atomicity-ac1-invalid", "atomicity-valid"] {
        let run =
            golden_runs().into_iter().find(|run| run.ends_with(name)).expect("it is a golden run");
        let directory = temporary_directory();
        checked_copy(&run, directory.path());
        chrome.open_file(&directory.path().join("report.html"), READY);
        let span = "(run.view()[1] - run.view()[0])";
        chrome.click("[data-action=whole-run]");
        let whole = chrome.value(span).as_f64().expect("a time");
        chrome.click("[data-action=zoom-in]");
        chrome.wait(&format!("{span} < {whole} * 0.6"));
        chrome.click("[data-action=zoom-out]");
        chrome.click("[data-action=first-error]");
        chrome.wait("document.querySelector('output[name=status]').textContent !== ''");
        chrome.click("[data-action=next-fault]");
        chrome.click("[data-action=previous-fault]");
        if chrome.value("run.data.faults.length > 0") == json!(true) {
            chrome.wait("document.querySelector('#detail').textContent.includes('nemesis')");
        }
        for key in ["ArrowRight", "+", "-", "n", "p", "0", "e", "Escape"] {
            chrome.click("h1");
            chrome.key(key);
        }
        // A click pins the operation under it.
        chrome.click("[data-action=whole-run]");
        let found = chrome.value(
            "(() => { const c = document.querySelector('#canvas'); \
             c.scrollIntoView({block: 'center', behavior: 'instant'}); \
             const b = c.getBoundingClientRect(); const o = run.operation(0); \
             const lane = o.process % run.data.clients; const [from, to] = run.view(); \
             return [b.x + 124 + (o.time - from) / (to - from) * (b.width - 124) + 1, b.y, lane]; })()",
        );
        let [x, top, _lane] = [0, 1, 2].map(|n| found[n].as_f64().expect("a position"));
        let pinned = (0..40).any(|row| {
            chrome.click_at(x, top + 24.0 + 8.0 * f64::from(row));
            chrome.value("run.details().includes('\"type\":\"invoke\"')") == json!(true)
        });
        assert!(pinned, "{name}: a click on the first operation does not pin it");
        let key = chrome.text("run.data.keys[0]");
        chrome.value(&format!(
            "(() => {{ const find = document.querySelector('input[name=find]'); find.value = {key:?}; \
             find.form.requestSubmit(); }})()"
        ));
        chrome.wait("document.querySelector('select[name=key]').value === '0'");
        chrome.click("[data-action=show-transaction]");
        chrome.wait("run.details().includes('transaction')");
        let traces = chrome.value("run.data.traces.length").as_u64().expect("a number");
        assert!(traces > 0, "{name}");
        for n in 0..traces.min(5) {
            chrome.value(&format!(
                "(() => {{ const s = document.querySelector('select[name=transaction]'); \
                 s.selectedIndex = {n}; s.dispatchEvent(new Event('change')); }})()"
            ));
            chrome.wait("document.querySelectorAll('#diagram .arrow').length > 0");
        }
        if chrome.value("!!document.querySelector('a.line')") == json!(true) {
            chrome.click("a.line");
            chrome.wait("run.details().includes('journal line')");
            chrome.click("a.transaction");
            chrome.wait(
                "document.querySelector('output[name=status]').textContent.includes('transaction')",
            );
        }
        chrome.size(420, 800);
        chrome.value("dispatchEvent(new Event('resize'))");
        chrome.size(1200, 900);
        assert_no_errors(&mut chrome, name);
    }
}

#[test]
fn the_verdict_is_shown_without_scripts() {
    let Some(mut chrome) = browser("the_verdict_is_shown_without_scripts") else { return };
    let run = golden_runs().into_iter().find(|run| run.ends_with("linearizability-invalid"));
    let directory = temporary_directory();
    checked_copy(&run.expect("it is a golden run"), directory.path());
    chrome.scripts(false);
    chrome.open_file(&directory.path().join("report.html"), "document.readyState === 'complete'");
    for part in ["invalid", "is not linearizable", "Checks", "Faults and replicas in doubt"] {
        let seen = chrome.value(&format!("document.body.innerText.includes({part:?})"));
        assert_eq!(seen, json!(true), "{part}");
    }
    assert_eq!(chrome.value("document.querySelectorAll('svg.plot').length"), json!(4));
    assert_eq!(
        chrome.value("getComputedStyle(document.querySelector('#lanes')).height"),
        json!("auto")
    );
    assert_no_errors(&mut chrome, "without scripts");
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.host)
}

#[test]
fn the_pages_of_the_server_work() {
    let Some(mut chrome) = browser("the_pages_of_the_server_work") else { return };
    let store = temporary_directory();
    let names = ["atomicity-valid", "atomicity-ac1-invalid", "faults-vacuous"];
    for (name, n) in names.iter().zip(1..) {
        let run =
            golden_runs().into_iter().find(|run| run.ends_with(name)).expect("it is a golden run");
        checked_copy(&run, &store.path().join(format!("twopc-{name}/2026010{n}T000000Z")));
    }
    let server = Server::start(store.path());
    let rows = "[...document.querySelectorAll('#runs tbody tr')].filter((row) => !row.hidden)";
    chrome.open(&url(&server, "/"), &format!("{rows}.length === 3 && {READY}"));
    chrome.value(
        "(() => { const f = document.querySelector('input[name=filter]'); f.value = 'unknown'; \
         f.dispatchEvent(new Event('input')); })()",
    );
    chrome.wait(&format!("{rows}.length === 1"));
    chrome.value(
        "(() => { const f = document.querySelector('input[name=filter]'); f.value = ''; \
         f.dispatchEvent(new Event('input')); })()",
    );
    chrome.click("#runs th:nth-child(2) button");
    chrome.wait(&format!("{rows}[0].textContent.includes('invalid')"));
    chrome.click("#runs tbody tr:nth-child(1) input");
    chrome.click("form.tools button");
    chrome.wait("document.querySelector('output[name=status]').textContent.includes('select two')");
    chrome.click("#runs tbody tr:nth-child(3) input");
    chrome.click("form.tools button");
    // Complete, so that the style sheet has moved what is clicked.
    chrome.wait(
        "document.readyState === 'complete' && document.querySelector('table.compare') \
         && [...document.images].length === 8",
    );
    chrome.click("thead a");
    chrome.wait(&format!("document.querySelector('#timeline') && {READY}"));
    assert_no_errors(&mut chrome, "the list, the comparison, a run");

    // A running test is followed until its check results exist.
    let run = store.path().join("twopc-none/20260105T000000Z");
    fs::create_dir_all(&run).expect("the directory can be created");
    fs::write(run.join("test.json"), "{}").expect("the file can be written");
    let history = run.join("history.jsonl");
    let mut history = OpenOptions::new().create(true).append(true).open(history).expect("a file");
    let mut line = |index: u64, kind: &str| {
        let time = index * 1_000_000;
        writeln!(
            history,
            "{{\"index\":{index},\"time\":{time},\"process\":1,\"type\":\"{kind}\",\"f\":\"get\",\"key\":\"a\"}}"
        )
        .expect("the file can be written");
    };
    line(0, "invoke");
    chrome.open(
        &url(&server, "/run/twopc-none/20260105T000000Z/"),
        "document.querySelector('#total').textContent === '1'",
    );
    line(1, "fail");
    line(2, "invoke");
    chrome.wait("document.querySelector('#total').textContent === '2'");
    checked_copy(&store.path().join("twopc-atomicity-valid/20260101T000000Z"), &run);
    chrome.wait(&format!("document.querySelector('#timeline') && {READY}"));
    assert_no_errors(&mut chrome, "a running test");
}

#[test]
#[ignore = "measures the load time of a page: PAGE=PATH/report.html"]
fn page_load_time() {
    let path = std::env::var("PAGE").expect("PAGE=PATH/report.html");
    let mut chrome = Chrome::start().expect("the measurement needs a browser");
    let size = fs::metadata(&path).expect("the file exists").len();
    for _ in 0..5 {
        chrome.open("about:blank", "true");
        chrome.open_file(Path::new(&path), READY);
        let times = chrome.value(
            "(() => { const [n] = performance.getEntriesByType('navigation'); \
             const paint = performance.getEntriesByName('first-contentful-paint')[0]; \
             const began = performance.now(); run.paint(); const painted = performance.now() - began; \
             return [run.data.columns['op.index'].length, paint ? paint.startTime : null, \
             n.domInteractive, run.ready_ms, painted].map((ms) => ms && Math.round(ms)); })()",
        );
        println!(
            "{size} bytes; [operations, ms to first paint, to interactive, from there to the \
             timeline, to repaint]: {times}"
        );
    }
    assert_no_errors(&mut chrome, &path);
}

/// A picture of `histories/golden/pictures`.
struct Picture {
    name: &'static str,
    /// The run below `histories/golden`.
    run: &'static str,
    /// The selector of the parts of the page that are shown.
    parts: &'static str,
    dark: bool,
    /// A script that is run before.
    before: &'static str,
}

const PICTURES: &[Picture] = &[
    Picture {
        name: "verdict",
        run: "caught/ack-after-durable",
        parts: "header, #violations",
        dark: false,
        before: "",
    },
    Picture {
        name: "timeline",
        run: "caught/ack-after-durable",
        parts: "#timeline",
        dark: false,
        before: "document.querySelector('[data-action=first-error]').click()",
    },
    Picture {
        name: "messages",
        run: "caught/ack-after-durable",
        parts: "#messages",
        dark: false,
        before: "",
    },
    Picture {
        name: "window-of-uncertainty",
        run: "valid/master-uncertainty",
        parts: "#timeline",
        dark: true,
        before: "document.querySelector('[data-action=next-fault]').click()",
    },
    Picture {
        name: "plots",
        run: "valid/master-uncertainty",
        parts: "#plots",
        dark: true,
        before: "",
    },
];

#[test]
#[ignore = "renews the pictures of histories/golden"]
fn golden_pictures() {
    let mut chrome = Chrome::start().expect("pictures need a browser");
    chrome.size(1120, 900);
    for Picture { name, run, parts, dark, before } in PICTURES {
        let directory = temporary_directory();
        checked_copy(&golden().join(run), directory.path());
        chrome.dark(*dark);
        chrome.open_file(&directory.path().join("report.html"), READY);
        chrome.value(&format!(
            "document.querySelectorAll('header, section, footer').forEach((part) => {{ \
             part.hidden = !part.matches({parts:?}); \
             part.style.display = part.hidden ? 'none' : ''; }})"
        ));
        if !before.is_empty() {
            chrome.value(before);
        }
        chrome.value("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 200)))");
        let picture = chrome.screenshot(Some("body"));
        assert!(picture.len() < 200_000, "{name}: {} bytes", picture.len());
        let path = golden().join("pictures").join(format!("{name}.png"));
        fs::create_dir_all(golden().join("pictures")).expect("the directory can be created");
        fs::write(path, picture).expect("the file can be written");
    }
    let store = temporary_directory();
    for kind in ["valid", "caught"] {
        for run in
            golden_runs().iter().filter(|run| run.parent().is_some_and(|at| at.ends_with(kind)))
        {
            let name = run.file_name().and_then(|name| name.to_str()).expect("the name is UTF-8");
            let test = fs::read_to_string(run.join("test.json")).expect("the file exists");
            let test: Json = serde_json::from_str(&test).expect("JSON");
            let started = test["started"].as_str().unwrap_or("20260101T000000Z").to_owned();
            checked_copy(run, &store.path().join(format!("{kind}-{name}")).join(started));
        }
    }
    let server = Server::start(store.path());
    chrome.dark(false);
    chrome.open(&url(&server, "/"), "document.querySelector('#runs')");
    chrome.value(
        "(() => { const f = document.querySelector('input[name=filter]'); f.value = 'uncertainty'; \
         f.dispatchEvent(new Event('input')); })()",
    );
    let picture = chrome.screenshot(Some("body"));
    fs::write(golden().join("pictures/runs.png"), picture).expect("the file can be written");
}
