//! A page in Chromium without a screen, and what Chromium thinks of it.
//!
//! It is told what to do by its DevTools protocol over a pair of pipes (`--remote-debugging-pipe`): JSON, each message ended by NUL.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::wait_for;

/// For an answer of Chromium.
const ANSWER: Duration = Duration::from_secs(30);

/// What the page asked for, and what was said against it.
#[derive(Debug, Default)]
struct Seen {
    requests: Vec<String>,
    complaints: Vec<String>,
    loaded: bool,
}

/// An open page. Chromium ends with it.
#[derive(Debug)]
pub struct Page {
    line: Mutex<Line>,
    seen: Arc<Mutex<Seen>>,
    session: String,
    chromium: Child,
    _profile: tempfile::TempDir,
}

/// What Chromium is asked by.
#[derive(Debug)]
struct Line {
    to: ChildStdin,
    answers: Receiver<Value>,
    last: u64,
}

/// A screen.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
    /// Pixels of the screen for one of the page.
    pub scale: f64,
}

impl Page {
    /// Opens `url` on `screen`, on the host that the calling thread is on. Without `scripts` it is as with JavaScript off.
    pub fn open(url: &str, screen: Screen, scripts: bool) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Chromium reads 3 and writes 4. Tests are root, who has no sandbox.
        let mut chromium = Command::new("sh")
            .args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"])
            .args(["--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars"])
            .args(["--no-first-run", "--disable-dev-shm-usage", "--disable-component-update", "--disable-sync"])
            .args(["--disable-background-networking", "--force-color-profile=srgb"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--window-size={},{}", screen.width, screen.height))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Debian's chromium runs");
        let (to, from) = (chromium.stdin.take().unwrap(), chromium.stdout.take().unwrap());
        let (answered, answers) = channel();
        let seen = Arc::<Mutex<Seen>>::default();
        let told = Arc::clone(&seen);
        std::thread::spawn(move || {
            for message in BufReader::new(from).split(0).map_while(Result::ok) {
                let message: Value = serde_json::from_slice(&message).unwrap();
                if message["id"].is_null() {
                    told.lock().unwrap().hear(&message);
                } else if answered.send(message).is_err() {
                    break;
                }
            }
        });
        let line = Mutex::new(Line { to, answers, last: 0 });
        let mut page = Self { line, seen, session: String::new(), chromium, _profile: profile };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let session = page.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        page.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Log", "Runtime", "Network"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page.call("Emulation.setScriptExecutionDisabled", json!({ "value": !scripts }));
        page.show_on(screen);
        page.seen.lock().unwrap().loaded = false;
        page.call("Page.navigate", json!({ "url": url }));
        let loaded = || page.seen.lock().unwrap().loaded.then_some(());
        wait_for("the page", loaded, || format!("{:#?}", page.seen.lock().unwrap()));
        page
    }

    /// The result of `method`.
    fn call(&self, method: &str, params: Value) -> Value {
        let mut line = self.line.lock().unwrap();
        line.last += 1;
        let id = line.last;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        line.to.write_all(format!("{message}\0").as_bytes()).expect("Chromium runs");
        let mut answer = match line.answers.recv_timeout(ANSWER) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => panic!("no answer to {message}"),
            Err(RecvTimeoutError::Disconnected) => panic!("Chromium has ended"),
        };
        assert!(answer["id"] == id && answer["error"].is_null(), "{message}: {answer}");
        answer["result"].take()
    }

    /// Shows it on another screen.
    pub fn show_on(&self, screen: Screen) {
        let Screen { width, height, dark, scale } = screen;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// The value of `script`, as JSON.
    pub fn ask(&self, script: &str) -> Value {
        let asked = json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{script}: {answer}");
        answer["result"]["value"].take()
    }

    /// Has `script` run as it is.
    pub fn run(&self, script: &str) {
        let answer = self.call("Runtime.evaluate", json!({ "expression": script, "returnByValue": false }));
        assert!(answer["exceptionDetails"].is_null(), "{answer}");
    }

    /// The text that is seen of the part `id`.
    pub fn text(&self, id: &str) -> String {
        let text = self.ask(&format!("document.getElementById({id:?}).innerText"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until `is` likes the text of the part `id`.
    pub fn wait(&self, what: &str, id: &str, is: impl Fn(&str) -> bool) -> String {
        let look = || Some(self.text(id)).filter(|text| is(text));
        wait_for(what, look, || format!("#{id}: {}\n{:#?}", self.text(id), self.seen.lock().unwrap()))
    }

    /// Presses Tab or Enter.
    pub fn press(&self, key: &str) {
        let (code, text) = if key == "Enter" { (13, "\r") } else { (9, "") };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Errors and warnings of its console, and what its policy forbade.
    pub fn complaints(&self) -> Vec<String> {
        self.seen.lock().unwrap().complaints.clone()
    }

    /// Everything that it asked for.
    pub fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }

    /// Writes what is seen of it to `file`.
    pub fn photograph(&self, file: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let mut decode = Command::new("base64");
        let output = std::fs::File::create(file).unwrap();
        let mut decode = decode.arg("-d").stdin(Stdio::piped()).stdout(output).spawn().unwrap();
        decode.stdin.take().unwrap().write_all(picture["data"].as_str().unwrap().as_bytes()).unwrap();
        assert!(decode.wait().unwrap().success());
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.chromium.kill();
        let _ = self.chromium.wait();
    }
}

impl Seen {
    fn hear(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Page.loadEventFired" => self.loaded = true,
            "Network.requestWillBeSent" => {
                self.requests.push(params["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            "Log.entryAdded" => self.complaints.push(params["entry"].to_string()),
            "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" => self.complaints.push(params.to_string()),
            _ => {}
        }
    }
}
