//! `cargo xtask systemd`: the package, installed as a user installs it, on a Debian with a systemd of its own.
//!
//! The steps are in one order, and the first that fails ends it: each goes on with what the one before it left. The machine and its
//! network go away at the end, also after a failure.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::{build, dist, setup, step, target};
use machine::{Machine, client, dotted};
use talk::{Attempt, Client};

mod machine;
mod talk;

/// What a user has to say: where to listen, where mail goes to, whose mail it is, and where it comes in.
const CONFIG: &str = r#"listen = [{ address = "0.0.0.0:25" }, { address = "[::]:25" }]
backend.servers = ["127.0.0.1:2525"]
relay.domains = ["example.org"]
edge.interfaces = ["eth0"]
"#;
/// What the short form leaves out: an attacker would wait for each answer.
const QUICK: &str = "harvest.delay = \"0s\"\n";
/// Where [`CONFIG`] is written.
const DROP_IN: &str = "etc/smtp-guard/smtp-guard.toml.d/10-local.toml";

/// What is changed later, and how it can be wrong.
const MORE: &str = "etc/smtp-guard/smtp-guard.toml.d/20-more.toml";
const BAD: &str = "limits.recipient = 7\n";

/// The mail server: Postfix behind the guard.
const MAIN_CF: &str = "compatibility_level = 3.6
myhostname = backend.example.org
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_authorized_xclient_hosts = 127.0.0.1
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
virtual_mailbox_domains = example.org
virtual_mailbox_maps = inline:{ user@example.org=user/ }
virtual_mailbox_base = /var/mail/example
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
";
const MAILBOX: &str = "var/mail/example/user/new";

/// Ends of clients' addresses: an honest one, one who harvests, and one whom the operator blocks.
const HONEST: u8 = 10;
const HARVESTER: u8 = 66;
const BLOCKED: u8 = 67;

/// The most that `systemd-analyze security` may find; 100 is a unit without any limit.
const EXPOSURE: [(&str, u32); 2] = [("smtp-guard.service", 20), ("smtp-guard-edge.service", 40)];

/// From `dpkg -i` to the first message, by a script.
const FIRST_MAIL: Duration = Duration::from_secs(30);
/// How long silence has to last until it is believed.
const SILENCE: Duration = Duration::from_secs(1);

/// Makes a package of what is built, and runs the short form, or all steps.
pub(crate) fn systemd(all: bool) -> anyhow::Result<()> {
    setup::systemd()?;
    test(all, &build::build(false)?)
}

/// Makes the machine's file system, if this is root; it can come beside what is built.
pub(crate) fn prepare() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() { machine::prepare() } else { Ok(()) }
}

/// The same for the test command, with what is installed and built.
pub(crate) fn test(long: bool, guard: &Path) -> anyhow::Result<()> {
    let started = Instant::now();
    let package = dist::quick(guard, &target().join("dist/first"), "1")?;
    let newer = if long { Some(dist::quick(guard, &target().join("dist/second"), "2")?) } else { None };
    let mut machine = Machine::create()?;
    machine.write("etc/postfix/main.cf", MAIN_CF)?;
    let master = machine.root().join("etc/postfix/master.cf");
    let text = fs::read_to_string(&master).with_context(|| format!("cannot read {}", master.display()))?;
    fs::write(&master, text.replace("\nsmtp      inet", "\n127.0.0.1:2525      inet"))?;
    fs::create_dir_all(machine.root().join("var/mail/example"))?;
    fs::set_permissions(machine.root().join("var/mail/example"), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    fs::copy(&package, machine.root().join("opt/smtp-guard.deb"))?;
    newer.map(|newer| fs::copy(newer, machine.root().join("opt/newer.deb"))).transpose()?;
    timed("boot", || machine.boot())?;
    let stop = AtomicBool::new(false);
    let clients = machine.clients();
    let result = std::thread::scope(|scope| {
        let dns = talk::inside(scope, clients, || talk::dns(&stop));
        let result = Run { machine: &mut machine, long }.steps();
        stop.store(true, Ordering::Relaxed);
        let dns = dns.join().unwrap_or_else(|_| bail!("the DNS server panicked"));
        result.and(dns)
    });
    step::note("the package under systemd", started);
    result
}

struct Run<'a> {
    machine: &'a mut Machine,
    long: bool,
}

