//! File descriptors: how many this process may have, what the configuration needs, and how few are shared out.
//!
//! When descriptors run out, new clients are not the first to notice: the store, the backend or the admin socket fails. So the
//! limit is raised as far as it goes, and what strangers can hold is bounded by what is left of it:
//!
//! | for | descriptors |
//! |---|---|
//! | store, followed files, what is open for a moment | [`FILES`] |
//! | admin socket, HTTP | [`ADMIN`], [`HTTP`] |
//! | clients that were turned away, made room, or owe a PROXY header | [`CLOSING`] each |
//! | a session | one, one to the backend, and look-ups in DNS, of which [`LOOKUPS`] are under way in all |
//!
//! Where there is less, each gets its part, and the sessions the rest: a client beyond them still hears 421.

use crate::config::Config;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For files, and for one connection more than there is a place for, which hears so.
const FILES: u64 = 16;
/// Connections to the admin socket.
pub const ADMIN: usize = 16;
/// Connections to the HTTP endpoint.
pub const HTTP: usize = 64;
/// Clients that are not in a session and have not closed yet, of each kind.
pub const CLOSING: usize = 1024;
/// Look-ups in DNS under way.
const LOOKUPS: u64 = 256;

/// Numbers of descriptors that may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sessions.
    pub sessions: u32,
    /// Clients that were turned away; likewise those that made room, and those that owe a PROXY header.
    pub closing: usize,
    pub admin: usize,
    pub http: usize,
}

/// Descriptors wanted, and descriptors there are: if they differ, there is a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Descriptors of which the whole configuration can be served.
    pub needed: u64,
    /// Those that this process may have.
    pub limit: u64,
    pub wanted: u32,
    pub plan: Plan,
}

/// Raises the soft limit of this process to the hard one. Returns what is in force.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Nobody may have more than the hard limit, and a soft one as high can always be had; if not, the old one stays.
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(_) => current.unwrap_or(u64::MAX),
    }
}

/// The soft limit of this process: descriptors that it may have open.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The hard limit of this process.
pub fn hard_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Descriptors that are open now, as far as the kernel tells.
pub fn open() -> u64 {
    // Without /proc a guess that leaves room: what a start opens.
    std::fs::read_dir("/proc/self/fd").map_or(32, |entries| entries.count() as u64)
}

impl Budget {
    /// The budget of `config` in this process, as it is now.
    pub fn of(config: &Config) -> Self {
        Self::with_open(config, open())
    }

    /// The budget of `config` in this process, in which `open` descriptors are open for other things.
    pub fn with_open(config: &Config, open: u64) -> Self {
        let wanted = config.limits.total_connections;
        let backend = config.backend.servers.iter().fold(0u32, |all, _| all.saturating_add(config.backend.connections));
        Self::new(wanted, backend, hard_limit(), open)
    }

    /// For `wanted` sessions of which at most `backend` have a connection to a mail server, in a process that may have
    /// `limit` descriptors and has `open` already.
    pub fn new(wanted: u32, backend: u32, limit: u64, open: u64) -> Self {
        let whole = Plan::whole(wanted);
        let needed = open + FILES + whole.descriptors(backend);
        let plan =
            if needed <= limit { whole } else { Plan::within(limit.saturating_sub(open + FILES), wanted, backend) };
        Self { needed, limit, wanted, plan }
    }

    /// The warning where not all can be served.
    pub fn warning(&self) -> Option<String> {
        (self.plan.sessions < self.wanted).then(|| {
            format!(
                "limits.total_connections = {} needs {} open files, and this process may have {}: {} connections at once \
                 are served; raise LimitNOFILE= of the unit (`ulimit -Hn` in a shell), or lower total_connections",
                self.wanted, self.needed, self.limit, self.plan.sessions
            )
        })
    }
}

impl Plan {
    /// For `sessions` where descriptors are no matter.
    pub fn whole(sessions: u32) -> Self {
        Self { sessions, closing: CLOSING, admin: ADMIN, http: HTTP }
    }

    /// The largest of at most `wanted` sessions within `descriptors`.
    fn within(descriptors: u64, wanted: u32, backend: u32) -> Self {
        let part = |of: u64, most: usize| usize::try_from(descriptors / of).unwrap_or(most).clamp(1, most);
        let mut plan = Self { sessions: 1, closing: part(16, CLOSING), admin: part(16, ADMIN), http: part(16, HTTP) };
        // One more at a time would be slow for millions: halve the step instead. What is needed grows with sessions.
        let (mut least, mut most) = (1, wanted.max(1));
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            plan.sessions = middle;
            if plan.descriptors(backend) <= descriptors {
                least = middle;
            } else {
                most = middle - 1;
            }
        }
        plan.sessions = least;
        plan
    }

    /// The most descriptors that it takes.
    fn descriptors(&self, backend: u32) -> u64 {
        let sessions = u64::from(self.sessions);
        let each = sessions + sessions.min(backend.into()) + LOOKUPS.min(2 * sessions);
        each + (3 * self.closing + self.admin + self.http) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `limit` descriptors of which 25 are open: how many of 10,000 sessions, with 90 connections to the backend.
    #[track_caller]
    fn check(limit: u64, sessions: u32, others: [usize; 3]) {
        let budget = Budget::new(10_000, 90, limit, 25);
        let Plan { closing, admin, http, .. } = budget.plan;
        assert_eq!((budget.plan.sessions, [closing, admin, http]), (sessions, others), "{limit}");
        assert_eq!(budget.warning().is_some(), sessions < 10_000);
        if limit >= 64 {
            assert!(25 + FILES + budget.plan.descriptors(90) <= limit, "{limit}: {budget:?}");
        }
    }

    #[test]
    fn c5_few_descriptors_are_shared_out() {
        check(1_048_576, 10_000, [1024, 16, 64]);
        check(13_539, 10_000, [1024, 16, 64]);
        check(13_538, 10_000, [843, 16, 64]);
        check(4_096, 2_870, [253, 16, 64]);
        check(1_024, 377, [61, 16, 61]);
        check(256, 37, [13, 13, 13]);
        check(64, 4, [1, 1, 1]);
        // Nothing can be shared out, and yet somebody is served.
        check(40, 1, [1, 1, 1]);
    }

    #[test]
    fn c5_the_warning_names_figures_and_way_out() {
        let text = Budget::new(10_000, 90, 1024, 25).warning().unwrap();
        for part in ["total_connections = 10000", "13539 open files", "may have 1024", "LimitNOFILE="] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(Budget::new(100, 90, 10_000, 25).warning(), None);
    }

    #[test]
    fn the_soft_limit_is_raised() {
        assert_eq!(raise(), hard_limit());
        assert!(open() >= 3);
    }
}
