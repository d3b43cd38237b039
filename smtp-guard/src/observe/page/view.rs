//! A snapshot as HTML: the parts that change, and the page around them. Pure.
//!
//! Each part stands in a section of the page under its own id, and the script puts a newer one in its place. Everything in a part
//! is text or a table; whatever comes from outside goes through [`safe`], and the template escapes it.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use smtp_guard_ebpf::reason::Reason;

use super::super::metrics::Verb;
use super::feed::Frame;
use super::snapshot::{Counts, Pair, Slow, Snapshot};
use super::text::{ago, latency, left, length, number, rate, safe, share, stamp, utc};
use crate::clock::WallTime;
use crate::decision::Decision;
use crate::events::What;
use crate::facts::dns::{Kind, Told};
use crate::fleet::FleetStatus;
use crate::session::Outcome;

/// Rows of a table about sources; others have as many as are configured, at most [`ROWS`] as well.
const ROWS: usize = 32;
/// Lines of evidence of a ban.
const EVIDENCE: usize = 4;
/// A certificate that ends so soon is a trouble: those that renew themselves do so a month before.
const SOON: i64 = 14 * 86_400;

/// The sections of the page: id, heading, whether it takes the whole width.
const SECTIONS: [(&str, &str, bool); 16] = [
    ("dropped", "Who is dropped", true),
    ("bans", "Bans", true),
    ("mail", "Mail", false),
    ("refused", "Refused", false),
    ("kernel", "Dropped in the kernel", false),
    ("near", "Near a limit", false),
    ("held", "Held accounts", false),
    ("observed", "Would be refused", false),
    ("backend", "Backend", false),
    ("dns", "DNS", false),
    ("lists", "Block lists", false),
    ("certificates", "Certificates", false),
    ("configuration", "Configuration", false),
    ("bounds", "Bounds that were reached", false),
    ("fleet", "Fleet", true),
    ("events", "Latest events", true),
];

/// The title of the window: what is seen of a page in the background.
pub(super) fn title(seen: &Snapshot) -> String {
    let hostname = safe(&seen.hostname);
    match troubles(seen).len() {
        0 => format!("{hostname}: smtp-guard"),
        n => format!("({n}) {hostname}: smtp-guard"),
    }
}

/// All that changes: id and content.
pub(super) fn parts(seen: &Snapshot, pair: &Pair<'_>) -> Vec<(&'static str, String)> {
    let now = seen.both.wall;
    let slow = &seen.slow;
    let parts: [(&str, Markup); 20] = [
        ("name", html! { (safe(&seen.hostname)) }),
        ("about", about(seen)),
        ("summary", html! { (summary(seen)) }),
        ("figures", figures(seen, pair)),
        ("mail", mail(pair)),
        (
            "refused",
            reasons(
                pair,
                "What clients were refused in the session, by reason",
                |counts| &counts.rejections,
                "Nothing was refused.",
            ),
        ),
        ("kernel", kernel(seen, pair)),
        ("dropped", dropped(seen)),
        ("bans", bans(seen)),
        ("near", near(slow)),
        ("held", held(slow, now)),
        (
            "observed",
            reasons(
                pair,
                "What checks that only observe would have refused",
                |counts| &counts.observed,
                "Nothing, or no check observes.",
            ),
        ),
        ("backend", backend(slow, pair)),
        ("dns", dns(slow, pair)),
        ("lists", lists(slow, now)),
        ("certificates", certificates(slow, now)),
        ("configuration", configuration(slow, now)),
        ("bounds", bounds(slow, now)),
        ("fleet", fleet(slow.status.fleet.as_ref(), now)),
        ("events", events(seen)),
    ];
    parts.into_iter().map(|(id, html)| (id, html.into_string())).collect()
}

