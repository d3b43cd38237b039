//! The ends of transactions and sessions.

use smtp_guard_ebpf::reason::Reason;

use super::{DOT_WAIT, Event, Output, Request, Session, State, replies};
use crate::clock::Instant;
use crate::offence::Conduct;
use crate::wire::reply::Reply;

impl Session {
    /// The client gives the transaction up, or is made to: who was accepted gets no message.
    pub(super) fn abandon_recipients(&mut self, out: &mut Vec<Output>) {
        if let Some(transaction) = &mut self.transaction
            && !transaction.lost
            && !transaction.chunks.is_over()
            && !transaction.unsent.is_empty()
        {
            let recipients = std::mem::take(&mut transaction.unsent).into();
            out.push(Output::Report(Conduct::Abandoned { recipients }));
        }
    }

    /// The one exit from a transaction. The caller says what the backend should hear of it.
    pub(super) fn reset_transaction(&mut self, word: Option<Request>, out: &mut Vec<Output>) {
        let Some(transaction) = self.transaction.take() else { return };
        if !transaction.unsent.is_empty() {
            // Neither given up nor taken: what is left speaks neither for the client nor against it.
            out.push(Output::Report(Conduct::Undelivered { recipients: transaction.unsent.into() }));
        }
        out.extend(word.map(Output::Request));
    }

    pub(super) fn drained(&mut self, out: &mut Vec<Output>) -> State {
        out.push(Output::Reply(replies::shutdown()));
        self.close(out)
    }

    pub(super) fn refuse_and_close(&mut self, reason: Reason, reply: Reply, out: &mut Vec<Output>) -> State {
        out.push(Output::Event(Event::Ended { reason }));
        out.push(Output::Reply(reply));
        self.close(out)
    }

    pub(super) fn close(&mut self, out: &mut Vec<Output>) -> State {
        self.abandon_recipients(out);
        self.reset_transaction(Some(Request::Drop), out);
        out.push(Output::Close);
        State::Closed
    }

    /// A ban ends the session, but for a message whose dot was sent: its outcome must be known.
    pub(super) fn on_banned(&mut self, state: State, reason: Reason, out: &mut Vec<Output>) -> State {
        if self.client.exempt {
            return state;
        }
        self.end_but_for_the_dot(state, reason, replies::banned(), out)
    }

    /// Gives way: the session was idle when somebody needed its seat.
    pub(super) fn on_give_way(&mut self, state: State, out: &mut Vec<Output>) -> State {
        if let Some(transaction) = &mut self.transaction {
            // It is not the client that gives the transaction up.
            let recipients = std::mem::take(&mut transaction.unsent).into();
            out.push(Output::Report(Conduct::Undelivered { recipients }));
        }
        self.end_but_for_the_dot(state, Reason::TotalConnections, replies::idle(), out)
    }

    fn end_but_for_the_dot(&mut self, state: State, reason: Reason, reply: Reply, out: &mut Vec<Output>) -> State {
        if matches!(state, State::Dot { .. }) {
            self.draining = true;
            return state;
        }
        self.refuse_and_close(reason, reply, out)
    }

    pub(super) fn on_client_gone(&mut self, state: State, now: Instant, out: &mut Vec<Output>) -> State {
        match state {
            State::Dot { size, .. } => {
                self.deadline = self.deadline.min(now.after(DOT_WAIT));
                State::Dot { size, gone: true }
            }
            _ => self.close(out),
        }
    }
}
