//! Refunds on chain follow their transaction: what a block has is booked, what the chain takes away
//! again is undone and set aside anew, and what may still be in a block one day is not over.

use super::going::keys_of;
use super::model::{ChainEntry, Refund, RefundState};
use super::on_chain::{fee_payer, msat, set_aside};
use super::{FOLLOW_JOB, REFUNDS, RefundError, drafting};
use crate::Error;
use crate::cards;
use crate::core::{Core, Decision, Loaded, emit, put};
use crate::ids::{RefundId, TransferId};
use crate::invoices::{self, Invoice, RefundEntry};
use crate::ledger::{
    Account, AccountKind, DueJob, NewReversal, NewTransfer, Owner, Shortfall, Step, TransferKind,
};
use crate::payments::Holds;
use crate::receipts;
use crate::rewards::PointsBack;

/// What the chain says of a refund by all the spends that were made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnChain {
    /// A block has the transaction of one.
    InBlock {
        /// What that one costs.
        fee_sat: u64,
    },
    /// One is on its way, or about to be.
    OnItsWay,
    /// None is, and one that was signed, or can have been, may still be in a block one day.
    Unknown {
        /// Why none is on its way.
        why: &'static str,
    },
    /// None can ever be in a block.
    Impossible {
        /// Why not.
        why: &'static str,
    },
}

/// The steps by which a refund stands as the chain says; none where it does.
pub(crate) async fn follow(core: &Core, id: RefundId, now: OnChain) -> Result<Vec<Step>, Error> {
    let found: Option<Loaded<Refund>> = core.load(REFUNDS, &id.to_string()).await?;
    let found = found.ok_or(RefundError::NotFound { refund: id })?;
    let before = &found.value;
    let mut news = News::new(core, before).await?;
    let mut event = None;
    match (before.state, now) {
        (RefundState::Sending | RefundState::Unknown, OnChain::InBlock { fee_sat }) => {
            news.book(fee_sat)?;
        }
        // Whatever was said of it: it has left.
        (RefundState::Failed, OnChain::InBlock { fee_sat }) => news.book_late(fee_sat).await?,
        // Of one that was booked before its entries were named nothing can be undone.
        (RefundState::Succeeded, _) if before.posting.booked.is_empty() => return Ok(Vec::new()),
        (RefundState::Succeeded, OnChain::InBlock { fee_sat }) => {
            if before.fee_msat == Some(msat(fee_sat)) {
                return Ok(Vec::new());
            }
            news.undo().await?;
            news.book(fee_sat)?;
        }
        (RefundState::Succeeded, OnChain::OnItsWay | OnChain::Unknown { .. }) => {
            news.undo().await?;
            news.stands(now);
            event = Some("refund.reorged");
        }
        (RefundState::Succeeded, OnChain::Impossible { why }) => {
            news.undo().await?;
            news.fail(why).await?;
        }
        (RefundState::Sending | RefundState::Unknown, OnChain::Impossible { why }) => {
            news.fail(why).await?;
        }
        (RefundState::Sending, OnChain::Unknown { .. })
        | (RefundState::Unknown, OnChain::OnItsWay) => news.stands(now),
        _ => return Ok(Vec::new()),
    }
    news.written(found.version, event).await
}

/// Nothing is new of a refund that was asked about: it is asked about again while it is not known
/// what becomes of it.
pub(crate) async fn asked(core: &Core, id: RefundId) -> Result<Step, Error> {
    let found: Option<Loaded<Refund>> = core.load(REFUNDS, &id.to_string()).await?;
    let open = found.filter(|found| found.value.state == RefundState::Unknown);
    Ok(match open {
        Some(found) => ask_again(core, &found.value),
        None => Step::Done {
            kind: FOLLOW_JOB,
            object: id.to_string(),
        },
    })
}

fn ask_again(core: &Core, refund: &Refund) -> Step {
    ask_at(refund.id, core.ask_again_at(refund.created_at_ms))
}

/// The step that has the chain asked what became of a refund.
pub(crate) fn ask_at(id: RefundId, due_at_ms: i64) -> Step {
    Step::Due(DueJob {
        kind: FOLLOW_JOB.to_owned(),
        object: id.to_string(),
        due_at_ms,
    })
}

