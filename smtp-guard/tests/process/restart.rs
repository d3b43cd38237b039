//! Sockets that somebody else opened and keeps open, as systemd does: a restart refuses nobody.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{BINARY, Guard, command, configure, connect, send, status};

impl Guard {
    /// Starts one by the configuration in `directory`, which is handed `listener` as descriptor 3. `before` stands before the
    /// command.
    fn inherits(directory: &Path, listener: &TcpListener, before: &str) -> Self {
        let (config, address) = (directory.join("smtp-guard.toml"), listener.local_addr().unwrap());
        let run = format!(
            "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec {before} {BINARY} --config {} run",
            config.display()
        );
        let handed = OwnedFd::from(listener.try_clone().unwrap());
        let child = Command::new("sh")
            .args(["-c", &run])
            .stdin(handed)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut guard = Self { child, address, config };
        let config = guard.config.clone();
        guard.wait("it answers", || command(&config, "status").status.success());
        guard
    }
}

/// Says so when it is dropped, also by a test that fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a client hears that connects to `address`, until the guard closes.
fn heard(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(b"QUIT\r\n")?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard)?;
    Ok(heard)
}

#[test]
fn a_restart_refuses_nobody_and_cuts_no_transaction() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    configure(directory.path(), address, "[harvest]\ndelay = \"0s\"\n[limits]\nconnections_per_minute = 1000000\n");
    let over = AtomicBool::new(false);
    let mut guard = Guard::inherits(directory.path(), &listener, "");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        answers.push(heard(address));
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    answers
                })
            })
            .collect();
        let ends = Ends(&over);
        for _ in 0..3 {
            let mut slow = BufReader::new(connect(address));
            let mut said = |line: &str, code: &str| {
                slow.get_mut().write_all(line.as_bytes()).unwrap();
                let mut answer = String::new();
                slow.read_line(&mut answer).unwrap();
                assert!(answer.starts_with(code), "{line}: {answer}");
            };
            for (line, code) in [
                ("", "220"),
                ("HELO c\r\n", "250"),
                ("MAIL FROM:<a@b.example>\r\n", "250"),
                ("RCPT TO:<b@example.org>\r\n", "250"),
                ("DATA\r\n", "354"),
            ] {
                said(line, code);
            }
            let mut idle = BufReader::new(connect(address));
            idle.read_line(&mut String::new()).unwrap();
            guard.signal(rustix::process::Signal::TERM);
            let mut farewell = String::new();
            idle.read_line(&mut farewell).unwrap();
            assert!(farewell.starts_with("421"), "who has no transaction hears so at once: {farewell}");
            said("Subject: x\r\n\r\nx\r\n.\r\n", "250");
            guard.ends();
            guard = Guard::inherits(directory.path(), &listener, "");
            send(connect(address), false);
        }
        drop(ends);
        let answers: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let answered = |answer: &std::io::Result<String>| {
            answer.as_ref().is_ok_and(|text| text.starts_with("220") || text.starts_with("421"))
        };
        let others: Vec<_> = answers.iter().filter(|answer| !answered(answer)).collect();
        assert!(others.is_empty(), "of {}: {others:?}", answers.len());
        // One of each at least; how many more is a matter of the machine.
        assert!(answers.len() >= 4, "{}", answers.len());
        guard.ends();
    });
}

#[test]
fn a_socket_of_its_own_is_closed_at_once_while_transactions_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut guard = Guard::start(directory.path(), "", "", Stdio::null());
    let address = guard.address;
    let mut slow = BufReader::new(connect(address));
    for said in ["", "HELO c\r\n", "MAIL FROM:<a@b.example>\r\n"] {
        slow.get_mut().write_all(said.as_bytes()).unwrap();
        slow.read_line(&mut String::new()).unwrap();
    }
    guard.signal(rustix::process::Signal::TERM);
    guard.wait("others try elsewhere", || TcpStream::connect(address).is_err());
    slow.get_mut().write_all(b"RCPT TO:<b@example.org>\r\n").unwrap();
    let mut answer = String::new();
    slow.read_line(&mut answer).unwrap();
    assert!(answer.starts_with("250"), "{answer}");
    drop(slow);
    guard.ends();
}

#[test]
fn an_address_goes_and_comes_back_by_reload_and_the_socket_stays() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (address, other) = (listener.local_addr().unwrap(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let elsewhere = other.local_addr().unwrap();
    drop(other);
    configure(directory.path(), address, "");
    let guard = Guard::inherits(directory.path(), &listener, "");
    let written = std::fs::read_to_string(&guard.config).unwrap();
    send(connect(address), false);
    for _ in 0..2 {
        std::fs::write(&guard.config, written.replace(&address.to_string(), &elsewhere.to_string())).unwrap();
        let reloaded = command(&guard.config, "reload");
        let warned = String::from_utf8_lossy(&reloaded.stderr).into_owned();
        assert!(reloaded.status.success(), "{reloaded:?}");
        assert!(warned.contains(&format!("ListenStream={address} out of smtp-guard.socket")), "{warned}");
        assert!(status(&guard.config).contains("no [[listen]] has that address"));
        send(connect(elsewhere), false);
        // It can't be closed, and nobody has to wait there.
        let told = heard(address).unwrap();
        assert!(told.starts_with("421 4.3.2 No mail is taken at this address"), "{told}");
        std::fs::write(&guard.config, &written).unwrap();
        assert!(command(&guard.config, "reload").status.success());
        send(connect(address), false);
        assert!(!status(&guard.config).contains("no [[listen]] has that address"));
    }
    guard.ends();
}

#[test]
fn a_port_that_only_systemd_may_open_is_told_with_the_way_out_and_nothing_changes() {
    let least = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if least.trim().parse::<u16>().is_ok_and(|least| least < 1024) {
        eprintln!("skipped: anybody may open ports below 1024 here");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    configure(directory.path(), address, "");
    let without = if rustix::process::geteuid().is_root() { "setpriv --bounding-set=-net_bind_service" } else { "" };
    let guard = Guard::inherits(directory.path(), &listener, without);
    let text = std::fs::read_to_string(&guard.config).unwrap();
    let more = text.replace("[backend]", "[[listen]]\naddress = \"127.0.0.1:587\"\n[backend]");
    std::fs::write(&guard.config, more).unwrap();
    let refused = command(&guard.config, "reload");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    for part in ["cannot listen on 127.0.0.1:587", "ListenStream=127.0.0.1:587", "systemctl edit smtp-guard.socket"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(!status(&guard.config).contains(":587"));
    send(connect(address), false);
    guard.ends();
}
