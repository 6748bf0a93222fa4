//! The ways a refund goes: over the network, in the books, by a Lightning address.

use super::drafting::{self, Draft};
use super::model::{
    AnswerRefund, CancelRefund, CreateRefund, Refund, RefundOnCard, RefundState, RefundTo,
};
use super::{REFUNDS, RefundError, Refunds, address, rules};
use crate::Error;
use crate::cards;
use crate::core::{Caller, Decision, Loaded, NodeStatus, emit, put};
use crate::exchange::{self, Moves, share_down};
use crate::ids::{CardId, TransferId};
use crate::invoices::{self, Invoice};
use crate::ledger::{Account, NewTransfer, Step, TransferKind};
use crate::lightning::{Bolt11Details, LightningError};
use crate::money::{Asset, Quote};
use crate::payments;
use crate::receipts;
use crate::settlement::PaidByBook;

impl Refunds {
    pub(super) async fn decide_create(
        &self,
        caller: &Caller,
        command: &CreateRefund,
    ) -> Result<Decision<Refund>, Error> {
        let core = &self.core;
        let Draft {
            mut refund,
            invoice,
            asked,
            steps: drafted,
        } = self.draft(caller, command).await?;
        let mut steps = Vec::new();
        match &command.to {
            RefundTo::Bolt11 { bolt11 } => {
                steps.extend(self.to_bolt11(&mut refund, bolt11).await?);
            }
            RefundTo::LightningAddress { address } => {
                let url = address::first_question(address)?;
                self.check_can_send(&refund).await?;
                refund.state = RefundState::Resolving;
                refund.ask = Some(url);
                steps.extend(write(&refund, 0)?);
            }
            RefundTo::OnChain {
                address,
                fee_sat_per_kvb,
            } => {
                let fee = self.chain_fee(caller, *fee_sat_per_kvb).await?;
                let spent = self.to_chain(&mut refund, address, fee);
                steps.extend(spent.await?);
            }
            RefundTo::Card { card } => {
                let invoice = &invoice.value;
                steps.extend(self.to_card(&mut refund, *card, invoice, asked).await?);
            }
        }
        let is_paid = refund.state == RefundState::Succeeded;
        let entry = rules::begun(&refund, is_paid);
        // Written first: whoever lost a race is to read again.
        let now_ms = core.clock.now_ms();
        let mut first = invoices::with_refund(&invoice, entry, now_ms)?.to_vec();
        first.extend(drafted);
        if is_paid {
            first.extend(refund.points_go_back(core)?);
            first.extend(receipts::owed_now(core, &invoice.value).await?);
        }
        first.append(&mut steps);
        let steps = first;
        Ok(Decision {
            steps,
            answer: refund,
        })
    }