/// A person says that nobody has signed it, or has what was signed any more.
pub(super) async fn given_up(
    core: &Core,
    found: &Loaded<Refund>,
    why: &str,
) -> Result<Decision<Refund>, Error> {
    let mut news = News::new(core, &found.value).await?;
    news.fail(why).await?;
    let answer = news.after.clone();
    let steps = news.written(found.version, None).await?;
    Ok(Decision { steps, answer })
}

/// A refund as it stands from now on, and what is posted for that.
struct News<'a> {
    core: &'a Core,
    invoice: Loaded<Invoice>,
    after: Refund,
    /// What its invoice says of it.
    entry: RefundEntry,
    moved: Vec<Step>,
}

impl<'a> News<'a> {
    async fn new(core: &'a Core, before: &Refund) -> Result<Self, Error> {
        Ok(Self {
            core,
            invoice: invoices::load(core, before.invoice).await?,
            after: before.clone(),
            entry: RefundEntry::default(),
            moved: Vec::new(),
        })
    }

    fn new_id(&self) -> Result<TransferId, Error> {
        self.core.new_id(TransferId::from_parts)
    }

    /// It stands there, and no money moves.
    fn stands(&mut self, now: OnChain) {
        (self.after.state, self.after.detail) = match now {
            OnChain::Unknown { why } => (RefundState::Unknown, Some(why.to_owned())),
            _ => (RefundState::Sending, None),
        };
    }

    fn count(&mut self, refunding_msat: i64, refunded_msat: i64) {
        let add = |to: &mut i64, more: i64| *to = to.saturating_add(more);
        add(&mut self.entry.refunding_msat, refunding_msat);
        add(&mut self.entry.refunded_msat, refunded_msat);
    }

    /// What of the invoice is paid back by it: all or nothing of it, once more or once less.
    fn cover(&mut self, is_more: bool) {
        let sign = if is_more { 1 } else { -1 };
        self.entry.covers_msat = self.after.covers_msat.saturating_mul(sign);
        self.entry.uncounted_msat = self.after.posting.uncounted_msat.saturating_mul(sign);
    }

    fn arrived(&mut self, fee_sat: u64) {
        self.after.state = RefundState::Succeeded;
        self.after.detail = None;
        self.after.fee_msat = Some(msat(fee_sat));
        let amount_msat = self.after.amount_msat;
        self.count(0, amount_msat);
    }

    /// A block has the transaction: what was set aside has left. A dearer one in its place, which
    /// the operator made, costs the operator what it costs more.
    fn book(&mut self, fee_sat: u64) -> Result<(), Error> {
        self.arrived(fee_sat);
        self.count(-self.after.amount_msat, 0);
        let taken_msat = msat(fee_sat).min(self.after.max_fee_msat);
        let holds = self.after.posting.holds;
        let amounts = [
            (Some(holds.amount), self.after.sent_msat),
            (holds.route, taken_msat),
        ];
        for (hold, amount) in amounts {
            let Some(hold) = hold else { continue };
            let id = self.new_id()?;
            self.after.posting.booked.push(ChainEntry { id, amount });
            self.moved.push(Step::Capture {
                hold,
                id,
                amount,
                release_rest: true,
            });
        }
        self.operator_pays(msat(fee_sat).saturating_sub(taken_msat))?;
        self.points_go_back()
    }