/// The whole page.
pub(super) fn page(frame: &Frame) -> String {
    // Written by a template already.
    let part = |id: &str| {
        let part = frame.parts.iter().find(|(other, _)| *other == id);
        PreEscaped(part.map_or("", |(_, html)| html.as_str()))
    };
    let at = WallTime::from_ms(frame.at_ms);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (frame.title) }
                link rel="icon" href="/page/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/page/uplot-1.6.32.css";
                link rel="stylesheet" href="/page/page.css";
                script src="/page/uplot-1.6.32.js" defer {}
                script src="/page/page.js" defer {}
                noscript { meta http-equiv="refresh" content="10"; }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    div.title {
                        h1 { span.product { "smtp-guard" } " " span id="part-name" { (part("name")) } }
                        p.about id="part-about" { (part("about")) }
                    }
                    p.live {
                        span id="live" { "As of " time datetime=(stamp(at)) { (utc(at)) } }
                        button id="pause" type="button" hidden aria-pressed="false" { "Pause" }
                    }
                    p.summary id="part-summary" role="status" aria-live="polite" { (part("summary")) }
                }
                nav aria-label="Sections" {
                    ul { @for (id, heading, _) in SECTIONS { li { a href={ "#" (id) } { (heading) } } } }
                }
                main id="main" tabindex="-1" {
                    div.cell.wide {
                        section aria-labelledby="now-heading" {
                            h2.hidden id="now-heading" { "Now" }
                            dl.figures id="part-figures" { (part("figures")) }
                            div.charts id="charts" hidden {
                                figure { figcaption { "Packets dropped a second" } div id="chart-drops" role="img" aria-label="Packets that the kernel dropped, by second" {} }
                                figure { figcaption { "Messages accepted and refusals a second" } div id="chart-mail" role="img" aria-label="Messages accepted and refusals, by second" {} }
                            }
                        }
                    }
                    @for (id, heading, wide) in SECTIONS {
                        div.cell.wide[wide] {
                            section id=(id) aria-labelledby={ (id) "-heading" } {
                                h2 id={ (id) "-heading" } { (heading) }
                                div id={ "part-" (id) } { (part(id)) }
                            }
                        }
                    }
                }
                footer {
                    p {
                        "This page changes nothing. What does, on the host: "
                        @for command in ["explain", "decisions", "accounts", "reload"] { code { "smtp-guard " (command) } " " }
                    }
                }
            }
        }
    };
    page.into_string()
}

fn about(seen: &Snapshot) -> Markup {
    let started = seen.both.wall.later(-i64::try_from(seen.uptime.as_millis()).unwrap_or(i64::MAX));
    html! { "Version " (safe(&seen.slow.status.version)) ", started " (ago(started, seen.both.wall)) }
}

/// What is wrong, each with the section that has more of it.
fn troubles(seen: &Snapshot) -> Vec<(String, &'static str)> {
    let status = &seen.slow.status;
    let mut troubles = Vec::new();
    let mut say = |text: String, section| troubles.push((text, section));
    let silent = status.backend.iter().filter(|server| !server.answers).count();
    match silent {
        0 => {}
        _ if silent == status.backend.len() => {
            say("No server of the backend answers: clients hear 451.".to_owned(), "backend")
        }
        _ => say(format!("{silent} of {} servers of the backend don't answer.", status.backend.len()), "backend"),
    }
    if status.dns_silent {
        say("No DNS server answers.".to_owned(), "dns");
    }
    if let Some(why) = &status.store_trouble {
        say(format!("Decisions are not written to disk: {}", safe(why)), "configuration");
    }
    if let Some(why) = &status.tls_trouble {
        say(format!("Certificates can't be used as they are in their files: {}", safe(why)), "certificates");
    }
    for certificate in &status.certificates {
        match certificate.remaining_seconds {
            ..=0 => say(format!("The certificate {} has ended.", safe(&certificate.file)), "certificates"),
            1..SOON => {
                let left = length(certificate.remaining_seconds.unsigned_abs());
                say(format!("The certificate {} ends in {left}.", safe(&certificate.file)), "certificates");
            }
            _ => {}
        }
    }
    for list in &status.blocklists {
        if let Some(error) = &list.error {
            say(format!("The block list {} can't be read: {}", safe(&list.name), safe(error)), "lists");
        }
    }
    if let Some(why) = &status.recipients.trouble {
        say(format!("The file of recipients can't be used: {}", safe(why)), "configuration");
    }
    if let Some(error) = status.configuration.last_reload.as_ref().and_then(|last| last.error.as_ref()) {
        say(format!("The last reload was refused: {}", safe(error)), "configuration");
    }
    if let Some(fleet) = &status.fleet {
        if !fleet.connected {
            say("The fleet's server doesn't answer: this edge goes on alone.".to_owned(), "fleet");
        }
        if fleet.muted() > 0 {
            say(format!("{} edges of the fleet are not listened to.", fleet.muted()), "fleet");
        }
    }
    for warning in &status.warnings {
        say(safe(warning), "configuration");
    }
    troubles
}

