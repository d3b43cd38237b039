//! The webhook before Debian's nginx, with a receiver behind it that verifies as docs/events.md says.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use smtp_guard_tests::fleet::{Files, edge, joined};
use smtp_guard_tests::pki::Pki;
use smtp_guard_tests::process::{Program, wait_for};
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, Redis, World, run};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Takes what is signed, and keeps body and header of each request; `verify` is the manual's.
const RECEIVER: &str = r#"
import http.server, os, sys
folder = sys.argv[1]
secret = open(folder + "/webhook.key", "rb").read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        signature = self.headers["X-Smtp-Guard-Signature"]
        good = verify(secret, signature, body) and not verify(secret, signature, body + b" ")
        if good:
            name = folder + "/got-" + self.headers["X-Smtp-Guard-Batch"]
            open(name + ".signature", "w").write(signature)
            open(name + ".new", "wb").write(body)
            os.rename(name + ".new", name + ".json")
        self.send_response(204 if good else 403)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"#;

/// The code of docs/events.md.
fn snippet() -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md")).unwrap();
    page.split("```python\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

fn receiver(world: &World, host: Host, folder: &Path) -> Program {
    fs::write(folder.join("webhook.key"), format!("{SECRET}\n")).unwrap();
    let script = folder.join("receiver.py");
    fs::write(&script, snippet() + RECEIVER).unwrap();
    let mut command = world.on(host, "python3");
    Program::start(command.arg(script).arg(folder), folder.join("receiver.log"))
}

fn nginx(world: &World, folder: &Path, pki: &Pki) -> Program {
    let pair = pki.issue("nginx", &[World::BACKEND]);
    let config = folder.join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.error;\nevents {{}}\nhttp {{\n\
         access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n\
         uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\nserver {{ listen {}:8443 ssl; ssl_certificate {};\n\
         ssl_certificate_key {}; location /hook {{ proxy_pass http://127.0.0.1:8080; }} }}\n}}\n",
        World::BACKEND,
        pair.certificate.display(),
        pair.key.display(),
        folder = folder.display()
    );
    fs::write(&config, text).unwrap();
    Program::start(world.on(Host::Backend, "nginx").arg("-c").arg(config), folder.join("nginx.log"))
}

/// The requests that were kept, each with the file of its body.
fn got(folder: &Path) -> Vec<(std::path::PathBuf, Value)> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let bodies = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    bodies.map(|path| (path.clone(), serde_json::from_slice(&fs::read(&path).unwrap()).unwrap())).collect()
}

/// Events of all requests, in their order.
fn events(folder: &Path) -> Vec<Value> {
    let bodies = got(folder).into_iter();
    let mut events: Vec<_> = bodies.flat_map(|(_, body)| body["events"].as_array().unwrap().clone()).collect();
    events.sort_by_key(|event| event["number"].as_u64());
    events
}

/// Waits until an event has this in its text.
fn wait_for_event(guard: &Guard<'_>, folder: &Path, part: &str) {
    let found = || events(folder).iter().any(|event| event.to_string().contains(part)).then_some(());
    wait_for(part, found, || format!("{:#?}\n{}", events(folder), guard.command(&["status"]).stdout));
}

#[test]
#[ignore = "needs root and BPF"]
fn nginx_and_a_receiver_by_the_manual_hear_everything_whatever_breaks() {
    let (world, pki, temporary) = (World::new(), Pki::new(), tempfile::tempdir().unwrap());
    let folder = temporary.path();
    let mut sink = Sink::start(&world, 25, &[]);
    let (mut behind, mut front) = (receiver(&world, Host::Backend, folder), nginx(&world, folder, &pki));
    let url = format!("\"https://{}:8443/hook\"", World::BACKEND);
    let (secret, ca) = (format!("\"{}\"", folder.join("webhook.key").display()), format!("\"{}\"", pki.ca().display()));
    let changes = [("events.webhook", &*url), ("events.secret_file", &*secret), ("events.tls_ca", &*ca)];
    let mut guard = Guard::start(&world, &changes);
    let ban = |guard: &Guard<'_>, ip: &str| {
        guard.command(&["decisions", "add", ip, "--for", "1h", "--reason", "by hand"]).ok();
    };
    wait_for_event(&guard, folder, "\"answers\":true");
    let checked = guard.command(&["check", "--connect", "--json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&checked.stdout).unwrap()["webhook"]["error"],
        Value::Null,
        "{checked:#?}"
    );

    // The receiver dies: nginx answers 502. Then nginx dies as well. Nothing is lost.
    behind.kill9();
    ban(&guard, "20.0.2.1");
    let fails = || (guard.metric("smtp_guard_webhook_up") == 0.0).then_some(());
    wait_for("502", fails, || guard.command(&["status"]).stdout);
    assert!(guard.command(&["status"]).stdout.contains("502 Bad Gateway"));
    front.kill9();
    ban(&guard, "20.0.2.2");
    guard.command(&["decisions", "delete", "20.0.2.1"]).ok();
    sink.kill9();
    behind = receiver(&world, Host::Backend, folder);
    front = nginx(&world, folder, &pki);
    for part in ["20.0.2.1", "20.0.2.2", "\"event\":\"lifted\"", "\"answers\":false"] {
        wait_for_event(&guard, folder, part);
    }
    let told: Vec<_> = events(folder).iter().map(|event| event["number"].as_u64().unwrap()).collect();
    assert!(told.is_sorted_by(|a, b| a < b), "each once, as it was not answered before: {told:?}");
    assert!(got(folder).iter().all(|(_, body)| body["lost"] == 0));
    assert!(guard.metric("smtp_guard_webhook_events_delivered_total") >= 5.0);

    // Another program than the manual's says the same of the signatures.
    for (file, _) in got(folder) {
        let signature = fs::read_to_string(file.with_extension("signature")).unwrap();
        let (seconds, code) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let signed = [seconds.as_bytes(), b".", &fs::read(&file).unwrap()].concat();
        let command = &mut Command::new("openssl");
        let said = run(command.args(["dgst", "-sha256", "-hmac", SECRET]), &String::from_utf8(signed).unwrap()).ok();
        assert!(said.trim().ends_with(code), "{said} {signature}");
    }
    // What is decided at the last moment is told as well.
    ban(&guard, "20.0.2.3");
    guard.terminate();
    guard.wait_for_end();
    assert!(events(folder).iter().any(|event| event["source"] == "20.0.2.3"), "{:#?}", events(folder));
    front.end();
    behind.end();
}

#[test]
#[ignore = "needs root and BPF"]
fn edges_that_go_and_come_and_certificates_are_told() {
    let (worlds, pki, temporary) = ([World::new(), World::new()], Pki::new(), tempfile::tempdir().unwrap());
    let folder = temporary.path();
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let (redis, files) = (Redis::start(&worlds.each_ref(), &[]), Files::new());
    let mut receiver = receiver(&worlds[0], Host::Edge, folder);
    let pair = pki.issue_for("mx", &["mx.example.org"], 3);
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let (secret, certificate, key) =
        (quoted(&folder.join("webhook.key")), quoted(&pair.certificate), quoted(&pair.key));
    let more = [
        ("events.webhook", "\"http://127.0.0.1:8080/\""),
        ("events.secret_file", &*secret),
        ("tls.certificate", &*certificate),
        ("tls.key", &*key),
    ];
    let here = edge(&worlds[0], 0, &redis.url(0), &files, &more);
    let mut there = edge(&worlds[1], 1, &redis.url(1), &files, &[]);
    joined(&here);
    joined(&there);
    let told = |kind: &str, part: &str| {
        let is_so = |event: &Value| event["event"] == kind && event.to_string().contains(part);
        let found = || events(folder).iter().any(is_so).then_some(());
        wait_for(&format!("{kind} {part}"), found, || format!("{:#?}\n{}", events(folder), here.log()));
    };
    told("fleet", "\"connected\":true");
    told("certificate", "ends in 2 days: renew it");
    told("fleet_node", "\"state\":\"live\"");
    there.kill9();
    told("fleet_node", "\"state\":\"silent\"");
    there.run();
    pki.issue("mx", &["mx.example.org"]);
    told("certificate", "was read again");
    let nodes = || events(folder).into_iter().filter(|event| event["event"] == "fleet_node").collect::<Vec<_>>();
    let found = || (nodes().len() == 3).then(nodes);
    let nodes = wait_for("the edge is back", found, || here.log());
    for (event, state) in nodes.iter().zip(["live", "silent", "live"]) {
        assert_eq!((&event["node"], &event["state"]), (&"mx2".into(), &state.into()), "{nodes:#?}");
    }
    receiver.end();
}