    /// It had failed, so that nothing is set aside: whoever the invoice is of owes what left, and
    /// pays it as far as there is something to pay it with.
    async fn book_late(&mut self, fee_sat: u64) -> Result<(), Error> {
        self.arrived(fee_sat);
        self.cover(true);
        let payer = cards::account_now(self.core, self.after.posting.payer).await?;
        self.after.posting.payer = payer;
        let owes = owed_by(payer);
        let fee_msat = msat(fee_sat).min(self.after.max_fee_msat);
        let fee_owes = match fee_payer(&self.after) {
            bears if bears == payer => owes,
            other => other,
        };
        let sent_msat = self.after.sent_msat;
        self.leaves(owes, sent_msat, TransferKind::Refund)?;
        self.leaves(fee_owes, fee_msat, TransferKind::ChainFee)?;
        self.operator_pays(msat(fee_sat).saturating_sub(fee_msat))?;
        let fee_msat = if fee_owes == owes { fee_msat } else { 0 };
        self.recover(payer, sent_msat.saturating_add(fee_msat))?;
        let invoice = &self.invoice.value;
        let covered_msat = invoice
            .flags
            .refund_covers_msat
            .saturating_add(self.after.covers_msat);
        let (points, set_aside) =
            drafting::points_of(self.core, invoice, covered_msat, self.after.id).await?;
        self.after.points = points;
        self.moved.extend(set_aside);
        self.points_go_back()
    }

    /// What the payer owes is paid as far as there is something to pay it with, and it is owed.
    fn recover(&mut self, payer: Account, amount: i64) -> Result<(), Error> {
        let owes = owed_by(payer);
        if owes != payer && amount > 0 {
            let id = self.new_id()?;
            self.moved.push(Step::TransferUpTo(NewTransfer {
                id,
                debit: payer,
                credit: owes,
                amount,
                kind: TransferKind::Recovered,
                reference: self.after.id.to_string(),
                credit_ceiling: None,
            }));
        }
        Ok(())
    }

    fn leaves(&mut self, debit: Account, amount: i64, kind: TransferKind) -> Result<(), Error> {
        if amount <= 0 {
            return Ok(());
        }
        let id = self.new_id()?;
        self.after.posting.booked.push(ChainEntry { id, amount });
        self.moved.push(Step::Transfer(NewTransfer {
            id,
            debit,
            credit: Account::node_onchain(),
            amount,
            kind,
            reference: self.after.id.to_string(),
            credit_ceiling: None,
        }));
        Ok(())
    }

    fn operator_pays(&mut self, more_msat: i64) -> Result<(), Error> {
        self.leaves(Account::routing_fees(), more_msat, TransferKind::ChainFee)
    }

    /// The points of the sale go back once, however often its block comes and goes.
    fn points_go_back(&mut self) -> Result<(), Error> {
        if !self.after.posting.points_booked.is_empty() {
            return Ok(());
        }
        let steps = self.after.points_go_back(self.core)?;
        let booked = steps.iter().filter_map(|step| match step {
            Step::Capture { id, amount, .. } => Some((*id, *amount)),
            Step::Transfer(transfer) => Some((transfer.id, transfer.amount)),
            _ => None,
        });
        let booked = booked.map(|(id, amount)| ChainEntry { id, amount });
        self.after.posting.points_booked = booked.collect();
        self.moved.extend(steps);
        Ok(())
    }

    /// The chain took it away: what was booked is undone, and set aside again in the same commit,
    /// so that nobody has it meanwhile. The points stay taken back until it is known what becomes
    /// of it.
    async fn undo(&mut self) -> Result<(), Error> {
        let booked = std::mem::take(&mut self.after.posting.booked);
        let payer = self.after.posting.payer;
        let mut fee_msat = 0;
        for ChainEntry { id, amount } in booked {
            let row = self.core.store.transfer(id).await?;
            let (debit, kind) =
                row.map_or((payer, TransferKind::Refund), |row| (row.debit, row.kind));
            let is_owed = matches!(
                debit.kind(),
                AccountKind::MerchantReceivable | AccountKind::CardReceivable
            );
            // More than was to be paid is the operator's, and is not set aside.
            let is_his = is_owed || debit == fee_payer(&self.after);
            if kind == TransferKind::ChainFee && is_his && fee_msat == 0 {
                fee_msat = amount;
            }
            if is_owed {
                let owed_msat = &mut self.after.posting.owed_msat;
                *owed_msat = owed_msat.saturating_add(amount);
            }
            let new = self.new_id()?;
            // What is owed may have been paid by now: it is given back, and stays owed.
            self.moved.push(match is_owed {
                true => Step::Transfer(NewTransfer {
                    id: new,
                    debit: Account::node_onchain(),
                    credit: payer,
                    amount,
                    kind,
                    reference: self.after.id.to_string(),
                    credit_ceiling: None,
                }),
                false => Step::Reverse(NewReversal {
                    id: new,
                    of: id,
                    amount,
                    shortfall: None,
                    usage: Vec::new(),
                }),
            });
        }
        let amount_msat = self.after.amount_msat;
        self.count(amount_msat, -amount_msat);
        self.after.fee_msat = None;
        self.after.max_fee_msat = fee_msat;
        self.after.posting.holds = Holds::new(self.core, 0, fee_msat)?;
        self.moved.extend(set_aside(&self.after));
        Ok(())
    }