/// One line that changes seldom: a screen reader says each change of it.
fn summary(seen: &Snapshot) -> Markup {
    let troubles = troubles(seen);
    html! {
        @match troubles.len() {
            0 => { span.good { "All is well." } },
            1 => { span.bad { "One trouble." } },
            n => { span.bad { (n) " troubles." } },
        }
        @if !troubles.is_empty() {
            ul { @for (text, section) in troubles.iter().take(ROWS) { li { a href={ "#" (section) } { (heading(section)) } ": " (text) } } }
        }
    }
}

/// The heading of the section `id`.
fn heading(id: &str) -> &'static str {
    SECTIONS.iter().find(|(other, ..)| *other == id).map_or("", |(_, heading, _)| heading)
}

fn figures(seen: &Snapshot, pair: &Pair<'_>) -> Markup {
    let figure = |name: &str, value: String, note: Markup| html! { div { dt { (name) } dd { strong { (value) } " " small { (note) } } } };
    let held = seen.slow.status.held_users.count;
    let a_second = "a second";
    html! {
        (figure("Connected", number(seen.connections), html! { "of " (number(seen.connections_limit)) }))
        (figure("Accepted", rate(pair.rate(Counts::accepted)), html! { (a_second) }))
        (figure("Refused", rate(pair.rate(Counts::refused)), html! { (a_second) }))
        (figure("Dropped", rate(pair.rate(Counts::dropped)), html! { "packets " (a_second) }))
        (figure("Banned", number(seen.bans.all), html! { @if seen.bans.networks > 0 { (number(seen.bans.networks)) @if seen.bans.networks == 1 { " network" } @else { " networks" } " among them" } }))
        (figure("Held", number(held), html! { @if held == 1 { "account" } @else { "accounts" } }))
    }
}

/// A column: heading, and whether it holds numbers.
type Column = (&'static str, bool);

/// A table with a caption; where there are no rows, `none` stands in its place.
fn table<const N: usize>(caption: Markup, columns: [Column; N], rows: Vec<[Markup; N]>, none: &str) -> Markup {
    if rows.is_empty() {
        return html! { p.none { (none) } };
    }
    html! {
        table.many[N > 3] {
            caption { (caption) }
            thead { tr { @for (heading, is_number) in columns { th.n[is_number] scope="col" { (heading) } } } }
            tbody {
                @for row in rows {
                    tr {
                        @for (at, cell) in row.into_iter().enumerate() {
                            @if at == 0 { th scope="row" { (cell) } }
                            @else if let Some((heading, is_number)) = columns.get(at) { td.n[*is_number] data-of=(heading) { (cell) } }
                        }
                    }
                }
            }
        }
    }
}

/// The words of a reason with its label, by which logs and metrics call it.
fn reason(label: &str) -> Markup {
    match Reason::from_label(label) {
        Some(reason) => html! { (reason.text()) " " code { (reason.label()) } },
        None => html! { code { (safe(label)) } },
    }
}

fn mail(pair: &Pair<'_>) -> Markup {
    let row = |name: &str, count: &dyn Fn(&Counts) -> u64| {
        [html! { (name) }, html! { (rate(pair.rate(count))) }, html! { (number(count(pair.now))) }]
    };
    let mut rows = Vec::new();
    for outcome in Outcome::ALL {
        rows.push(row(outcome.label(), &|counts| counts.messages[outcome as usize]));
    }
    rows.push(row("connections", &|counts| counts.connections));
    table(
        html! { "Messages by what became of them" },
        [("Outcome", false), ("A second", true), ("Since the start", true)],
        rows,
        "",
    )
}

/// Counts by reason, those that move first.
fn reasons(pair: &Pair<'_>, caption: &str, of: impl Fn(&Counts) -> &[(Reason, u64)], none: &str) -> Markup {
    let find = |counts: &Counts, reason: Reason| {
        of(counts).iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| *count)
    };
    let mut all: Vec<_> = of(pair.now)
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (*reason, *count, pair.rate(|counts| find(counts, *reason))))
        .collect();
    all.sort_by_key(|(_, count, rate)| (!rate.is_some_and(|rate| rate > 0.0), std::cmp::Reverse(*count)));
    let rows = all
        .into_iter()
        .map(|(of, count, per_second)| [reason(of.label()), html! { (rate(per_second)) }, html! { (number(count)) }]);
    table(html! { (caption) }, [("Reason", false), ("A second", true), ("Since the start", true)], rows.collect(), none)
}