impl Run<'_> {
    fn steps(&mut self) -> anyhow::Result<()> {
        let installed = Instant::now();
        timed("install", || self.install())?;
        timed("configure and start", || self.configure())?;
        timed("first mail", || self.deliver())?;
        let mail = installed.elapsed();
        timed("first ban", || self.harvest())?;
        let ban = installed.elapsed();
        println!(
            "systemd: from dpkg -i to the first mail {:.1} s, to the first ban {:.1} s",
            mail.as_secs_f64(),
            ban.as_secs_f64()
        );
        ensure!(mail < FIRST_MAIL, "the first mail took {:.1} s", mail.as_secs_f64());
        timed("explain and lift", || self.explain())?;
        timed("restart under load", || self.restart())?;
        if self.long {
            timed("exposure", || self.exposure())?;
            timed("reload", || self.reload())?;
            timed("upgrade under load", || self.upgrade())?;
            timed("upgrade to a version that doesn't take the configuration", || self.upgrade_refused())?;
            timed("restart with a bad configuration", || self.bad_restart())?;
            timed("no interface", || self.no_interface())?;
            timed("start with a full disk", || self.full_disk())?;
            timed("a key that root alone may read", || self.private_key())?;
            timed("reboot", || self.reboot())?;
        }
        timed("remove", || self.remove())?;
        timed("purge", || self.purge())
    }

    /// A package that isn't configured starts nothing, and says what comes next.
    fn install(&self) -> anyhow::Result<()> {
        let said = self.done("dpkg -i /opt/smtp-guard.deb")?;
        ensure!(said.contains("smtp-guard setup"), "it doesn't say what comes next: {said}");
        for unit in ["smtp-guard.socket", "smtp-guard.service", "smtp-guard-edge.service"] {
            let (enabled, _) = self.machine.shell(&format!("systemctl is-enabled {unit}"))?;
            let (active, _) = self.machine.shell(&format!("systemctl is-active {unit}"))?;
            ensure!(!enabled && !active, "{unit} is on before anything is configured");
        }
        let modes = self.done("stat -c '%n %a %U:%G' /etc/smtp-guard /etc/smtp-guard/* /var/lib/smtp-guard")?;
        let expected = "/etc/smtp-guard 750 root:smtp-guard\n/etc/smtp-guard/smtp-guard.toml 640 root:smtp-guard\n\
                        /etc/smtp-guard/smtp-guard.toml.d 750 root:smtp-guard\n/var/lib/smtp-guard 750 smtp-guard:smtp-guard";
        ensure!(modes == expected, "the modes are other ones:\n{modes}");
        for file in [
            "man/man1/smtp-guard.1.gz",
            "man/man5/smtp-guard.toml.5.gz",
            "bash-completion/completions/smtp-guard",
            "doc/smtp-guard/copyright",
        ] {
            self.done(&format!("test -s /usr/share/{file}"))?;
        }
        Ok(())
    }

    /// The short form by hand; the long one as the package says, by `setup`.
    fn configure(&self) -> anyhow::Result<()> {
        if self.long {
            self.done("smtp-guard setup --yes --domain example.org --backend 127.0.0.1:2525 --interface eth0")?;
            self.done("test -s /etc/smtp-guard/smtp-guard.toml.d/10-setup.toml")?;
        } else {
            self.machine.write(DROP_IN, &format!("{CONFIG}{QUICK}"))?;
        }
        self.done("smtp-guard check && systemctl enable --now smtp-guard-edge smtp-guard").map(drop)
    }

    /// A message goes through the guard and Postfix into the mailbox.
    fn deliver(&self) -> anyhow::Result<()> {
        let before = self.delivered();
        let deadline = Instant::now() + FIRST_MAIL;
        while let Err(error) = self.client(|| talk::deliver(HONEST)) {
            // It listens when the backend was asked.
            ensure!(Instant::now() < deadline, "no mail gets through: {error:#}\n{}", self.journal());
            std::thread::sleep(Duration::from_millis(100));
        }
        until(|| self.delivered() > before).with_context(|| format!("nothing is in the mailbox\n{}", self.journal()))
    }

    fn harvest(&self) -> anyhow::Result<()> {
        let heard = self.client(|| {
            let mut client = Client::greeted(HARVESTER)?;
            client.expect("EHLO client.example.net", "250")?;
            client.expect("MAIL FROM:<a@example.net>", "250")?;
            for guess in 1..=12 {
                let reply = client.say(&format!("RCPT TO:<guess{guess}@example.org>"))?;
                if reply.starts_with("421") {
                    return Ok(guess);
                }
            }
            bail!("twelve guesses, and no end");
        })?;
        ensure!(heard == 10, "the ban came at guess {heard}");
        ensure!(self.attempt(HARVESTER)? == Attempt::Silent, "the kernel doesn't drop whom the proxy banned");
        Ok(())
    }

    fn explain(&self) -> anyhow::Result<()> {
        let address = dotted(client(HARVESTER));
        let said = self.done(&format!("smtp-guard explain {address}"))?;
        ensure!(
            said.contains("guess1@example.org") || said.contains("unknown recipient"),
            "it isn't explained: {said}"
        );
        self.done(&format!("smtp-guard decisions delete {address}"))?;
        ensure!(self.attempt(HARVESTER)? == Attempt::Connected, "what was lifted is still dropped");
        self.done(&format!("smtp-guard decisions add {} --for 1h", dotted(client(BLOCKED))))?;
        ensure!(self.attempt(BLOCKED)? == Attempt::Silent, "what was added is not dropped");
        Ok(())
    }

    /// Neither unit has a gap: no connection is refused, nobody who is blocked gets through, and a message under way is accepted.
    fn restart(&self) -> anyhow::Result<()> {
        self.under_load(|| self.done("systemctl restart smtp-guard-edge smtp-guard").map(drop))
    }

    /// What is in force changes while mail flows; what is wrong changes nothing, and is said.
    fn reload(&self) -> anyhow::Result<()> {
        self.machine.write(MORE, "limits.recipients = 7\n")?;
        self.under_load(|| self.done("systemctl reload smtp-guard-edge smtp-guard").map(drop))?;
        // The reload's own lines are as those of the watch.
        let lines = self.done("journalctl -q -o cat _SYSTEMD_UNIT=smtp-guard-edge.service")?;
        let mut other = lines.lines().filter(|line| !line.starts_with('{'));
        ensure!(other.next().is_none(), "lines that are no JSON: {lines}");
        let differs = self.done("smtp-guard config diff")?;
        ensure!(!differs.contains("recipients"), "the reload changed nothing: {differs}");
        self.machine.write(MORE, BAD)?;
        let (reloaded, said) = self.machine.shell("systemctl reload smtp-guard")?;
        ensure!(!reloaded, "a bad configuration is reloaded: {said}");
        let (checked, said) = self.machine.shell("smtp-guard check")?;
        ensure!(!checked && said.contains("20-more.toml:1:"), "the place of the error isn't named: {said}");
        self.deliver()?;
        self.mend()
    }

    fn upgrade(&self) -> anyhow::Result<()> {
        self.under_load(|| self.done("dpkg -i /opt/newer.deb").map(drop))?;
        self.is_new()?;
        let blocked = dotted(client(BLOCKED));
        let decisions = self.done("smtp-guard decisions list")?;
        ensure!(decisions.contains(&blocked), "{blocked} is forgotten: {decisions}");
        self.deliver()
    }

    /// dpkg succeeds, and says what to do; the former version goes on.
    fn upgrade_refused(&self) -> anyhow::Result<()> {
        self.machine.write(MORE, BAD)?;
        let before = self.processes()?;
        let said = self.done("dpkg -i /opt/smtp-guard.deb")?;
        ensure!(
            said.contains("20-more.toml:1:") && said.contains("smtp-guard check"),
            "it doesn't say what is wrong: {said}"
        );
        ensure!(self.processes()? == before, "a version that was not checked was started");
        self.deliver()?;
        self.mend()?;
        self.under_load(|| self.done("smtp-guard check && systemctl restart smtp-guard-edge smtp-guard").map(drop))?;
        self.is_new()
    }

    /// Whoever restarts it sees that it failed; it is not tried again until a person has mended it.
    fn bad_restart(&self) -> anyhow::Result<()> {
        self.machine.write(MORE, BAD)?;
        let (restarted, said) = self.machine.shell("systemctl restart smtp-guard")?;
        ensure!(!restarted, "a restart with a bad configuration succeeds: {said}");
        let shown = self.done("systemctl show smtp-guard -p Result -p ExecMainStatus -p NRestarts")?;
        let expected = ["Result=exit-code", "ExecMainStatus=78", "NRestarts=0"];
        ensure!(expected.iter().all(|line| shown.contains(line)), "it ended otherwise: {shown}");
        ensure!(self.attempt(BLOCKED)? == Attempt::Silent, "without the proxy nothing is dropped any more");
        self.mend()?;
        self.done("systemctl restart smtp-guard")?;
        self.deliver()
    }

    /// The edge unit without anything to filter is skipped, which is no failure, and says why; what is loaded stays. One with a bad
    /// configuration fails.
    fn no_interface(&self) -> anyhow::Result<()> {
        self.machine.write(MORE, "edge.interfaces = []\n")?;
        self.done("systemctl restart smtp-guard-edge")?;
        let shown = self.done("systemctl show smtp-guard-edge -p NRestarts -p ActiveState -p Result")?;
        let expected = ["NRestarts=0", "ActiveState=inactive", "Result=exec-condition"];
        ensure!(expected.iter().all(|line| shown.contains(line)), "it ended otherwise: {shown}");
        let failed = self.done("systemctl --failed --no-legend --plain")?;
        ensure!(!failed.contains("smtp-guard"), "it counts as failed: {failed}");
        let said = self.done("journalctl -q -o cat -u smtp-guard-edge -n 10")?;
        ensure!(said.contains("edge.interfaces is not set"), "it doesn't say why: {said}");
        self.machine.write(MORE, BAD)?;
        let (started, said) = self.machine.shell("systemctl start smtp-guard-edge")?;
        ensure!(!started, "a start with a bad configuration succeeds: {said}");
        ensure!(self.attempt(BLOCKED)? == Attempt::Silent, "what was loaded is gone");
        self.mend()?;
        self.done("systemctl restart smtp-guard-edge").map(drop)
    }

    /// What systemd thinks of the rights of both units, in tenths.
    fn exposure(&self) -> anyhow::Result<()> {
        for (unit, most) in EXPOSURE {
            let said = self.done(&format!("systemd-analyze security --no-pager --threshold={most} {unit}"))?;
            println!("systemd: {}", said.lines().last().unwrap_or_default().trim());
        }
        Ok(())
    }

    /// Mail flows and whoever was blocked stays so, as the kernel knows it; once there is room, what is decided is kept again.
    fn full_disk(&self) -> anyhow::Result<()> {
        let state = "/var/lib/smtp-guard";
        self.done(&format!(
            "systemctl stop smtp-guard.socket smtp-guard && mount -t tmpfs -o size=64k,mode=750 tmpfs {state} && \
             chown smtp-guard: {state} && ! dd if=/dev/zero of={state}/full bs=4k 2>/dev/null && systemctl start smtp-guard"
        ))?;
        self.deliver()?;
        ensure!(self.attempt(BLOCKED)? == Attempt::Silent, "a full disk lets blocked senders in");
        let status = self.done("smtp-guard status")?;
        ensure!(status.contains("not written"), "`status` doesn't say so: {status}");
        self.done(&format!(
            "systemctl stop smtp-guard.socket smtp-guard && umount {state} && systemctl start smtp-guard.socket smtp-guard"
        ))?;
        self.deliver()
    }

    /// As certbot leaves it: `check` says so although root runs it, the guard starts nevertheless, and the hook of the package mends it.
    fn private_key(&self) -> anyhow::Result<()> {
        let live = "/etc/letsencrypt/live/mx.example.org";
        let folder = self.machine.root().join(&live[1..]);
        fs::create_dir_all(&folder)?;
        let mut openssl = std::process::Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
        ]);
        openssl.args(["-subj", "/CN=mx.example.org", "-addext", "subjectAltName=DNS:mx.example.org", "-keyout"]);
        openssl.arg(folder.join("privkey.pem")).arg("-out").arg(folder.join("fullchain.pem"));
        step::run("certificate", "making a certificate", &mut openssl)?;
        let tls =
            |from: &str| format!("tls.certificate = \"{from}/fullchain.pem\"\ntls.key = \"{from}/privkey.pem\"\n");
        self.done(&format!("chmod 600 {live}/privkey.pem && chmod 700 /etc/letsencrypt/live"))?;
        self.machine.write(MORE, &tls(live))?;
        let (checked, said) = self.machine.shell("smtp-guard check")?;
        ensure!(!checked && said.contains("user smtp-guard"), "a key that can't be read is fine: {said}");
        // Whoever doesn't check first: mail is taken without TLS, and `status` says why.
        self.done("systemctl restart smtp-guard")?;
        self.deliver()?;
        let status = self.done("smtp-guard status")?;
        ensure!(status.contains("FAILED"), "`status` doesn't say that there is no TLS: {status}");
        self.machine.write(MORE, &tls("/etc/smtp-guard/tls"))?;
        let hook = "/usr/share/doc/smtp-guard/examples/certbot-deploy-hook";
        self.done(&format!("RENEWED_LINEAGE={live} {hook} && smtp-guard check"))?;
        let offered = self.client(|| {
            let mut client = Client::greeted(HONEST)?;
            client.expect("EHLO client.example.net", "250")?;
            client.say("STARTTLS")
        })?;
        ensure!(offered.starts_with("220"), "STARTTLS is answered {offered}");
        Ok(())
    }

    /// Both units come up by themselves, and bans are in force again.
    fn reboot(&mut self) -> anyhow::Result<()> {
        self.machine.reboot()?;
        self.deliver()?;
        ensure!(self.attempt(BLOCKED)? == Attempt::Silent, "a reboot lets blocked senders in");
        let loaded = self.done("smtp-guard edge status")?;
        ensure!(loaded.contains("eth0"), "the kernel plane isn't loaded after a reboot: {loaded}");
        Ok(())
    }

    /// Does `action` while honest clients connect all the time, one of them is in the midst of a message, and a blocked one knocks.
    fn under_load(&self, action: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let (namespace, ended, under_way) = (self.machine.clients(), AtomicBool::new(false), AtomicBool::new(false));
        let goes_on = || !ended.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            let honest: Vec<_> =
                (0..4).map(|_| talk::inside(scope, namespace.clone(), || talk::visits(HONEST, goes_on))).collect();
            let blocked: Vec<_> =
                (0..4).map(|_| talk::inside(scope, namespace.clone(), || talk::knocks(BLOCKED, goes_on))).collect();
            let message = talk::inside(scope, namespace.clone(), || talk::long_message(HONEST, &under_way, goes_on));
            let begun = until(|| under_way.load(Ordering::Relaxed) || message.is_finished());
            let acted = begun.and_then(|()| action());
            ended.store(true, Ordering::Relaxed);
            let message =
                message.join().unwrap_or_else(|_| bail!("it panicked")).context("a message that was under way");
            let mut counts = [0, 0];
            for (count, clients) in counts.iter_mut().zip([honest, blocked]) {
                for client in clients {
                    *count += client.join().unwrap_or_else(|_| bail!("it panicked"))?;
                }
            }
            acted?;
            message?;
            println!(
                "systemd: meanwhile {} connections, none refused, and {} attempts of a blocked source, none heard",
                counts[0], counts[1]
            );
            Ok(())
        })
    }

    /// Whether all that runs is of the package that is installed.
    fn is_new(&self) -> anyhow::Result<()> {
        let deleted = self.done("for id in $(pgrep -x smtp-guard); do readlink /proc/$id/exe; done")?;
        ensure!(!deleted.contains("deleted") && !deleted.is_empty(), "the former program still runs: {deleted}");
        Ok(())
    }

    fn processes(&self) -> anyhow::Result<String> {
        self.done("pgrep -x smtp-guard")
    }

    fn mend(&self) -> anyhow::Result<()> {
        self.machine.write(MORE, "")
    }

    /// Nothing runs and nothing is filtered any more; configuration and state stay.
    fn remove(&self) -> anyhow::Result<()> {
        self.done("dpkg --remove smtp-guard")?;
        self.nothing_loaded()?;
        self.done("test -s /etc/smtp-guard/smtp-guard.toml && test -d /var/lib/smtp-guard").map(drop)
    }

    /// Nothing is left but the user and the package's file.
    fn purge(&self) -> anyhow::Result<()> {
        self.done("dpkg --purge smtp-guard")?;
        self.nothing_loaded()?;
        let left = self.done(
            "find / -xdev \\( -iname '*smtp*guard*' -o -user smtp-guard -o -group smtp-guard \\) -not -path '/opt/*' -not -path '/proc/*'; \
             find /run -iname '*smtp*guard*'; grep -rl smtp-guard /etc /var/lib || true",
        )?;
        // The list of users, and its backup copies.
        let left: Vec<_> = left.lines().filter(|line| !USERS.iter().any(|file| line.starts_with(file))).collect();
        ensure!(left.is_empty(), "a purge leaves {}", left.join(", "));
        Ok(())
    }

    fn nothing_loaded(&self) -> anyhow::Result<()> {
        let (runs, _) = self.machine.shell("pgrep -x smtp-guard")?;
        ensure!(!runs, "a guard still runs");
        // The kernel has two files of its own there.
        let pinned = self.done("find /sys/fs/bpf -mindepth 1 -not -name '*.debug'")?;
        ensure!(pinned.is_empty(), "still pinned: {pinned}");
        // The kernel takes a program off soon after its last link is closed.
        let filtered = || self.machine.shell("ip link show eth0 | grep -q xdp").map_or(true, |(found, _)| found);
        until(|| !filtered()).context("a program is still on the interface")?;
        ensure!(self.attempt(BLOCKED)? == Attempt::Refused, "packets are still dropped, or somebody listens");
        Ok(())
    }

    /// What `script` says in the machine; an error if it fails.
    fn done(&self, script: &str) -> anyhow::Result<String> {
        let (success, said) = self.machine.shell(script)?;
        ensure!(success, "`{script}` failed: {said}\n{}", self.journal());
        Ok(said)
    }

    /// What a client comes to.
    fn client<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let namespace = self.machine.clients();
        std::thread::scope(|scope| {
            talk::inside(scope, namespace, work).join().unwrap_or_else(|_| bail!("the client panicked"))
        })
    }

    fn attempt(&self, last: u8) -> anyhow::Result<Attempt> {
        self.client(|| talk::attempt(last, SILENCE))
    }

    /// How many messages the mail server has delivered.
    fn delivered(&self) -> usize {
        fs::read_dir(self.machine.root().join(MAILBOX)).map_or(0, Iterator::count)
    }

    /// What the units said last.
    fn journal(&self) -> String {
        let said = self.machine.shell("journalctl --no-pager -o cat -n 40 -u 'smtp-guard*' -u 'postfix*'");
        said.map(|(_, said)| said).unwrap_or_default()
    }
}

/// Files that keep the user.
const USERS: [&str; 8] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/subuid",
    "/etc/subgid",
    "/etc/.pwd.lock",
    "/var/lib/dpkg/status-old",
];

/// Runs a step, and says how long it took.
fn timed<T>(what: &str, run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let started = Instant::now();
    let result = run().with_context(|| format!("the package under systemd: {what}"))?;
    println!("systemd: {what}: {:.1} s", started.elapsed().as_secs_f64());
    Ok(result)
}

/// Waits until `done`, and not for ever.
fn until(mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        ensure!(Instant::now() < deadline, "it was waited for in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
