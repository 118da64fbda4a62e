//! Drives a headless Chromium by the DevTools protocol: loads pages, evaluates expressions, sends input,
//! and collects errors.

use std::{
    env, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

/// The deadline for any single step.
const DEADLINE: Duration = Duration::from_secs(60);

/// Finds Chromium in `PATH`.
pub(crate) fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    env::split_paths(&path)
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .find(|program| program.is_file())
}

/// A browser with one open page. Dropping it ends the browser.
pub(crate) struct Chrome {
    process: Child,
    _profile: TempDir,
    socket: WebSocket<TcpStream>,
    session: String,
    last_id: u64,
    /// Uncaught exceptions and console errors of the page.
    errors: Vec<String>,
}

impl Chrome {
    /// Starts a browser.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(crate) fn start() -> Result<Chrome, String> {
        let program = find().ok_or("no chromium")?;
        let profile = tempfile::tempdir().expect("a temporary directory");
        let process = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars"])
            .args(["--disable-background-networking", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("chromium does not start: {error}"))?;
        let port_file = profile.path().join("DevToolsActivePort");
        let mut process = KillOnDrop(Some(process));
        let (port, path) = until("the browser", || {
            let text = fs::read_to_string(&port_file).ok()?;
            let (port, path) = text.split_once('\n')?;
            Some((port.parse::<u16>().ok()?, path.trim().to_owned()))
        });
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let (socket, _) = tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), stream)
            .expect("it speaks WebSocket");
        let process = process.0.take().expect("it was just started");
        let mut chrome = Chrome {
            process,
            _profile: profile,
            socket,
            session: String::new(),
            last_id: 0,
            errors: Vec::new(),
        };
        let target = chrome.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = chrome.call("Target.attachToTarget", attach);
        chrome.session = session["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            chrome.call(&format!("{domain}.enable"), json!({}));
        }
        chrome.size(1200, 900);
        Ok(chrome)
    }

    /// Sends a command and returns its result.
    fn call(&mut self, method: &str, params: Json) -> Json {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Sends a command and returns its result, or the error of the browser.
    fn try_call(&mut self, method: &str, params: Json) -> Result<Json, Json> {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(message.to_string())).expect("the browser listens");
        loop {
            let Message::Text(text) = self.socket.read().expect("the browser answers") else {
                continue;
            };
            let message: Json = serde_json::from_str(&text).expect("JSON");
            if message["id"] == json!(id) {
                return match message.get("error") {
                    Some(error) => Err(error.clone()),
                    None => Ok(message["result"].clone()),
                };
            }
            self.collect_error(&message);
        }
    }

    /// Keeps the message if it reports an error.
    fn collect_error(&mut self, message: &Json) {
        let params = &message["params"];
        let error = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => params["exceptionDetails"].to_string(),
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => {
                params["args"].to_string()
            }
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                params["entry"].to_string()
            }
            _ => return,
        };
        self.errors.push(error);
    }

    /// Sets the size of the viewport.
    pub(crate) fn size(&mut self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Selects the dark or the light colour scheme.
    pub(crate) fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Enables or disables scripts.
    pub(crate) fn scripts(&mut self, on: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({ "value": !on }));
    }

    /// Loads a page and waits until an expression is true in it.
    pub(crate) fn open(&mut self, url: &str, ready: &str) {
        self.call("Page.navigate", json!({ "url": url }));
        self.wait(ready);
    }

    /// Loads a file and waits until an expression is true in it.
    pub(crate) fn open_file(&mut self, path: &Path, ready: &str) {
        let path = fs::canonicalize(path).expect("the file exists");
        self.open(&format!("file://{}", path.display()), ready);
    }

    /// The value of an expression.
    pub(crate) fn value(&mut self, expression: &str) -> Json {
        let params = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let answer = self.call("Runtime.evaluate", params);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The value of an expression, as text.
    pub(crate) fn text(&mut self, expression: &str) -> String {
        self.value(expression)
            .as_str()
            .unwrap_or_else(|| panic!("{expression}: no text"))
            .to_owned()
    }

    /// Waits until an expression is true, also across a navigation.
    pub(crate) fn wait(&mut self, expression: &str) {
        let guarded =
            format!("(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()");
        let params = json!({ "expression": guarded, "returnByValue": true });
        until(expression, || {
            // Evaluation fails during a navigation.
            let answer = self.try_call("Runtime.evaluate", params.clone()).ok()?;
            (answer["result"]["value"] == json!(true)).then_some(())
        });
    }

    /// Clicks in the middle of the first element that a selector matches.
    pub(crate) fn click(&mut self, selector: &str) {
        let at = self.value(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: \
             'center', behavior: 'instant'}}); const b = e.getBoundingClientRect(); \
             return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        ));
        let [x, y] = [0, 1].map(|n| at[n].as_f64().expect("a position"));
        self.click_at(x, y);
    }

    /// Clicks at a position of the viewport.
    pub(crate) fn click_at(&mut self, x: f64, y: f64) {
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses a key.
    pub(crate) fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key });
            if kind == "keyDown" && key.chars().count() == 1 {
                event["text"] = json!(key);
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// A screenshot of the viewport, or of an element, as PNG.
    pub(crate) fn screenshot(&mut self, selector: Option<&str>) -> Vec<u8> {
        let mut params = json!({ "format": "png", "captureBeyondViewport": true });
        if let Some(selector) = selector {
            let b = self.value(&format!(
                "(() => {{ const b = document.querySelector({selector:?}).getBoundingClientRect(); \
                 return [b.x + scrollX, b.y + scrollY, b.width, b.height]; }})()"
            ));
            params["clip"] = json!({
                "x": b[0], "y": b[1], "width": b[2], "height": b[3], "scale": 1,
            });
        }
        let screenshot = self.call("Page.captureScreenshot", params);
        STANDARD.decode(screenshot["data"].as_str().expect("data")).expect("it is base64")
    }

    /// The errors since the last call.
    pub(crate) fn errors(&mut self) -> Vec<String> {
        // A round trip, so that every earlier event has been read.
        self.value("0");
        std::mem::take(&mut self.errors)
    }
}

impl Drop for Chrome {
    fn drop(&mut self) {
        let close = json!({ "id": 0, "method": "Browser.close" });
        let _ = self.socket.send(Message::text(close.to_string()));
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Kills the process if the start fails.
struct KillOnDrop(Option<Child>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Polls until there is a value.
pub(crate) fn until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