fn kernel(seen: &Snapshot, pair: &Pair<'_>) -> Markup {
    let kernel = &seen.slow.status.kernel;
    let none = if kernel.present {
        "Nothing was dropped."
    } else {
        "There is no kernel plane: bans are enforced in the session."
    };
    html! {
        (reasons(pair, "Packets by reason; exact", |counts| &counts.drops, none))
        p.note { @if kernel.present { "It filters " } (safe(&kernel.text)) }
    }
}

fn dropped(seen: &Snapshot) -> Markup {
    let now = seen.both.wall;
    let rows = seen.drops.by_source.iter().take(ROWS).map(|source| {
        [
            html! { span.who { (safe(&source.source)) } },
            html! { (reason(&source.reason)) " to port " (source.port) },
            html! { (rate(Some(source.per_second))) },
            html! { (number(source.packets)) " " small { (number(source.samples)) " samples" } },
            ago(source.since, now),
        ]
    });
    let columns = [("Source", false), ("Why", false), ("Packets a second", true), ("Packets", true), ("Since", true)];
    let caption = html! { "Sources with most dropped packets in the last minute; estimates from samples" };
    let none = if seen.slow.status.kernel.present {
        "Nobody in the last minute."
    } else {
        "Without a kernel plane nothing is dropped."
    };
    table(caption, columns, rows.collect(), none)
}

fn bans(seen: &Snapshot) -> Markup {
    let now = seen.both.wall;
    let row = |ban: &Decision| {
        let more = ban.evidence.len().saturating_sub(EVIDENCE);
        [
            html! { span.who { (safe(&ban.source)) } },
            html! {
                (reason(&ban.reason))
                @if !ban.text.is_empty() && Reason::from_label(&ban.reason).is_none_or(|reason| reason.text() != ban.text) { div { (safe(&ban.text)) } }
                @if !ban.evidence.is_empty() {
                    ul.evidence {
                        @for line in ban.evidence.iter().take(EVIDENCE) { li { (safe(line)) } }
                        @if more > 0 { li { (more) " more" } }
                    }
                }
            },
            html! { (safe(&ban.by())) @if ban.repeat > 0 { ", " (ban.repeat) @if ban.repeat == 1 { " ban before" } @else { " bans before" } } },
            ago(ban.made, now),
            left(ban.until, now),
        ]
    };
    let shown: Vec<_> = seen.decisions.iter().take(ROWS).map(row).collect();
    let columns = [("Source", false), ("Why, and the evidence", false), ("By", false), ("Made", true), ("Left", true)];
    let caption = html! {
        (number(seen.bans.all)) " in force"
        @if seen.bans.all > shown.len() as u64 { "; these are the latest. All of them: " code { "smtp-guard decisions list" } }
    };
    let none =
        if seen.bans.all == 0 { "Nobody is banned." } else { "None of late. All of them: smtp-guard decisions list" };
    table(caption, columns, shown, none)
}

fn near(slow: &Slow) -> Markup {
    let rows = slow.near.iter().take(ROWS).map(|near| {
        let text = format!("{} of {}", number(near.count), number(near.most));
        [
            html! { span.who { (safe(&near.who)) } },
            html! { code { (safe(&near.limit)) } },
            html! { meter min="0" max=(near.most) value=(near.count.min(near.most)) aria-label=(text) { (text) } " " (text) },
        ]
    });
    let caption =
        html! { "Sources that were refused something of late or are connected, and users: half of a limit or more" };
    table(
        caption,
        [("Who", false), ("Limit", false), ("Used", true)],
        rows.collect(),
        "Nobody has used half of a limit.",
    )
}

