//! A page in Chromium without a screen, and what Chromium thinks of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headless_chrome::protocol::cdp::types::Event;
use headless_chrome::protocol::cdp::{Emulation, Network, Page as Protocol};
use headless_chrome::{Browser, LaunchOptions, Tab};

use crate::process::wait_for;

const PROGRAM: &str = "/usr/bin/chromium";

/// What the page asked for, and what was said against it.
#[derive(Debug, Default)]
struct Seen {
    requests: Vec<String>,
    complaints: Vec<String>,
}

/// An open page. Chromium ends with it.
pub struct Page {
    tab: Arc<Tab>,
    seen: Arc<Mutex<Seen>>,
    // Last: the tab is its.
    _browser: Browser,
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
        let options = LaunchOptions {
            path: Some(PathBuf::from(PROGRAM)),
            // Tests are root.
            sandbox: false,
            window_size: Some((screen.width, screen.height)),
            idle_browser_timeout: Duration::from_secs(600),
            args: vec!["--hide-scrollbars".as_ref(), "--disable-component-update".as_ref()],
            ..LaunchOptions::default()
        };
        let browser = Browser::new(options).expect("Debian's chromium runs");
        let tab = browser.new_tab().unwrap();
        tab.set_default_timeout(Duration::from_secs(20));
        let seen = Arc::<Mutex<Seen>>::default();
        let told = Arc::clone(&seen);
        tab.add_event_listener(Arc::new(move |event: &Event| told.lock().unwrap().hear(event))).unwrap();
        tab.enable_log().unwrap().enable_runtime().unwrap();
        let enable = Network::Enable {
            max_total_buffer_size: None,
            max_resource_buffer_size: None,
            max_post_data_size: None,
            report_direct_socket_traffic: None,
            enable_durable_messages: None,
        };
        tab.call_method(enable).unwrap();
        let page = Self { tab, seen, _browser: browser };
        if !scripts {
            page.tab.call_method(Emulation::SetScriptExecutionDisabled { value: true }).unwrap();
        }
        page.show_on(screen);
        page.tab.navigate_to(url).unwrap().wait_until_navigated().unwrap();
        page
    }

    /// Shows it on another screen.
    pub fn show_on(&self, screen: Screen) {
        let metrics = Emulation::SetDeviceMetricsOverride {
            width: screen.width,
            height: screen.height,
            device_scale_factor: screen.scale,
            mobile: screen.width < 600,
            scale: None,
            screen_width: None,
            screen_height: None,
            position_x: None,
            position_y: None,
            dont_set_visible_size: None,
            screen_orientation: None,
            viewport: None,
            display_feature: None,
            device_posture: None,
        };
        self.tab.call_method(metrics).unwrap();
        let scheme = if screen.dark { "dark" } else { "light" }.to_owned();
        let features = vec![Emulation::MediaFeature { name: "prefers-color-scheme".to_owned(), value: scheme }];
        self.tab.call_method(Emulation::SetEmulatedMedia { media: None, features: Some(features) }).unwrap();
    }

    /// The value of `script`, as JSON.
    pub fn ask(&self, script: &str) -> serde_json::Value {
        let result = self.tab.evaluate(&format!("Promise.resolve({script}).then(JSON.stringify)"), true);
        let result = result.unwrap_or_else(|error| panic!("{script}: {error}"));
        let text = result.value.unwrap_or_else(|| panic!("{script}: {:?}", result.description));
        text.as_str().map_or(serde_json::Value::Null, |text| serde_json::from_str(text).unwrap())
    }

    /// Has `script` run as it is.
    pub fn run(&self, script: &str) {
        self.tab.evaluate(script, false).unwrap();
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

    /// Presses `key`.
    pub fn press(&self, key: &str) {
        self.tab.press_key(key).unwrap();
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
        let format = Protocol::CaptureScreenshotFormatOption::Png;
        let picture = self.tab.capture_screenshot(format, None, None, true).unwrap();
        std::fs::write(file, picture).unwrap();
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").finish_non_exhaustive()
    }
}

impl Seen {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::NetworkRequestWillBeSent(sent) => self.requests.push(sent.params.request.url.clone()),
            Event::LogEntryAdded(entry) => {
                self.complaints.push(format!("{:?}: {}", entry.params.entry.level, entry.params.entry.text));
            }
            Event::RuntimeConsoleAPICalled(called) => {
                self.complaints.push(format!("console: {:?}", called.params.args))
            }
            Event::RuntimeExceptionThrown(thrown) => {
                self.complaints.push(format!("exception: {:?}", thrown.params.exception_details));
            }
            _ => {}
        }
    }
}
