//! The names of what is on the server. All have one hash tag, so that scripts may use them together.

/// The names of keys of a fleet on the server.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Stream of evidence.
    pub(super) evidence: String,
    /// Stream of changes of decisions.
    pub(super) changes: String,
    /// Sources with decisions, by when the last of them ends.
    pub(super) index: String,
    /// A number that is lost with everything else.
    pub(super) epoch: String,
    /// How edges are, by name.
    pub(super) nodes: String,
    /// The history of edges: sources whose mail is accepted, by name and part.
    pub(super) history: String,
    record: String,
}

impl Keys {
    pub(super) fn new(fleet: &str) -> Self {
        let key = |name: &str| format!("sg:{{{fleet}}}:{name}");
        let (evidence, changes, index, epoch) = (key("ev"), key("dc"), key("di"), key("ep"));
        Self { evidence, changes, index, epoch, nodes: key("no"), history: key("hi"), record: key("d:") }
    }

    /// The decisions about `source`.
    pub(super) fn record(&self, source: &str) -> String {
        format!("{}{source}", self.record)
    }
}