fn held(slow: &Slow, now: WallTime) -> Markup {
    let held = slow.users.accounts.iter().filter_map(|user| Some((user, user.held.as_ref()?)));
    let rows: Vec<_> = held
        .take(ROWS)
        .map(|(user, hold)| {
            let until = if hold.until == WallTime::NEVER {
                html! { "until released" }
            } else {
                left(hold.until, now)
            };
            let text = safe(&hold.text);
            let says_more = Reason::from_label(&hold.reason).is_none_or(|reason| reason.text() != hold.text);
            [
                html! { span.who { (safe(&user.user)) } },
                html! { (reason(&hold.reason)) @if says_more { div { (text) } } },
                ago(hold.since, now),
                until,
            ]
        })
        .collect();
    let caption = html! { (number(slow.status.held_users.count)) " held: they hear 450" };
    table(caption, [("User", false), ("Why", false), ("Since", true), ("Left", true)], rows, "No account is held.")
}

fn backend(slow: &Slow, pair: &Pair<'_>) -> Markup {
    let servers = slow.status.backend.iter().take(ROWS).map(|server| {
        [
            html! { span.who { (safe(&server.address)) } },
            state(server.answers, "answers", "doesn't answer"),
            html! { (number(server.connections.into())) },
            html! { (server.round_trip_seconds.map_or_else(|| String::from("–"), |time| latency(time.0))) },
        ]
    });
    let columns = [("Server", false), ("State", false), ("Connections", true), ("Round trip", true)];
    let [opened, reused, early, unused] = pair.now.backend;
    let given = opened + reused + early;
    let replies: Vec<_> = Verb::ALL
        .iter()
        .filter_map(|verb| {
            let mean = pair.mean(|counts| counts.replies[*verb as usize])?;
            let times = |counts: &Counts| counts.replies[*verb as usize].count;
            Some([
                html! { (verb.label()) },
                html! { (latency(mean)) },
                html! { (rate(pair.rate(times))) },
                html! { (number(times(pair.now))) },
            ])
        })
        .collect();
    html! {
        (table(html! { "Servers, in the order in which they are tried" }, columns, servers.collect(), "None is configured."))
        p {
            "Sessions were given " (number(given)) " connections: " (number(reused)) " were used again (" (share(reused, given)) "), "
            (number(early)) " were opened before MAIL; " (number(unused)) " were, and no MAIL came."
        }
        (table(html! { "Time until the backend answered, of late" }, [("Asked", false), ("Mean", true), ("A second", true), ("Since the start", true)], replies, "It was asked nothing yet."))
    }
}

fn dns(slow: &Slow, pair: &Pair<'_>) -> Markup {
    let failures = 6;
    let rows: Vec<_> = Kind::ALL
        .iter()
        .filter_map(|kind| {
            let of = |counts: &Counts| counts.lookups[*kind as usize];
            let all: u64 = of(pair.now).iter().sum();
            let failed: u64 = of(pair.now).iter().skip(failures).sum();
            let mean = pair.mean(|counts| counts.dns[*kind as usize]);
            (all > 0).then(|| {
                [
                    html! { (kind.label()) },
                    html! { (rate(pair.rate(|counts| of(counts).iter().sum()))) },
                    html! { (number(all)) },
                    html! { (share(of(pair.now)[Told::Cached.number()], all)) },
                    html! { (number(failed)) },
                    html! { (mean.map_or_else(|| String::from("–"), latency)) },
                ]
            })
        })
        .collect();
    let columns = [
        ("Kind", false),
        ("A second", true),
        ("Questions", true),
        ("Remembered", true),
        ("Failed", true),
        ("Mean", true),
    ];
    html! {
        p { (state(!slow.status.dns_silent, if pair.now.dns.iter().any(|timed| timed.count > 0) { "Servers answer" } else { "Nothing was asked yet" }, "No server answers")) }
        (table(html! { "Look-ups by kind" }, columns, rows, "No look-ups."))
    }
}

fn lists(slow: &Slow, now: WallTime) -> Markup {
    let rows = slow.status.blocklists.iter().take(ROWS).map(|list| {
        let read = list.read.as_ref();
        [
            html! { span.who { (safe(&list.name)) } @if let Some(error) = &list.error { div.bad { (safe(error)) } } },
            html! { (read.map_or_else(|| String::from("–"), |read| number(read.entries as u64))) },
            html! { (read.map_or_else(|| String::from("–"), |read| number(read.refused as u64))) },
            html! { @match read { Some(read) => (ago(read.at, now)), None => "never" } },
        ]
    });
    let columns = [("List", false), ("Entries", true), ("Refused", true), ("Read", true)];
    table(html! { "Files of addresses and networks" }, columns, rows.collect(), "None is configured.")
}

