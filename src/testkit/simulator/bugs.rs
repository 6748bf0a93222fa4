//! Bugs planted at run time, in the ports and in the writer of the simulation alone: to show that
//! the simulator finds what it is there to find.

use std::sync::Arc;

use crate::ledger::{Batch, Step, TransferKind};

/// A bug that is planted on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PlantedBug {
    /// A commit does not look whether what was only read is still as it was.
    IgnoresRequire,
    /// A name can be taken twice.
    ForgetsClaims,
    /// A card's counter need not go up.
    LetsCountersGoBack,
    /// What is used in a window is not counted.
    IgnoresLimits,
    /// A hold never ends by itself.
    IgnoresExpiry,
    /// What is given back to a window is given back twice.
    GivesUsageBackTwice,
    /// Some charges are refused although the money is there.
    RefusesWithoutReason,
    /// Some events are not written.
    LosesEvents,
    /// A key is not remembered, and its command is done again.
    ForgetsKeys,
    /// Everybody is answered, and then the group is written.
    AcknowledgesBeforeFlush,
    /// Some batches are answered and never written.
    LosesABatch,
    /// Some batches are made in part: their last transfer is missing.
    TearsBatches,
    /// The time of a commit follows the clock back.
    LetsTimeGoBack,
    /// That the node does not know is answered as a refusal.
    ReadsUnknownAsFailed,
    /// An event told twice is told of another payment.
    TellsTwiceAsNew,
    /// What the chain took away stays booked.
    KeepsReorgedCredit,
    /// What is owed is not paid by what comes in.
    ForgetsDebts,
    /// A tap that was taken offline is not claimed when it is handed in.
    ReplaysUnclaimed,
    /// What comes to a card that was replaced stays there.
    LeavesMoneyBehind,
    /// A tab that was given back can be captured still.
    ReleasesNothing,
    /// That a tap was looked at is forgotten, so that it never grows old.
    ForgetsLooks,
    /// The node does not say which block is the best.
    KnowsNoHeight,
    /// What is given back of an invoice stays on hold.
    KeepsWhatIsGivenBack,
    /// What goes back of an invoice is not written down at the invoice.
    ForgetsRefunds,
    /// The points of a sale stay with the card when it is undone.
    KeepsPoints,
    /// That a PIN was wrong is told and not written down.
    ForgetsWrongPins,
    /// An invoice that was paid in the books can be paid over the network as well.
    PaysByBookAndNetwork,
}

