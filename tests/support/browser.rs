//! A headless Chromium, driven by its DevTools protocol over two pipes.
//!
//! The browser reads commands from its descriptor 3 and writes answers to 4. A shell opens them, as named pipes, and
//! becomes the browser: with ordinary means a child inherits no other descriptors than 0, 1 and 2.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

/// Longer than any answer takes, on a machine that does something else too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page. It ends with its handle.
pub(crate) struct Browser {
    child: Child,
    commands: File,
    messages: Receiver<Value>,
    session: Option<String>,
    last_id: u64,
    /// Whether pages run their scripts.
    scripts: bool,
    /// What the page did, oldest first, with the method of the protocol that tells it.
    pub(crate) events: Vec<Value>,
    _dir: tempfile::TempDir,
}

impl Browser {
    /// Starts the browser of `target/servers/bin`. The tests cannot do without.
    pub(crate) fn start() -> Browser {
        let starter = super::server::starter("chromium");
        assert!(
            starter.exists(),
            "no {}: run tests/install-servers",
            starter.display()
        );
        let dir = tempfile::tempdir().expect("a directory for the browser");
        let (commands, answers) = (dir.path().join("commands"), dir.path().join("answers"));
        for pipe in [&commands, &answers] {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0)
                .expect("a pipe");
        }
        let child = Command::new("sh")
            .args([
                "-c",
                r#"commands=$1 answers=$2; shift 2; exec "$@" 3<"$commands" 4>"$answers""#,
                "sh",
            ])
            .args([&commands, &answers, &starter])
            .args([
                "--remote-debugging-pipe",
                "--headless",
                "--disable-gpu",
                "--no-first-run",
            ])
            // Root may not have the sandbox, and CI is root. What is shown is the project's own page.
            .args(["--no-sandbox", "--disable-dev-shm-usage"])
            .arg(format!(
                "--user-data-dir={}",
                dir.path().join("profile").display()
            ))
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        // Each waits for the shell to open the other end, in the shell's order.
        let commands = OpenOptions::new()
            .write(true)
            .open(&commands)
            .expect("the browser's ear");
        let answers = File::open(&answers).expect("the browser's mouth");
        let (told, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0) {
                let Ok(message) = message else { return };
                let message = serde_json::from_slice(&message).expect("JSON of the browser");
                if told.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Browser {
            child,
            commands,
            messages,
            session: None,
            last_id: 0,
            scripts: true,
            events: Vec::new(),
            _dir: dir,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network", "DOM"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.set_dark(false);
        browser
    }

    /// Sends a command and waits for its answer. What the page does meanwhile is kept in `events`.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut command = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut line = serde_json::to_vec(&command).expect("JSON");
        line.push(0);
        self.commands
            .write_all(&line)
            .expect("a browser that listens");
        let mut answer = self.wait(method, |message| message["id"] == json!(id));
        assert!(
            answer.get("error").is_none(),
            "{method}: {}",
            answer["error"]
        );
        answer["result"].take()
    }