fn certificates(slow: &Slow, now: WallTime) -> Markup {
    let rows = slow.status.certificates.iter().take(ROWS).map(|certificate| {
        let days = certificate.remaining_seconds.div_euclid(86_400);
        let good = certificate.remaining_seconds >= SOON;
        let words = if days < 0 { String::from("ended") } else { format!("{days} days") };
        [
            html! { span.who { (safe(&certificate.file)) } },
            state(good, &words, &words),
            html! { (utc(certificate.not_after)) },
        ]
    });
    let _ = now;
    table(
        html! { "Our certificates" },
        [("File", false), ("Left", false), ("Ends", true)],
        rows.collect(),
        "There is none: STARTTLS is not offered.",
    )
}

fn configuration(slow: &Slow, now: WallTime) -> Markup {
    let status = &slow.status;
    let configuration = &status.configuration;
    html! {
        dl.facts {
            div { dt { "Generation" } dd { (configuration.generation) ", in force for " (left_of(configuration.since, now)) } }
            div { dt { "Last reload" } dd {
                @match &configuration.last_reload {
                    None => "none since the start",
                    Some(last) => { (ago(last.at, now)) ": " @match &last.error { None => (state(true, "applied", "")), Some(error) => { (state(false, "", "refused")) " " (safe(error)) } } },
                }
            } }
            @if !configuration.waiting.is_empty() { div { dt { "Waits for a restart" } dd { @for key in configuration.waiting.iter().take(ROWS) { code { (safe(key)) } " " } } } }
            @if configuration.earlier_sessions > 0 { div { dt { "Sessions by an earlier generation" } dd { (number(configuration.earlier_sessions)) } } }
            div { dt { "Listens on" } dd { @for listener in status.listeners.iter().take(ROWS) { code { (safe(listener)) } " " } } }
            div { dt { "Recipients" } dd {
                @match status.recipients.known { Some(known) => { (number(known)) " in the table" }, None => "the backend is asked" }
                @if !status.recipients.catch_all.is_empty() { "; any recipient is taken in " @for domain in status.recipients.catch_all.iter().take(ROWS) { code { (safe(domain)) } " " } }
            } }
            div { dt { "Store" } dd { @match &status.store_trouble { None => (state(true, "decisions are on disk", "")), Some(why) => { (state(false, "", "not written")) " " (safe(why)) } } } }
        }
    }
}

/// How long something has lasted.
fn left_of(since: WallTime, now: WallTime) -> Markup {
    let ms = now.as_ms().saturating_sub(since.as_ms()).max(0);
    html! { time datetime=(stamp(since)) title=(utc(since)) data-for { (length(ms.unsigned_abs() / 1000)) } }
}

fn bounds(slow: &Slow, now: WallTime) -> Markup {
    let rows = slow.status.bounds.iter().map(|bound| {
        [
            html! { code { (safe(&bound.name)) } div { small { (safe(&bound.what)) } } },
            html! { (number(bound.count)) },
            html! { (bound.limit.map_or_else(|| String::from("–"), number)) },
            ago(bound.last, now),
        ]
    });
    let columns = [("Bound", false), ("Times", true), ("Limit", true), ("Last", true)];
    table(html! { "Since the start" }, columns, rows.collect(), "None.")
}

fn fleet(status: Option<&FleetStatus>, now: WallTime) -> Markup {
    let Some(fleet) = status else { return html! { p.none { "This edge takes part in none." } } };
    let rows = fleet.nodes.iter().take(ROWS).map(|node| {
        let silent = node.silent_seconds.0;
        [
            html! { span.who { (safe(&node.name)) } @if node.name == fleet.node { " " small { "this edge" } } },
            match &node.muted {
                Some(muted) => html! { (state(false, "", "not listened to")) div { (safe(&muted.text)) } },
                None => state(node.live, "live", "silent"),
            },
            html! { (safe(&node.program_version)) },
            html! { (length(silent.as_secs())) " ago" },
            html! { (format!("{:+.3} s", f64::from(node.clock_offset_seconds))) },
            html! { (number(node.kept)) @if node.lost > 0 { " " small { (number(node.lost)) " lost" } } },
        ]
    });
    let columns =
        [("Edge", false), ("State", false), ("Version", false), ("Heard", true), ("Clock", true), ("Waits", true)];
    let caption = html! {
        "Fleet " (safe(&fleet.name)) ": the server " @if let Some(server) = &fleet.server { (safe(server)) " " }
        (state(fleet.connected, "answers", "doesn't answer")) " since " (ago(fleet.since, now))
        "; " (number(fleet.decisions_known)) " decisions known, " (number(fleet.reports_sent)) " reports sent, " (number(fleet.reports_heard)) " heard"
    };
    html! {
        (table(caption, columns, rows.collect(), "No edge was heard of yet."))
        @if let Some(why) = &fleet.trouble { p.bad { (safe(why)) } }
    }
}

