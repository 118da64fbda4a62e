//! The pages in a browser: loaded, clicked through, and not one error in the console. Without
//! Chromium each test says that it was skipped.
//!
//! `cargo test -p harness --test browser -- --ignored` takes the pictures of `histories/golden` anew.

mod chrome;
#[path = "../support/copy.rs"]
mod copy;
#[path = "../support/server.rs"]
mod server;

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use harness::{
    checker::{Results, linearizability::Limits},
    report,
    twopc::{Run, check},
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use self::{chrome::Chrome, copy::copy, server::Server};

const READY: &str = "document.documentElement.dataset.ready === 'yes'";

/// A browser, or none, which is said.
fn browser(test: &str) -> Option<Chrome> {
    Chrome::start().map_err(|why| println!("{test}: skipped: {why}")).ok()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../histories/golden")
}

/// Every kept run, by its path below `histories/golden`.
fn kept() -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("it can be listed").flatten() {
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

/// A copy of a kept run, judged, with its page.
fn judged(run: &Path, to: &Path) -> Results {
    copy(run, to);
    let run = Run::load(to).expect("a run");
    let results = check(&run, &Limits::default());
    let text = serde_json::to_string(&results).expect("plain data");
    fs::write(to.join("results.json"), text).expect("it may be written");
    report::write(to, &run, &results).expect("it may be written");
    results
}

fn place() -> TempDir {
    tempfile::tempdir().expect("a directory for the test")
}

fn no_errors(chrome: &mut Chrome, what: &str) {
    assert_eq!(chrome.errors(), Vec::<String>::new(), "{what}");
}

#[test]
fn every_kept_run_has_a_page_that_shows_its_history_as_it_is() {
    let Some(mut chrome) = browser("every_kept_run_has_a_page") else { return };
    for (run, dark) in kept().iter().zip([false, true].into_iter().cycle()) {
        let what = run.display().to_string();
        let place = place();
        let results = judged(run, place.path());
        chrome.dark(dark);
        chrome.open_file(&place.path().join("report.html"), READY);
        let verdict = chrome.text("document.querySelector('h1 span:last-child').textContent");
        assert_eq!(verdict, results.verdict.to_string(), "{what}");
        // What hovering shows is what stands in the history.
        let lines = chrome.value(
            "Array.from(run.data.columns['o.index'], (_, i) => run.history(run.op(i))).flat()",
        );
        let mut shown: Vec<&str> =
            lines.as_array().expect("lines").iter().filter_map(Json::as_str).collect();
        let history = fs::read_to_string(run.join("history.jsonl")).expect("it is there");
        let mut written: Vec<&str> =
            history.lines().filter(|line| !line.contains("\"process\":\"nemesis\"")).collect();
        shown.sort_unstable();
        written.sort_unstable();
        assert_eq!(shown, written, "{what}");
        no_errors(&mut chrome, &what);
    }
}

#[test]
fn a_page_is_clicked_through() {
    let Some(mut chrome) = browser("a_page_is_clicked_through") else { return };
    for name in ["linearizability-invalid", "atomicity-ac1-invalid", "atomicity-valid"] {
        let run = kept().into_iter().find(|run| run.ends_with(name)).expect("it is kept");
        let place = place();
        judged(&run, place.path());
        chrome.open_file(&place.path().join("report.html"), READY);
        let span = "(run.view()[1] - run.view()[0])";
        chrome.click("[data-do=all]");
        let whole = chrome.value(span).as_f64().expect("a time");
        chrome.click("[data-do=in]");
        chrome.wait(&format!("{span} < {whole} * 0.6"));
        chrome.click("[data-do=out]");
        chrome.click("[data-do=error]");
        chrome.wait("document.querySelector('output[name=said]').textContent !== ''");
        chrome.click("[data-do=after]");
        chrome.click("[data-do=before]");
        if chrome.value("run.data.windows.length > 0") == json!(true) {
            chrome.wait("document.querySelector('#detail').textContent.includes('nemesis')");
        }
        for key in ["ArrowRight", "+", "-", "n", "p", "0", "e", "Escape"] {
            chrome.click("h1");
            chrome.key(key);
        }
        // What was clicked is pinned, and hovering elsewhere does not change it.
        chrome.click("[data-do=all]");
        let found = chrome.value(
            "(() => { const c = document.querySelector('#canvas'); \
             c.scrollIntoView({block: 'center', behavior: 'instant'}); \
             const b = c.getBoundingClientRect(); const o = run.op(0); \
             const lane = o.process % run.data.clients; const [from, to] = run.view(); \
             return [b.x + 124 + (o.time - from) / (to - from) * (b.width - 124) + 1, b.y, lane]; })()",
        );
        let [x, top, _lane] = [0, 1, 2].map(|n| found[n].as_f64().expect("a place"));
        let pinned = (0..40).any(|row| {
            chrome.click_at(x, top + 24.0 + 8.0 * f64::from(row));
            chrome.value("run.said().includes('\"type\":\"invoke\"')") == json!(true)
        });
        assert!(pinned, "{name}: no operation where the first one is");
        let key = chrome.text("run.data.keys[0]");
        chrome.value(&format!(
            "(() => {{ const find = document.querySelector('input[name=find]'); find.value = {key:?}; \
             find.form.requestSubmit(); }})()"
        ));
        chrome.wait("document.querySelector('select[name=key]').value === '0'");
        chrome.click("[data-do=there]");
        chrome.wait("run.said().includes('transaction')");
        let stories = chrome.value("run.data.stories.length").as_u64().expect("a number");
        assert!(stories > 0, "{name}");
        for n in 0..stories.min(5) {
            chrome.value(&format!(
                "(() => {{ const s = document.querySelector('select[name=story]'); \
                 s.selectedIndex = {n}; s.dispatchEvent(new Event('change')); }})()"
            ));
            chrome.wait("document.querySelectorAll('#diagram .arrow').length > 0");
        }
        if chrome.value("!!document.querySelector('a.line')") == json!(true) {
            chrome.click("a.line");
            chrome.wait("run.said().includes('journal line')");
            chrome.click("a.txn");
            chrome.wait(
                "document.querySelector('output[name=said]').textContent.includes('transaction')",
            );
        }
        chrome.size(420, 800);
        chrome.value("dispatchEvent(new Event('resize'))");
        chrome.size(1200, 900);
        no_errors(&mut chrome, name);
    }
}

#[test]
fn the_verdict_is_there_without_scripts() {
    let Some(mut chrome) = browser("the_verdict_is_there_without_scripts") else { return };
    let run = kept().into_iter().find(|run| run.ends_with("linearizability-invalid"));
    let place = place();
    judged(&run.expect("it is kept"), place.path());
    chrome.scripts(false);
    chrome.open_file(&place.path().join("report.html"), "document.readyState === 'complete'");
    for part in ["invalid", "has no order", "What was checked", "Faults, and what was in doubt"] {
        let seen = chrome.value(&format!("document.body.innerText.includes({part:?})"));
        assert_eq!(seen, json!(true), "{part}");
    }
    assert_eq!(chrome.value("document.querySelectorAll('svg.plot').length"), json!(4));
    assert_eq!(
        chrome.value("getComputedStyle(document.querySelector('#lanes')).height"),
        json!("auto")
    );
    no_errors(&mut chrome, "without scripts");
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.host)
}

#[test]
fn the_runs_of_a_store_are_looked_at() {
    let Some(mut chrome) = browser("the_runs_of_a_store_are_looked_at") else { return };
    let store = place();
    let names = ["atomicity-valid", "atomicity-ac1-invalid", "faults-vacuous"];
    for (name, n) in names.iter().zip(1..) {
        let run = kept().into_iter().find(|run| run.ends_with(name)).expect("it is kept");
        judged(&run, &store.path().join(format!("twopc-{name}/2026010{n}T000000Z")));
    }
    let server = Server::start(store.path());
    let rows = "[...document.querySelectorAll('#runs tbody tr')].filter((row) => !row.hidden)";
    chrome.open(&url(&server, "/"), &format!("{rows}.length === 3"));
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
    chrome.wait("document.querySelector('output[name=said]').textContent.includes('mark two')");
    chrome.click("#runs tbody tr:nth-child(3) input");
    chrome.click("form.tools button");
    chrome.wait("document.querySelector('table.compare') && [...document.images].length === 8");
    chrome.click("thead a");
    chrome.wait(READY);
    no_errors(&mut chrome, "the list, two runs, a run");

    // A run that goes on, until it is judged.
    let run = store.path().join("twopc-none/20260105T000000Z");
    fs::create_dir_all(&run).expect("it may be made");
    fs::write(run.join("test.json"), "{}").expect("it may be written");
    let history = run.join("history.jsonl");
    let mut history = OpenOptions::new().create(true).append(true).open(history).expect("a file");
    let mut line = |index: u64, kind: &str| {
        let time = index * 1_000_000;
        writeln!(
            history,
            "{{\"index\":{index},\"time\":{time},\"process\":1,\"type\":\"{kind}\",\"f\":\"get\",\"key\":\"a\"}}"
        )
        .expect("it may be written");
    };
    line(0, "invoke");
    chrome.open(
        &url(&server, "/run/twopc-none/20260105T000000Z/"),
        "document.querySelector('#total').textContent === '1'",
    );
    line(1, "fail");
    line(2, "invoke");
    chrome.wait("document.querySelector('#total').textContent === '2'");
    judged(&store.path().join("twopc-atomicity-valid/20260101T000000Z"), &run);
    chrome.wait(READY);
    no_errors(&mut chrome, "a run that goes on");
}

#[test]
#[ignore = "measures how long a page takes to open: PAGE=PATH/report.html"]
fn opening() {
    let path = std::env::var("PAGE").expect("PAGE=PATH/report.html");
    let mut chrome = Chrome::start().expect("pages need a browser");
    let size = fs::metadata(&path).expect("it is there").len();
    for _ in 0..5 {
        chrome.open("about:blank", "true");
        chrome.open_file(Path::new(&path), READY);
        let told = chrome.value(
            "(() => { const [n] = performance.getEntriesByType('navigation'); \
             const paint = performance.getEntriesByName('first-contentful-paint')[0]; \
             const began = performance.now(); run.paint(); const painted = performance.now() - began; \
             return [run.data.columns['o.index'].length, paint ? paint.startTime : null, \
             n.domInteractive, run.ready, painted].map((ms) => ms && Math.round(ms)); })()",
        );
        println!(
            "{size} bytes; operations drawn, ms to the first paint, to the whole page, from there \
             to the timeline, to draw it again: {told}"
        );
    }
    no_errors(&mut chrome, &path);
}

/// A picture that is kept: of which run, what of its page, light or dark, what is done before.
struct Picture {
    name: &'static str,
    run: &'static str,
    parts: &'static str,
    dark: bool,
    before: &'static str,
}

const PICTURES: &[Picture] = &[
    Picture {
        name: "verdict",
        run: "caught/ack-after-durable",
        parts: "header, #wrong",
        dark: false,
        before: "",
    },
    Picture {
        name: "timeline",
        run: "caught/ack-after-durable",
        parts: "#timeline",
        dark: false,
        before: "document.querySelector('[data-do=error]').click()",
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
        before: "document.querySelector('[data-do=after]').click()",
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
#[ignore = "takes the pictures of histories/golden anew"]
fn pictures() {
    let mut chrome = Chrome::start().expect("pictures need a browser");
    chrome.size(1120, 900);
    for Picture { name, run, parts, dark, before } in PICTURES {
        let place = place();
        judged(&golden().join(run), place.path());
        chrome.dark(*dark);
        chrome.open_file(&place.path().join("report.html"), READY);
        chrome.value(&format!(
            "document.querySelectorAll('header, section, footer').forEach((part) => {{ \
             part.hidden = !part.matches({parts:?}); \
             part.style.display = part.hidden ? 'none' : ''; }})"
        ));
        if !before.is_empty() {
            chrome.value(before);
        }
        chrome.value("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 200)))");
        let picture = chrome.picture(Some("body"));
        assert!(picture.len() < 200_000, "{name}: {} bytes", picture.len());
        let path = golden().join("pictures").join(format!("{name}.png"));
        fs::create_dir_all(golden().join("pictures")).expect("it may be made");
        fs::write(path, picture).expect("it may be written");
    }
    let store = place();
    for kind in ["valid", "caught"] {
        for run in kept().iter().filter(|run| run.parent().is_some_and(|at| at.ends_with(kind))) {
            let name = run.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
            let test = fs::read_to_string(run.join("test.json")).expect("it is there");
            let test: Json = serde_json::from_str(&test).expect("JSON");
            let started = test["started"].as_str().unwrap_or("20260101T000000Z").to_owned();
            judged(run, &store.path().join(format!("{kind}-{name}")).join(started));
        }
    }
    let server = Server::start(store.path());
    chrome.dark(false);
    chrome.open(&url(&server, "/"), "document.querySelector('#runs')");
    chrome.value(
        "(() => { const f = document.querySelector('input[name=filter]'); f.value = 'uncertainty'; \
         f.dispatchEvent(new Event('input')); })()",
    );
    let picture = chrome.picture(Some("body"));
    fs::write(golden().join("pictures/runs.png"), picture).expect("it may be written");
}
