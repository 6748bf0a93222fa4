//! Money that leaves: a payment from an account of this engine to a BOLT11.
//!
//! One mechanism for all of them, whatever they are for. The intent is committed with all its
//! money on hold before the node is asked ([`rules::intend`]), attempts are counted, an outcome
//! that is not known is asked about again, and what only a person can know a person says. What a
//! kind of payment adds (its record, its events, what else is posted when it succeeded or ended)
//! it says by [`Outgoing`].

mod in_books;
mod model;
pub(crate) mod rules;
mod said;
mod sending;

pub(crate) use in_books::ended_in_books;
pub(crate) use model::{Attempts, Exchanged, Holds, Leaving, Outcome, Outgoing, Standing, Written};
pub(crate) use said::Said;
pub(crate) use sending::{Attempt, Payments};
