//! A headless Chromium, driven by its DevTools protocol: pages are loaded, scripts asked, errors
//! collected. Knows nothing of what the pages are.

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

/// Far beyond anything that should take long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where Chromium is, if it is anywhere.
pub(crate) fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    env::split_paths(&path)
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .find(|program| program.is_file())
}

/// A browser with one page open, ended with this.
pub(crate) struct Chrome {
    process: Child,
    _profile: TempDir,
    socket: WebSocket<TcpStream>,
    session: String,
    last_id: u64,
    /// What went wrong in the page: exceptions, errors in its console.
    errors: Vec<String>,
}

impl Chrome {
    /// Starts a browser, or says why there is none.
    pub(crate) fn start() -> Result<Chrome, String> {
        let program = find().ok_or("no chromium")?;
        let profile = tempfile::tempdir().expect("a directory for the test");
        let process = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars"])
            .args(["--disable-background-networking", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("chromium does not start: {error}"))?;
        let told = profile.path().join("DevToolsActivePort");
        let mut process = Ended(Some(process));
        let (port, path) = until("the browser", || {
            let text = fs::read_to_string(&told).ok()?;
            let (port, path) = text.split_once('\n')?;
            Some((port.parse::<u16>().ok()?, path.trim().to_owned()))
        });
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time");
        let (socket, _) = tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), stream)
            .expect("it speaks the protocol");
        let process = process.0.take().expect("it was just started");
        let mut chrome = Chrome {
            process,
            _profile: profile,
            socket,
            session: String::new(),
            last_id: 0,
            errors: Vec::new(),
        };
        let target = chrome.ask("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = chrome.ask("Target.attachToTarget", attach);
        chrome.session = session["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            chrome.ask(&format!("{domain}.enable"), json!({}));
        }
        chrome.size(1200, 900);
        Ok(chrome)
    }

    /// Sends a command, and gives its result.
    fn ask(&mut self, method: &str, params: Json) -> Json {
        self.attempt(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Sends a command, and gives its result, or what the browser has against it.
    fn attempt(&mut self, method: &str, params: Json) -> Result<Json, Json> {
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
            self.hear(&message);
        }
    }

    /// Keeps what tells of an error.
    fn hear(&mut self, message: &Json) {
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

    /// How large the window is.
    pub(crate) fn size(&mut self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.ask("Emulation.setDeviceMetricsOverride", size);
    }

    /// Whether the reader likes it dark.
    pub(crate) fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.ask("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Whether pages may run scripts.
    pub(crate) fn scripts(&mut self, on: bool) {
        self.ask("Emulation.setScriptExecutionDisabled", json!({ "value": !on }));
    }

    /// Loads a page and waits until this holds in it.
    pub(crate) fn open(&mut self, url: &str, ready: &str) {
        self.ask("Page.navigate", json!({ "url": url }));
        self.wait(ready);
    }

    /// Loads a file.
    pub(crate) fn open_file(&mut self, path: &Path, ready: &str) {
        let path = fs::canonicalize(path).expect("it is there");
        self.open(&format!("file://{}", path.display()), ready);
    }

    /// The value of an expression.
    pub(crate) fn value(&mut self, expression: &str) -> Json {
        let params = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let answer = self.ask("Runtime.evaluate", params);
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

    /// Waits until an expression is true, in whichever page a click may lead to.
    pub(crate) fn wait(&mut self, expression: &str) {
        let guarded =
            format!("(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()");
        let params = json!({ "expression": guarded, "returnByValue": true });
        until(expression, || {
            // A page that is being left answers nothing.
            let answer = self.attempt("Runtime.evaluate", params.clone()).ok()?;
            (answer["result"]["value"] == json!(true)).then_some(())
        });
    }

    /// Clicks in the middle of the first element that a selector finds.
    pub(crate) fn click(&mut self, selector: &str) {
        let at = self.value(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: \
             'center', behavior: 'instant'}}); const b = e.getBoundingClientRect(); \
             return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        ));
        let [x, y] = [0, 1].map(|n| at[n].as_f64().expect("a place"));
        self.click_at(x, y);
    }

    /// Clicks at a place of the window.
    pub(crate) fn click_at(&mut self, x: f64, y: f64) {
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.ask("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses a key.
    pub(crate) fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key });
            if kind == "keyDown" && key.chars().count() == 1 {
                event["text"] = json!(key);
            }
            self.ask("Input.dispatchKeyEvent", event);
        }
    }

    /// A picture of the window, or of an element, as PNG.
    pub(crate) fn picture(&mut self, selector: Option<&str>) -> Vec<u8> {
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
        let picture = self.ask("Page.captureScreenshot", params);
        STANDARD.decode(picture["data"].as_str().expect("data")).expect("as it was encoded")
    }

    /// What went wrong in pages since the last time.
    pub(crate) fn errors(&mut self) -> Vec<String> {
        // A question, so that all that came before its answer is heard.
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

/// A process that is not left behind if the start fails.
struct Ended(Option<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Waits for something to come out.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
