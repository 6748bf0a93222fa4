//! Paying a BOLT11 with a card: by a tap, or by its holder to a wallet of their own.
//!
//! An invoice of this engine becomes a book transfer. Any other leaves by the mechanism of
//! [`payments`](crate::payments): the tap is verified and used up in the commit that sets the
//! money aside, what the route may cost included.

use super::charging::{self, VerifiedTap};
use super::currency_payment::{self, PaymentTerms};
use super::life::owns;
use super::model::Card;
use super::payment_error::CardPaymentError;
use super::payment_model::{
    CardPayment, CardPaymentPosting, CardPaymentState, PayWithCard, WithdrawFromCard,
    WithdrawalQuote,
};
use super::programs::{self, CardProgram, FeeBearer};
use super::{Cards, guard, load, low_balance, payment_rules as rules, pin, taps};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Caller, Decision, Executed, Loaded};
use crate::exchange::{self, Moves};
use crate::ids::{CardId, CardPaymentId, CredentialId, MerchantId, TransferId};
use crate::invoices::{self, Invoice, InvoicePurpose};
use crate::ledger::{Account, Step, UsageWindow};
use crate::lightning::Bolt11Details;
use crate::money::Price;
use crate::payments::{self, Attempt, Attempts, Holds};
use crate::settlement::{self, PaidByBook};

/// A BOLT11 that a card is to pay.
struct Bill {
    card: Loaded<Card>,
    program: Option<Loaded<CardProgram>>,
    invoice: Bolt11Details,
    bolt11: String,
    amount_msat: i64,
    /// How a card in a currency pays it.
    terms: Option<PaymentTerms>,
    merchant: Option<MerchantId>,
    asked_by: Option<CredentialId>,
}

impl Bill {
    fn payer(&self) -> Account {
        self.card.value.balance_account()
    }
}

/// How a bill is paid: the steps before those that use a tap up, and what is counted.
struct Paid {
    payment: CardPayment,
    steps: Vec<Step>,
    /// What is counted towards the card's limits, in its unit.
    counted: i64,
}