impl PlantedBug {
    /// Every one there is.
    pub const ALL: &'static [Self] = &[
        Self::IgnoresRequire,
        Self::ForgetsClaims,
        Self::LetsCountersGoBack,
        Self::IgnoresLimits,
        Self::IgnoresExpiry,
        Self::GivesUsageBackTwice,
        Self::RefusesWithoutReason,
        Self::LosesEvents,
        Self::ForgetsKeys,
        Self::AcknowledgesBeforeFlush,
        Self::LosesABatch,
        Self::TearsBatches,
        Self::LetsTimeGoBack,
        Self::ReadsUnknownAsFailed,
        Self::TellsTwiceAsNew,
        Self::KeepsReorgedCredit,
        Self::ForgetsDebts,
        Self::ReplaysUnclaimed,
        Self::LeavesMoneyBehind,
        Self::ReleasesNothing,
        Self::ForgetsLooks,
        Self::KnowsNoHeight,
        Self::KeepsWhatIsGivenBack,
        Self::ForgetsRefunds,
        Self::KeepsPoints,
        Self::ForgetsWrongPins,
        Self::PaysByBookAndNetwork,
    ];

    /// What becomes of a batch on its way into the store. `dice` is a number by chance.
    pub(super) fn distort(self, batch: &mut Batch, dice: u64) {
        let steps = Arc::make_mut(&mut batch.steps);
        match self {
            Self::IgnoresRequire => steps.retain(|step| !matches!(step, Step::Require { .. })),
            Self::ForgetsClaims => steps.retain(|step| !matches!(step, Step::Claim { .. })),
            Self::LetsCountersGoBack => {
                steps.retain(|step| !matches!(step, Step::Advance { .. }));
            }
            Self::IgnoresLimits => steps.retain(|step| !matches!(step, Step::Use { .. })),
            Self::IgnoresExpiry => {
                for step in steps.iter_mut() {
                    if let Step::Hold(hold) = step {
                        hold.expires_at_ms = None;
                    }
                }
            }
            Self::GivesUsageBackTwice => give_back_twice(steps),
            Self::LosesEvents if dice.is_multiple_of(40) => {
                steps.retain(|step| !matches!(step, Step::Emit(_)));
            }
            Self::ForgetsKeys => {
                if let Some(command) = &mut batch.command {
                    command.scope = format!("{dice}/{}", command.scope);
                }
            }
            Self::RefusesWithoutReason if dice.is_multiple_of(20) => {
                for step in steps.iter_mut() {
                    if let Step::Transfer(transfer) = step
                        && transfer.kind == TransferKind::Charge
                    {
                        transfer.amount = transfer.amount.saturating_mul(1_000);
                    }
                }
            }
            Self::TearsBatches if dice.is_multiple_of(40) => {
                let last = steps
                    .iter()
                    .rposition(|step| matches!(step, Step::Transfer(_)));
                if let Some(last) = last {
                    steps.remove(last);
                }
            }
            _ => self.distort_orders(steps),
        }
    }

    /// What becomes of a batch that carries out an order of a caller's, or that the chain asks for.
    fn distort_orders(self, steps: &mut Vec<Step>) {
        match self {
            Self::KeepsReorgedCredit if emits(steps, "invoice.reorged") => {
                steps.retain(|step| !matches!(step, Step::Reverse(_)));
            }
            Self::ForgetsDebts => steps.retain(|step| match step {
                Step::TransferUpTo(transfer) => transfer.kind != TransferKind::Recovered,
                _ => true,
            }),
            Self::ReplaysUnclaimed
                if emits(steps, "offline.paid") || emits(steps, "offline.unpaid") =>
            {
                steps.retain(|step| !matches!(step, Step::Claim { .. } | Step::Advance { .. }));
            }
            Self::LeavesMoneyBehind if !emits(steps, "card.replaced") => {
                steps.retain(|step| match step {
                    Step::TransferUpTo(transfer) => transfer.kind != TransferKind::Replacement,
                    _ => true,
                });
            }
            Self::ReleasesNothing if emits(steps, "card.released") => {
                steps.retain(|step| matches!(step, Step::Emit(_)));
            }
            Self::ForgetsLooks => steps.retain(|step| match step {
                Step::Put(document) => document.collection != "tap_seen",
                _ => true,
            }),
            Self::KeepsWhatIsGivenBack if touches_invoice(steps) => {
                steps.retain(|step| !matches!(step, Step::Release { .. }));
            }
            Self::ForgetsRefunds if emits(steps, "refund.succeeded") => {
                steps.retain(|step| match step {
                    Step::Put(document) => document.collection != "invoice",
                    _ => true,
                });
            }
            Self::KeepsPoints if emits(steps, "card.refunded") => {
                steps.retain(|step| match step {
                    Step::Reverse(reversal) => !reversal.usage.is_empty(),
                    _ => true,
                });
            }
            Self::ForgetsWrongPins if emits(steps, "card.pin_wrong") => {
                steps.retain(|step| !matches!(step, Step::Put(_)));
            }
            Self::PaysByBookAndNetwork if emits(steps, "card.payment_succeeded") => {
                steps.retain(|step| match step {
                    Step::Put(document) => document.collection != "invoice",
                    Step::Claim { name, .. } => !name.starts_with("payment/"),
                    _ => true,
                });
            }
            _ => {}
        }
    }
}

fn touches_invoice(steps: &[Step]) -> bool {
    let mut steps = steps.iter();
    steps.any(|step| matches!(step, Step::Put(document) if document.collection == "invoice"))
}

fn emits(steps: &[Step], kind: &str) -> bool {
    let mut steps = steps.iter();
    steps.any(|step| matches!(step, Step::Emit(event) if event.kind == kind))
}

fn give_back_twice(steps: &mut Vec<Step>) {
    let mut again = Vec::new();
    for step in steps.iter_mut() {
        match step {
            Step::Unuse { .. } => again.push(step.clone()),
            Step::Reverse(reversal) => reversal.usage.extend(reversal.usage.clone()),
            Step::Hold(hold) => hold.usage.extend(hold.usage.clone()),
            _ => {}
        }
    }
    steps.extend(again);
}