    /// The first message from now on that is meant. Others are kept in `events`.
    fn wait(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            match self
                .messages
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(message) if is_it(&message) => return message,
                Ok(message) => self.events.push(message),
                Err(RecvTimeoutError::Timeout) => panic!("the browser does not answer {what}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the browser ended at {what}"),
            }
        }
    }

    /// Shows a file, and waits until it is loaded and its scripts have seen it laid out.
    pub(crate) fn open(&mut self, path: &Path) {
        self.events.clear();
        self.call(
            "Page.navigate",
            json!({"url": format!("file://{}", path.display())}),
        );
        // The answer may come behind the event.
        if !self.happened("Page.loadEventFired") {
            let loaded = self.wait("a page to load", |message| {
                message["method"] == "Page.loadEventFired"
            });
            self.events.push(loaded);
        }
        if self.scripts {
            // What a script is told of sizes it is told before a frame is drawn.
            let frame = "requestAnimationFrame(() => requestAnimationFrame(() => done(0)))";
            self.evaluate(&format!("new Promise((done) => {frame})"));
        }
    }

    fn happened(&self, method: &str) -> bool {
        self.events.iter().any(|event| event["method"] == method)
    }

    /// What the page and the browser complained of since the page was opened: exceptions, and all that was logged.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // What was on its way is here once this is answered.
        self.evaluate("0");
        let is_one = |event: &&Value| {
            let method = event["method"].as_str().unwrap_or_default();
            [
                "Runtime.exceptionThrown",
                "Runtime.consoleAPICalled",
                "Log.entryAdded",
            ]
            .contains(&method)
        };
        self.events
            .iter()
            .filter(is_one)
            .map(Value::to_string)
            .collect()
    }

    /// The addresses that were asked for since the page was opened.
    pub(crate) fn requests(&mut self) -> Vec<String> {
        self.evaluate("0");
        let sent = |event: &&Value| event["method"] == "Network.requestWillBeSent";
        let url = |event: &Value| {
            event["params"]["request"]["url"]
                .as_str()
                .unwrap_or("?")
                .to_owned()
        };
        self.events.iter().filter(sent).map(url).collect()
    }

    /// The value of an expression in the page; a promise is waited for.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", params);
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {}",
            answer["exceptionDetails"]
        );
        answer["result"]["value"].take()
    }

    /// As [`Browser::evaluate`], of a text.
    pub(crate) fn text(&mut self, expression: &str) -> String {
        let value = self.evaluate(expression);
        value
            .as_str()
            .unwrap_or_else(|| panic!("{expression} is {value}"))
            .to_owned()
    }

    /// As [`Browser::evaluate`], of a list of texts.
    pub(crate) fn texts(&mut self, expression: &str) -> Vec<String> {
        let value = self.evaluate(expression);
        serde_json::from_value(value.clone()).unwrap_or_else(|_| panic!("{expression} is {value}"))
    }

    /// Presses and releases a key, by the name that `KeyboardEvent.key` gives it.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "Backspace" => (8, ""),
            " " => (32, " "),
            "ArrowLeft" => (37, ""),
            "ArrowRight" => (39, ""),
            other => panic!("the number of the key {other} is not known here"),
        };
        let down = if text.is_empty() {
            "rawKeyDown"
        } else {
            "keyDown"
        };
        let code_name = if key == " " { "Space" } else { key };
        for kind in [down, "keyUp"] {
            let text = if kind == "keyUp" { "" } else { text };
            let params = json!({"type": kind, "key": key, "code": code_name, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// Clicks with the mouse in the middle of an element, which an expression names.
    pub(crate) fn click(&mut self, element: &str) {
        let at = self.evaluate(&format!(
            "(() => {{ const e = {element}; e.scrollIntoView({{block: 'center', behavior: 'instant'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let params =
                json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    /// Gives the page a size, that of a phone that is touched or of a window.
    pub(crate) fn resize(&mut self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", size);
        self.call(
            "Emulation.setTouchEmulationEnabled",
            json!({"enabled": phone}),
        );
    }

    /// Lets the page believe that its reader wants it dark, or light.
    pub(crate) fn set_dark(&mut self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        // And wants nothing to move: what a test points at stays where it is.
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Keeps pages from running scripts, or lets them.
    pub(crate) fn set_scripts(&mut self, run: bool) {
        self.call(
            "Emulation.setScriptExecutionDisabled",
            json!({"value": !run}),
        );
        self.scripts = run;
    }

    /// Writes the page to PNGs in the directory that PAGE_PICTURES names, for a person to look at: in pieces of a size
    /// that an eye can take in, the first few of a long page, beginning with the element of a selector.
    pub(crate) fn picture(&mut self, name: &str, from: &str) {
        let Ok(dir) = std::env::var("PAGE_PICTURES") else {
            return;
        };
        let size = self.evaluate(&format!(
            "scrollTo(0, 0), [innerWidth, document.documentElement.scrollHeight, \
             Math.round(document.querySelector('{from}').getBoundingClientRect().top)]"
        ));
        let [width, height, from] = [0, 1, 2].map(|at| size[at].as_u64().expect("a size"));
        let tall = if width < 500 { 1000 } else { 1250 };
        for (at, top) in (from..height.min(from + 5 * tall))
            .step_by(tall as usize)
            .enumerate()
        {
            let piece = json!({"x": 0, "y": top, "width": width, "height": tall.min(height - top), "scale": 1});
            let params = json!({"format": "png", "captureBeyondViewport": true, "clip": piece});
            let picture = self.call("Page.captureScreenshot", params);
            let data = picture["data"].as_str().expect("a picture");
            let png = base64::engine::general_purpose::STANDARD
                .decode(data)
                .expect("base64");
            std::fs::write(Path::new(&dir).join(format!("{name}-{at}.png")), png).expect("a file");
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