impl Cards {
    /// Pays a BOLT11 with a tapped card. One of this engine is paid in the books at once and at
    /// no fee (by a card in a currency where it is a plain sale, a top-up in bitcoin or one in the
    /// same currency, otherwise `card.other_unit`); any other is sent by the node, under a hold. The
    /// answer says how the payment stands once the node was asked; the outcome follows as an event and
    /// in [`get_payment`](Self::get_payment). The merchant's points are given when it succeeds, out
    /// of what the merchant has put aside for them
    /// ([`Rewards::move_budget`](crate::rewards::Rewards::move_budget)), or has here. A till; or the issuer, for a tap that comes with no till.
    ///
    /// # Errors
    /// Those of a tap, a card, a PIN and a limit, as for [`charge`](Self::charge);
    /// `card.no_amount`, `card.invoice_expired`, `card.invoice_used`, `card.own_invoice`,
    /// `card.too_many_in_flight`, `card.locks_too_long`, `invoice.not_payable`,
    /// `lightning.bad_invoice`, `lightning.wrong_network`, `lightning.no_node`, `command.*`,
    /// `access.*`.
    pub async fn pay(
        &self,
        credential: &Credential,
        command: PayWithCard,
    ) -> Result<Answer<CardPayment>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                if caller.require_till().is_err() {
                    caller.require_issuer()?;
                }
                cards.pay_by_tap(&caller, command).await
            })
            .await
    }

    /// As [`pay`](Self::pay), for whoever was authenticated before.
    pub(super) async fn pay_by_tap(
        &self,
        caller: &Caller,
        command: PayWithCard,
    ) -> Result<Answer<CardPayment>, Error> {
        let operation = "cards.pay";
        let pin = command.pin.as_ref();
        let asked = PayWithCard {
            pin: pin.map(|pin| pin.blinded(&self.core)),
            ..command.clone()
        };
        let _turn = self.pin_turn(&command.tap, pin).await;
        let executed: Result<Executed<CardPayment>, Error> = self
            .core
            .execute(caller, operation, &command.key, &asked, || {
                self.decide_pay(caller, &command)
            })
            .await;
        let attempt = charging::attempt(caller, operation, &command.key, asked.pin.as_ref());
        let executed = self.count_if_wrong(&attempt, executed).await;
        self.dispatched(executed.map_err(rules::refused)?).await
    }

    /// Has the node send what was just intended, and says how it stands.
    async fn dispatched(
        &self,
        executed: Executed<CardPayment>,
    ) -> Result<Answer<CardPayment>, Error> {
        let id = executed.answer.value.id.to_string();
        let in_books = executed.answer.value.by_book.is_some();
        if in_books || executed.answer.value.held_for.is_some() {
            return Ok(executed.answer);
        }
        if !executed.replayed && !self.core.node_is_away() {
            self.payments
                .send::<CardPayment>(&id, Attempt::First)
                .await?;
        }
        Ok(Answer {
            as_of_ms: self.core.clock.now_ms().max(executed.answer.as_of_ms),
            value: self.payments.load::<CardPayment>(&id).await?.value,
        })
    }

    async fn decide_pay(
        &self,
        caller: &Caller,
        command: &PayWithCard,
    ) -> Result<Decision<CardPayment>, Error> {
        let core = &self.core;
        let invoice = rules::payable(&command.bolt11, &core.network, core.clock.now_ms())?;
        let amount_msat = invoice.amount_msat.ok_or(CardPaymentError::NoAmount)?;
        Price::Bitcoin { amount_msat }.validate()?;
        let till = caller.id.to_string();
        let merchant = caller.require_till().ok();
        let source = self.source.as_deref().or(merchant.map(|_| till.as_str()));
        let tap = self.verify_from(source, &command.tap).await?;
        super::rules::require_active(&tap.card.value, core.commit_time_ms())?;
        let mut guards = taps::guard(core, &tap).await?;
        let asked = (&invoice, amount_msat);
        let terms = currency_payment::terms_of(core, &tap.card.value, tap.program.as_ref(), asked);
        let terms = terms.await?;
        let on_card = match &terms {
            Some(terms) => terms.on_card(amount_msat)?,
            None => amount_msat,
        };
        guards.extend(pin::check(core, &tap, on_card, command.pin.as_ref()).await?);
        let limits = super::rules::usage_limits(&tap.card.value, core.commit_time_ms())?;
        let VerifiedTap {
            card,
            program,
            counter,
        } = tap;
        let bill = Bill {
            card,
            program,
            invoice,
            bolt11: command.bolt11.clone(),
            amount_msat,
            terms,
            merchant,
            asked_by: merchant.map(|_| caller.id),
        };
        let paid = self
            .decide_bill(&bill, super::rules::amount_windows(&limits))
            .await?;
        let mut steps = super::rules::use_tap(
            &bill.card,
            counter,
            paid.payment.id.to_string(),
            paid.counted,
            limits,
        )?;
        steps.extend(guards);
        steps.extend(paid.steps);
        steps.extend(low_balance::looks(core, &bill.card.value, paid.payment.id));
        Ok(Decision {
            steps,
            answer: paid.payment,
        })
    }

    /// In the books where the invoice is of this engine, otherwise over the network.
    async fn decide_bill(&self, bill: &Bill, usage: Vec<UsageWindow>) -> Result<Paid, Error> {
        let core = &self.core;
        let own = invoices::own_invoice(core, bill.invoice.payment_hash).await?;
        let merchant = match &own {
            Some(own) => own.value.purpose.merchant(),
            None => bill.merchant,
        };
        let merchant = match merchant {
            Some(merchant) => Some(settlement::load_merchant(core, merchant).await?),
            None => None,
        };
        let program = bill.program.as_ref();
        rules::check_program(
            program.map(|program| &program.value),
            merchant.as_ref().map(|merchant| &merchant.value),
        )?;
        let mut paid = match &own {
            Some(own) => self.decide_by_book(bill, own, usage).await?,
            None => self.decide_to_send(bill, usage).await?,
        };
        paid.steps.extend(program.map(programs::guard));
        paid.steps.extend(merchant.as_ref().map(settlement::guard));
        Ok(paid)
    }

    async fn decide_by_book(
        &self,
        bill: &Bill,
        own: &Loaded<Invoice>,
        usage: Vec<UsageWindow>,
    ) -> Result<Paid, Error> {
        let core = &self.core;
        let payee = super::account_now(core, own.value.purpose.account()).await?;
        if payee == bill.payer() {
            return Err(CardPaymentError::OwnInvoice.into());
        }
        // From one currency into another, nobody has said at which rates; nor at which rate
        // what is set aside would come back.
        let is_held = own.value.options.hold;
        let terms = bill.terms.as_ref();
        if terms.is_some_and(|terms| !terms.can_pay(payee.asset(), is_held)) {
            return Err(CardPaymentError::OtherUnit.into());
        }
        let holds = Holds::new(core, 0, 0)?;
        let mut payment = self.new_payment(bill, 0, holds, usage)?;
        if is_held {
            payment.held_for = Some(own.value.id);
        } else {
            payment.state = CardPaymentState::Succeeded;
            payment.route_fee_msat = Some(0);
            payment.by_book = Some(PaidByBook {
                invoice: own.value.id,
                preimage: invoices::proof(core, &own.value, bill.invoice.payment_hash),
            });
        }
        // Whose sale it is gives the points, whoever's till it was.
        payment.merchant = match own.value.purpose {
            InvoicePurpose::Sale { merchant } => Some(merchant),
            _ => None,
        };
        let (hash, amount_msat) = (bill.invoice.payment_hash, bill.amount_msat);
        let (mut steps, payer) = match &bill.terms {
            Some(terms) => terms.pay_by_book(core, bill.payer(), &mut payment).await?,
            None => (Vec::new(), bill.payer()),
        };
        let booked = invoices::pay_by_book(core, own, hash, amount_msat, payer).await?;
        steps.extend(booked.steps);
        // Of what is set aside they are given when it is captured.
        let (payment, points) = match is_held {
            true => (payment, Vec::new()),
            false => rules::with_points(payment, core).await?,
        };
        steps.extend(payments::rules::paid_by_book(&payment)?);
        steps.extend(points);
        // Points are the merchant's to give of what has come in.
        steps.extend(booked.debts);
        Ok(Paid {
            counted: payment.on_card(),
            payment,
            steps,
        })
    }

    async fn decide_to_send(&self, bill: &Bill, usage: Vec<UsageWindow>) -> Result<Paid, Error> {
        let core = &self.core;
        if !core.lightning_elsewhere {
            core.node()?;
        }
        let terms = core.settings.card_payments;
        let own = bill.program.as_ref().map(|program| &program.value.terms);
        let own = own.and_then(|own| own.max_lock_blocks);
        let max_lock_blocks = own.unwrap_or(terms.max_lock_blocks);
        rules::check_lock(&bill.invoice, max_lock_blocks)?;
        let max_route_fee_msat =
            payments::rules::share(terms.route_base_msat, terms.route_bps, bill.amount_msat)?;
        let holds = Holds::new(core, 0, max_route_fee_msat)?;
        let mut payment = self.new_payment(bill, max_route_fee_msat, holds, usage)?;
        let owed = self.owed_route(bill, &payment).await?;
        payment.posting.route_is_owed = owed.is_some();
        let window = rules::in_flight_window(bill.card.value.line());
        payment.posting.attempts = self.payments.first_attempts();
        payment.posting.in_flight = Some(window.clone());
        payment.posting.max_lock_blocks = Some(max_lock_blocks);
        let mut steps = vec![Step::Use {
            window,
            amount: 1,
            limit: terms.max_in_flight.into(),
        }];
        let mut counted = payment.most_msat();
        let mut within_cap = None;
        if let Some(terms) = &bill.terms {
            let conversion = terms.convert(counted)?;
            counted = conversion.set_aside;
            payment.conversion = Some(conversion);
            payment.posting.holds.exchanged = Some(core.new_id(TransferId::from_parts)?);
            within_cap = Some(exchange::within_cap(core, terms.unit, Moves::Up).await?);
        }
        let check_at_ms = self.payments.first_check_at();
        steps.extend(payments::rules::intend(&payment, check_at_ms)?);
        steps.extend(within_cap.into_iter().flatten());
        steps.extend(owed);
        Ok(Paid {
            counted,
            payment,
            steps,
        })
    }

    /// Where the merchant bears the route, has too little here for it, and may owe it: what holds in
    /// the commit of what it then owes.
    async fn owed_route(&self, bill: &Bill, payment: &CardPayment) -> Result<Option<Step>, Error> {
        let terms = bill.program.as_ref().map(|program| &program.value.terms);
        let most = terms.and_then(|terms| terms.route_owed_up_to_msat);
        let (FeeBearer::Merchant, Some(merchant), Some(most_msat)) =
            (payment.fee_bearer, payment.merchant, most)
        else {
            return Ok(None);
        };
        let payable = Account::merchant_payable(merchant);
        let has = self.core.balance(&payable).await?;
        let has_msat = has.available(payable.kind().side());
        let needed_msat = payment.max_route_fee_msat;
        if has_msat >= i128::from(needed_msat) {
            return Ok(None);
        }
        let account = Account::merchant_receivable(merchant);
        let owes = self.core.balance(&account).await?;
        let owes_msat = owes.highest(account.kind().side());
        if owes_msat.saturating_add(needed_msat.into()) > i128::from(most_msat) {
            return Err(CardPaymentError::RouteNotCovered {
                available_msat: i64::try_from(has_msat).unwrap_or(i64::MAX),
                needed_msat,
            }
            .into());
        }
        Ok(Some(Step::Within {
            account,
            lowest: None,
            highest: Some(most_msat),
        }))
    }

    fn new_payment(
        &self,
        bill: &Bill,
        max_route_fee_msat: i64,
        holds: Holds,
        usage: Vec<UsageWindow>,
    ) -> Result<CardPayment, Error> {
        Ok(CardPayment {
            id: self.core.new_id(CardPaymentId::from_parts)?,
            card: bill.card.value.id,
            merchant: bill.merchant,
            asked_by: bill.asked_by,
            amount_msat: bill.amount_msat,
            max_route_fee_msat,
            route_fee_msat: None,
            fee_bearer: self.fee_bearer(bill.program.as_ref(), bill.merchant.is_some()),
            payment_hash: bill.invoice.payment_hash,
            bolt11: bill.bolt11.clone(),
            state: CardPaymentState::Sending,
            reason: None,
            created_at_ms: self.core.clock.now_ms(),
            conversion: None,
            by_book: None,
            program: None,
            points: 0,
            points_not_given: 0,
            points_taken_back: 0,
            held_for: None,
            posting: CardPaymentPosting {
                payer: bill.payer(),
                holds,
                attempts: Attempts::default(),
                usage,
                in_flight: None,
                max_lock_blocks: None,
                route_is_owed: false,
                reward: None,
            },
        })
    }

    fn fee_bearer(&self, program: Option<&Loaded<CardProgram>>, is_at_a_till: bool) -> FeeBearer {
        let card_bears_route = self.core.settings.card_payments.card_bears_route;
        let program = program.map(|program| &program.value);
        rules::fee_bearer(program, is_at_a_till, card_bears_route)
    }

    /// What can be withdrawn from a card now, as by [`withdraw`](Self::withdraw): all of it, less what
    /// the route may cost. Its holder, or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `card.frozen`, `card.not_active`, `access.*`.
    pub async fn quote_withdrawal(
        &self,
        credential: &Credential,
        card: CardId,
    ) -> Result<Answer<WithdrawalQuote>, Error> {
        let caller = self.core.authenticate(credential).await?;
        caller.require_issuer_or_holder(card)?;
        let as_of_ms = self.core.clock.now_ms();
        let card = load(&self.core, card).await?.value;
        rules::require_withdrawable(&card, self.core.commit_time_ms())?;
        let value = self.largest_withdrawal(&card).await?;
        Ok(Answer { as_of_ms, value })
    }

    async fn largest_withdrawal(&self, card: &Card) -> Result<WithdrawalQuote, Error> {
        let account = card.balance_account();
        let balance = self.core.balance(&account).await?;
        let available = balance.available(account.kind().side());
        let available = i64::try_from(available).unwrap_or(i64::MAX);
        let program = programs::of(&self.core, card).await?;
        let terms = currency_payment::terms(&self.core, card, program.as_ref()).await?;
        let (amount_msat, max_route_fee_msat) =
            self.largest_payment(program.as_ref(), false, terms.as_ref(), available)?;
        Ok(WithdrawalQuote {
            card: card.id,
            amount_msat,
            max_route_fee_msat,
        })
    }

    /// The largest amount that can be sent with this much of the card's unit, and what its route
    /// may cost.
    pub(super) fn largest_payment(
        &self,
        program: Option<&Loaded<CardProgram>>,
        is_at_a_till: bool,
        exchanged: Option<&PaymentTerms>,
        available: i64,
    ) -> Result<(i64, i64), Error> {
        let available_msat = match exchanged {
            Some(exchanged) => exchanged.affords(available)?,
            None => available,
        };
        let terms = self.core.settings.card_payments;
        let (base_msat, bps) = match self.fee_bearer(program, is_at_a_till) {
            FeeBearer::Card => (terms.route_base_msat, terms.route_bps),
            FeeBearer::Merchant | FeeBearer::Operator => (0, 0),
        };
        Ok(payments::rules::largest(base_msat, bps, available_msat)?)
    }

    /// Sends what is on a card to its holder's own wallet. Neither a tap nor its limits are
    /// needed for it, and a tap does not suffice: the holder alone; of a family card the main card's.
    /// Also from a card that is lost or has expired, whose money waits for its holder; not from a frozen
    /// one, nor by a family card that is out of use, where the money is the main card's.
    ///
    /// # Errors
    /// As for [`pay`](Self::pay), without those of taps, PINs and limits.
    pub async fn withdraw(
        &self,
        credential: &Credential,
        command: WithdrawFromCard,
    ) -> Result<Answer<CardPayment>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = cards.core.authenticate(&credential).await?;
                let executed: Executed<CardPayment> = cards
                    .core
                    .execute(&caller, "cards.withdraw", &command.key, &command, || {
                        cards.decide_withdraw(&caller, &command)
                    })
                    .await
                    .map_err(rules::refused)?;
                cards.dispatched(executed).await
            })
            .await
    }

    async fn decide_withdraw(
        &self,
        caller: &Caller,
        command: &WithdrawFromCard,
    ) -> Result<Decision<CardPayment>, Error> {
        let core = &self.core;
        let card = load(core, command.card).await?;
        owns(caller, &card.value)?;
        rules::require_withdrawable(&card.value, core.commit_time_ms())?;
        let invoice = rules::payable(&command.bolt11, &core.network, core.clock.now_ms())?;
        let amount_msat = match (invoice.amount_msat, command.amount_msat) {
            (Some(asked), None) => asked,
            (Some(asked), Some(given)) if asked == given => asked,
            (Some(_), Some(_)) => return Err(CardPaymentError::OtherAmount.into()),
            (None, Some(given)) => given,
            (None, None) => self.largest_withdrawal(&card.value).await?.amount_msat,
        };
        Price::Bitcoin { amount_msat }.validate()?;
        let program = programs::of(core, &card.value).await?;
        let asked = (&invoice, amount_msat);
        let bill = Bill {
            terms: currency_payment::terms_of(core, &card.value, program.as_ref(), asked).await?,
            program,
            card,
            invoice,
            bolt11: command.bolt11.clone(),
            amount_msat,
            merchant: None,
            asked_by: Some(caller.id),
        };
        let paid = self.decide_bill(&bill, Vec::new()).await?;
        let mut steps = vec![guard(&bill.card)];
        steps.extend(paid.steps);
        steps.extend(low_balance::looks(core, &bill.card.value, paid.payment.id));
        Ok(Decision {
            steps,
            answer: paid.payment,
        })
    }
}