/// What is told by a mark, by colour and by words.
fn state(good: bool, when_good: &str, when_bad: &str) -> Markup {
    if good {
        html! { span.good { (when_good) } }
    } else {
        html! { span.bad { (when_bad) } }
    }
}

fn events(seen: &Snapshot) -> Markup {
    let now = seen.both.wall;
    let rows = seen.events.iter().map(|event| {
        let (kind, text) = words(&event.what);
        [html! { (kind) }, html! { (safe(&text)) }, ago(event.at, now)]
    });
    let caption = html! { "Without messages that were accepted. All of them, as they happen: " code { "smtp-guard events --follow" } };
    table(caption, [("Event", false), ("What", false), ("When", true)], rows.collect(), "Nothing has happened yet.")
}

/// The kind of an event, and the rest of it in short.
fn words(what: &What) -> (&'static str, String) {
    let text =
        |label: &str| Reason::from_label(label).map_or_else(|| label.to_owned(), |reason| reason.text().to_owned());
    let seconds = |seconds: &u64| length(*seconds);
    match what {
        What::Banned { source, reason, duration_seconds, .. } => {
            ("banned", format!("{source} for {}: {}", seconds(duration_seconds), text(reason)))
        }
        What::Lifted { source, reason, why } => ("ban ended", format!("{source} ({}): {why}", text(reason))),
        What::LiftedMore { count, why } => ("bans ended", format!("{count} more: {why}")),
        What::Deferred { source, reason, duration_seconds, .. } => {
            ("deferred", format!("{source} for {}: {}", seconds(duration_seconds), text(reason)))
        }
        What::Imported { added, refused, text } => {
            ("imported", format!("{added} decisions, {refused} refused: {text}"))
        }
        What::AllLifted { count } => ("all lifted", format!("{count} decisions")),
        What::ConnectionRefused { client, reason, .. } => {
            ("refused", format!("connection from {client}: {}", text(reason)))
        }
        What::CommandRefused { client, reason, recipient, .. } => {
            let to = recipient.as_deref().map(|recipient| format!(" to {recipient}")).unwrap_or_default();
            ("refused", format!("{client}{to}: {}", text(reason)))
        }
        What::Message { client, outcome, sender, recipient_count, .. } => {
            ("message", format!("{outcome}: from {sender} for {recipient_count}, by {client}"))
        }
        What::UserHeld { user, reason, .. } => ("held", format!("{user}: {}", text(reason))),
        What::UserReleased { user } => ("released", user.clone()),
        What::Reloaded { generation, changed, .. } => {
            ("reloaded", format!("generation {generation}: {}", changed.join(", ")))
        }
        What::ReloadRefused { error } => ("not reloaded", error.clone()),
        What::Backend { server, answers } => {
            ("backend", format!("{server} {}", if *answers { "answers" } else { "does not answer" }))
        }
        What::Blocklist { list, entries, error, .. } => match error {
            None => ("block list", format!("{list}: {entries} entries")),
            Some(error) => ("block list", format!("{list} can't be read: {error}")),
        },
        What::Kernel { loaded, text } => ("kernel", format!("{}: {text}", if *loaded { "loaded" } else { "gone" })),
        What::Certificate { usable, text } => {
            ("certificate", format!("{}{text}", if *usable { "" } else { "can't be used: " }))
        }
        What::Fleet { connected, text } => {
            ("fleet", format!("the server {}: {text}", if *connected { "answers" } else { "can't be used" }))
        }
        What::FleetNode { node, state, text } => ("fleet", format!("{node} is {state} {text}")),
        What::Test { text } => ("test", text.clone()),
    }
}

#[cfg(test)]
mod tests;