    /// None of its transactions can ever be in a block, or none was signed.
    async fn fail(&mut self, why: &str) -> Result<(), Error> {
        self.after.state = RefundState::Failed;
        self.after.detail = Some(why.to_owned());
        self.count(-self.after.amount_msat, 0);
        self.cover(false);
        let holds = self.after.posting.holds;
        let holds = [Some(holds.amount), holds.route].into_iter().flatten();
        self.moved.extend(holds.map(|hold| Step::Release { hold }));
        // What it was to pay once more does not come back beside what is owed for it.
        let owed_msat = std::mem::take(&mut self.after.posting.owed_msat);
        self.recover(self.after.posting.payer, owed_msat)?;
        let taken = std::mem::take(&mut self.after.posting.points_booked);
        for entry in &taken {
            let undone = self.points_undone(entry).await?;
            self.moved.push(undone);
        }
        for back in &self.after.points {
            let hold = back.hold.filter(|_| taken.is_empty());
            let back = PointsBack {
                hold,
                ..back.clone()
            };
            self.moved
                .extend(cards::give_points_again(self.core, &back).await?);
        }
        self.moved.extend(self.after.put_back(self.core).await?);
        // What comes back to a card that went out of use meanwhile goes on from there.
        let payer = self.after.posting.payer;
        self.moved.extend(cards::onward(self.core, payer).await?);
        Ok(())
    }

    /// What the merchant got for points that the card has again is taken back as far as it is
    /// there; the rest is owed.
    async fn points_undone(&self, entry: &ChainEntry) -> Result<Step, Error> {
        let row = self.core.store.transfer(entry.id).await?;
        let owes = match row.map(|row| row.credit.owner()) {
            Some(Owner::Merchant(merchant)) => Some(Account::merchant_receivable(merchant)),
            _ => None,
        };
        let shortfall = match owes {
            Some(receivable) => Some(Shortfall {
                id: self.new_id()?,
                receivable,
            }),
            None => None,
        };
        Ok(Step::Reverse(NewReversal {
            id: self.new_id()?,
            of: entry.id,
            amount: entry.amount,
            shortfall,
            usage: Vec::new(),
        }))
    }

    async fn written(self, version: i64, event: Option<&'static str>) -> Result<Vec<Step>, Error> {
        let (after, id) = (&self.after, self.after.id.to_string());
        // Written first: whoever is second is to read again.
        let mut steps = vec![
            put(REFUNDS, id.clone(), version, after, keys_of(after))?,
            emit(event.unwrap_or(after.event_kind()), id.clone(), after)?,
        ];
        steps.push(match after.state {
            RefundState::Unknown => ask_again(self.core, after),
            _ => Step::Done {
                kind: FOLLOW_JOB,
                object: id,
            },
        });
        steps.extend(self.moved);
        if self.entry != RefundEntry::default() {
            steps.extend(invoices::with_refund(
                &self.invoice,
                self.entry,
                self.core.clock.now_ms(),
            )?);
        }
        if self.entry.refunded_msat != 0 || self.entry.uncounted_msat != 0 {
            steps.extend(receipts::owed_now(self.core, &self.invoice.value).await?);
        }
        Ok(steps)
    }
}

/// Where stands what the payer of a refund owes.
fn owed_by(payer: Account) -> Account {
    match payer.owner() {
        Owner::Merchant(merchant) => Account::merchant_receivable(merchant),
        Owner::Card(card) => Account::card_receivable(card),
        _ => payer,
    }
}