    /// The intent of a refund to a BOLT11, or the transfer where that is of this engine.
    async fn to_bolt11(&self, refund: &mut Refund, bolt11: &str) -> Result<Vec<Step>, Error> {
        let core = &self.core;
        let asked: Bolt11Details = bolt11.parse()?;
        if asked.network != core.network {
            let (expected, found) = (core.network.clone(), asked.network);
            return Err(LightningError::WrongNetwork { expected, found }.into());
        }
        let hash = asked.payment_hash;
        bolt11.trim().clone_into(&mut refund.bolt11);
        refund.payment_hash = Some(hash);
        let own = invoices::own_invoice(core, hash).await?;
        if own.is_some() && matches!(refund.to, RefundTo::Bolt11 { .. }) {
            self.costs_nothing(refund)?;
        }
        if asked.amount_msat.is_none() {
            refund.sent_msat = rules::whole_sats(refund.sent_msat)?;
        }
        let Some(own) = own else {
            let most_blocks = core.settings.max_lock_blocks;
            rules::check_lock(&asked, most_blocks)?;
            refund.posting.max_lock_blocks = Some(most_blocks);
            rules::payable(&asked, refund.sent_msat, core.clock.now_ms())?;
            self.check_can_send(refund).await?;
            refund.state = RefundState::Sending;
            refund.posting.attempts = self.payments.first_attempts();
            let cap = self.set_aside_off_card(refund).await?;
            let mut steps = payments::rules::intend(refund, self.payments.first_check_at())?;
            steps.extend(cap);
            return Ok(steps);
        };
        let payee = own.value.purpose.account();
        if payee == refund.purpose.account() {
            return Err(RefundError::OwnAccount.into());
        }
        self.check_in_books(refund, &own.value).await?;
        rules::payable(&asked, refund.sent_msat, core.clock.now_ms())?;
        let off_card = self.pay_off_card(refund).await?;
        let (sent_msat, payer) = (refund.sent_msat, refund.posting.payer);
        let paid = invoices::pay_by_book(core, &own, hash, sent_msat, payer)
            .await?
            .all();
        if own.value.options.hold {
            refund.state = RefundState::Sending;
            refund.held_for = Some(own.value.id);
            let mut steps = payments::rules::paid_by_book(refund)?;
            steps.extend(paid);
            return Ok(steps);
        }
        refund.state = RefundState::Succeeded;
        refund.fee_msat = Some(0);
        refund.by_book = Some(PaidByBook {
            invoice: own.value.id,
            preimage: invoices::proof(core, &own.value, hash),
        });
        let mut steps = payments::rules::paid_by_book(refund)?;
        steps.extend(off_card);
        steps.extend(paid);
        Ok(steps)
    }

    /// In the books there is no route to pay for.
    fn costs_nothing(&self, refund: &mut Refund) -> Result<(), RefundError> {
        refund.max_fee_msat = 0;
        refund.posting.holds.route = None;
        let (amount_msat, withheld_msat) = (refund.amount_msat, refund.withheld_msat);
        refund.sent_msat = rules::sent_msat(amount_msat, withheld_msat, refund.fee_bearer, 0)?;
        Ok(())
    }

    async fn to_card(
        &self,
        refund: &mut Refund,
        card: CardId,
        invoice: &Invoice,
        asked: Option<(i64, Quote)>,
    ) -> Result<Vec<Step>, Error> {
        let core = &self.core;
        let card = cards::current(core, card).await?;
        let credit = card.value.balance_account();
        let off_card = refund.off_card.as_ref().map(|of| of.account);
        if credit == off_card.unwrap_or(refund.posting.payer) {
            return Err(RefundError::OwnAccount.into());
        }
        // From one card in a currency to another one there is one rate, which is that of now.
        let rate_of_now = asked.as_ref().map(|(_, quote)| quote.currency);
        if let (Some(off_card), Asset::Fiat(currency)) = (&refund.off_card, card.value.unit)
            && (off_card.currency != currency || rate_of_now != Some(currency))
        {
            let invoice = refund.invoice;
            return Err(RefundError::CardInCurrency { invoice }.into());
        }
        let (sent_msat, amount_msat) = (refund.sent_msat, refund.amount_msat);
        // What is withheld for points comes off what was asked for in a currency as well.
        let asked = match asked {
            Some((minor, quote)) => Some((share_down(minor, sent_msat, amount_msat)?, quote)),
            None => None,
        };
        let on_card = cards::refund_on_card(core, &card.value, invoice, sent_msat, asked).await?;
        refund.on_card = on_card.map(|on_card| RefundOnCard {
            currency: on_card.currency,
            amount: on_card.amount,
            quote: on_card.quote,
        });
        let (credit_ceiling, held) = cards::programs::ceiling(core, &card.value).await?;
        let transfer = core.new_id(TransferId::from_parts)?;
        refund.state = RefundState::Succeeded;
        refund.fee_msat = Some(0);
        refund.posting.transfer = Some(transfer);
        let off_card = self.pay_off_card(refund).await?;
        let mut steps = write(refund, 0)?.to_vec();
        steps.extend(off_card);
        let way = (transfer, credit);
        steps.extend(self.onto_card(refund, way, credit_ceiling).await?);
        steps.extend(held);
        steps.extend(cards::onward(core, credit).await?);
        Ok(steps)
    }

