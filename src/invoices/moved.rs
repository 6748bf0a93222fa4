//! What moves in the books for an invoice, and where from.

use super::model::Invoice;
use super::rules::{self, Outcome};
use crate::Error;
use crate::cards;
use crate::core::{Core, Loaded};
use crate::ids::TransferId;
use crate::ledger::Step;

/// What moves in the books.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) steps: Vec<Step>,
    /// What is taken for a merchant's debts, out of what the steps leave it: behind all others of
    /// the commit, since points are the merchant's to give of what has come in.
    pub(crate) debts: Vec<Step>,
}

impl Moved {
    /// Where nothing else is to come between.
    pub(crate) fn all(mut self) -> Vec<Step> {
        self.steps.append(&mut self.debts);
        self.steps
    }
}

/// The payments that were being taken and have arrived.
pub(super) fn captured(outcome: &Outcome) -> Vec<usize> {
    let moves = outcome.moves.iter();
    let at = moves.filter_map(|step| match step {
        rules::Move::Capture(at) => Some(*at),
        _ => None,
    });
    at.collect()
}

/// What the chain takes back is wherever the card's money went since: the steps that bring it back,
/// and those by which what is left of it then goes on again, since the operator's share of it comes
/// back as well.
pub(super) async fn brought_back(
    core: &Core,
    invoice: &Loaded<Invoice>,
    outcome: &Outcome,
    guards: &mut Vec<Step>,
    onward: &mut Vec<Step>,
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for undone in undone(invoice, outcome) {
        let (held, back) = cards::back_from(core, undone).await?;
        guards.extend(held);
        if let Some(Step::TransferUpTo(back)) = &back {
            onward.extend(cards::onward(core, back.credit).await?);
        }
        steps.extend(back);
    }
    Ok(steps)
}

/// The credits that the chain takes back.
fn undone(invoice: &Loaded<Invoice>, outcome: &Outcome) -> Vec<TransferId> {
    let moves = outcome.moves.iter();
    let entries = moves.filter_map(|step| match step {
        rules::Move::Undo(at, _) => Some(invoice.value.payments[*at].transfers),
        _ => None,
    });
    let credits = entries.flat_map(|entries| [entries.counted, entries.surplus]);
    credits.flatten().collect()
}