    /// The transfers of what comes on a card.
    async fn onto_card(
        &self,
        refund: &Refund,
        (transfer, credit): (TransferId, Account),
        credit_ceiling: Option<i64>,
    ) -> Result<Vec<Step>, Error> {
        let core = &self.core;
        let (sent_msat, amount_msat) = (refund.sent_msat, refund.amount_msat);
        let mut steps = Vec::new();
        let moved = |id, (debit, credit), amount, credit_ceiling| {
            Step::Transfer(NewTransfer {
                id,
                debit,
                credit,
                amount,
                kind: TransferKind::Refund,
                reference: refund.id.to_string(),
                credit_ceiling,
            })
        };
        let payer = refund.posting.payer;
        match &refund.on_card {
            None => steps.push(moved(transfer, (payer, credit), sent_msat, credit_ceiling)),
            Some(RefundOnCard { amount: ..=0, .. }) => {
                let fee_msat = amount_msat.saturating_sub(sent_msat);
                return Err(RefundError::FeeTakesAll {
                    amount_msat,
                    fee_msat,
                }
                .into());
            }
            // The operator takes the bitcoin and gives the currency.
            Some(on_card) => {
                let given = Account::exchange(Asset::Fiat(on_card.currency));
                let taken = Account::exchange(Asset::Btc);
                // Of another card in a currency it has been taken already.
                if payer != taken {
                    let id = core.new_id(TransferId::from_parts)?;
                    steps.push(moved(id, (payer, taken), sent_msat, None));
                }
                let way = (given, credit);
                steps.push(moved(transfer, way, on_card.amount, credit_ceiling));
                let cap = exchange::within_cap(core, on_card.currency, Moves::Down);
                steps.extend(cap.await?);
            }
        }
        Ok(steps)
    }

    /// Refused before anything is set aside where the channels cannot carry it now. Where another
    /// instance has the node, that one says so.
    async fn check_can_send(&self, refund: &Refund) -> Result<(), Error> {
        let core = &self.core;
        if core.lightning_elsewhere && core.lightning.is_none() {
            return Ok(());
        }
        let node = core.node()?;
        match core.node_status() {
            NodeStatus::Standby => return Ok(()),
            NodeStatus::Locked => return Err(LightningError::NotRunning.into()),
            NodeStatus::None | NodeStatus::Stopped | NodeStatus::Running => {}
        }
        let available_msat = node.balances().await?.outbound_capacity_msat;
        let needed_msat = refund.sent_msat.saturating_add(refund.max_fee_msat);
        if needed_msat > available_msat {
            return Err(RefundError::NoOutboundCapacity {
                available_msat,
                needed_msat,
            }
            .into());
        }
        Ok(())
    }

    /// What the host fetched: the next question, or the invoice that is paid.
    pub(super) async fn decide_answer(
        &self,
        caller: &Caller,
        command: &AnswerRefund,
    ) -> Result<Decision<Refund>, Error> {
        let found = self.require(command.refund).await?;
        drafting::admit_known(caller, &found.value)?;
        let mut refund = self.waiting(&found)?;
        let asked = refund.ask.take();
        let is_first = match &refund.to {
            RefundTo::LightningAddress { address } => {
                asked == address::first_question(address).ok()
            }
            _ => false,
        };
        if asked.as_deref() != Some(command.asked.as_str()) {
            let refund = command.refund;
            return Err(RefundError::OtherQuestion { refund }.into());
        }
        if is_first {
            let url = address::second_question(&command.body, refund.sent_msat)?;
            refund.ask = Some(url);
            let steps = write(&refund, found.version)?.to_vec();
            return Ok(Decision {
                steps,
                answer: refund,
            });
        }
        let now_ms = self.core.clock.now_ms();
        let holds = |quote: &crate::money::Quote| now_ms < quote.valid_until_ms;
        if !refund.quote.as_ref().is_none_or(holds) {
            let refund = command.refund;
            return Err(RefundError::QuoteExpired { refund }.into());
        }
        let bolt11 = address::invoice_of(&command.body)?;
        let mut steps = self.covered_now(&mut refund).await?;
        let taken_msat = std::mem::take(&mut refund.posting.to_take_msat);
        steps.extend(self.to_bolt11(&mut refund, &bolt11).await?);
        written_again(&mut steps, found.version);
        let is_paid = refund.state == RefundState::Succeeded;
        steps.extend(refund.takes(&self.core, taken_msat, is_paid).await?);
        Ok(Decision {
            steps,
            answer: refund,
        })
    }

    /// What was to go back when the refund was asked for is still there, in the commit as well; and
    /// what of it waited in suspense goes with it.
    async fn covered_now(&self, refund: &mut Refund) -> Result<Vec<Step>, Error> {
        let core = &self.core;
        let invoice = invoices::load(core, refund.invoice).await?;
        let came = invoices::refundable(core, &invoice.value).await?;
        let missing_msat = rules::missing_msat(&invoice.value, &came)?;
        if missing_msat > 0 {
            // The chain has taken it away, or somebody has got it meanwhile.
            let asked_msat = refund.covers_msat;
            let left_msat = asked_msat.saturating_sub(missing_msat).max(0);
            return Err(RefundError::ExceedsPaid {
                left_msat,
                asked_msat,
            }
            .into());
        }
        // No more than whoever asked for it was to give out.
        let posting = &mut refund.posting;
        posting.from_suspense_msat = posting.to_take_msat;
        let mut steps = vec![invoices::guard(&invoice)];
        steps.extend(drafting::given_out(core, &came, refund.id, posting)?);
        Ok(steps)
    }

    pub(super) async fn decide_cancel(
        &self,
        caller: &Caller,
        command: &CancelRefund,
    ) -> Result<Decision<Refund>, Error> {
        let found = self.require(command.refund).await?;
        drafting::admit_known(caller, &found.value)?;
        let mut refund = self.waiting(&found)?;
        refund.state = RefundState::Cancelled;
        refund.ask = None;
        let mut steps = write(&refund, found.version)?.to_vec();
        steps.extend(refund.ends(&self.core, false).await?);
        Ok(Decision {
            steps,
            answer: refund,
        })
    }

    /// A refund that waits for its Lightning address.
    fn waiting(&self, found: &Loaded<Refund>) -> Result<Refund, RefundError> {
        let Refund { id, state, .. } = found.value;
        if state != RefundState::Resolving {
            return Err(RefundError::WrongState { refund: id, state });
        }
        Ok(found.value.clone())
    }
}

/// The steps that write a refund which the node knows nothing of.
pub(super) fn write(refund: &Refund, read_version: i64) -> Result<[Step; 2], Error> {
    let id = refund.id.to_string();
    Ok([
        put(REFUNDS, id.clone(), read_version, refund, keys_of(refund))?,
        emit(refund.event_kind(), id, refund)?,
    ])
}

/// The keys under which one is found that the node knows nothing of.
pub(super) fn keys_of(refund: &Refund) -> Vec<(&'static str, String)> {
    let mut keys = refund.keys();
    let state = if refund.state.is_final() {
        "closed"
    } else {
        "waiting"
    };
    keys.push(("state", state.to_owned()));
    keys
}

/// The record of an intent is new; that of a refund which waited was there before.
fn written_again(steps: &mut [Step], read_version: i64) {
    for step in steps {
        if let Step::Put(document) = step
            && document.collection == REFUNDS
        {
            document.read_version = read_version;
        }
    }
}
