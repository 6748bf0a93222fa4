//! Receipts with the card's balance.
//!
//! Each is made of rows of the books, which never change, and of those fields of a charge or a
//! payment that are fixed once it is done. Nothing of the card as it is now, and nothing of its
//! program, goes in.

use super::charge_model::{ChargePosting, ChargeRecord, ChargeState, RefundPosting};
use super::life::require_reader;
use super::payment_model::{CardPayment, CardPaymentState};
use super::receipt_model::{CardReceipt, CardReceiptKind, CardReceiptLine, CardReceiptOf};
use super::{CardError, Cards, load};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Caller};
use crate::ids::{CardId, CardPaymentId, ChargeId, MerchantId, TransferId};
use crate::ledger::{Account, AccountKind, TransferKind, TransferRow};
use crate::money::Quote;
use crate::store::MAX_PAGE;

/// So many rows of one commit are looked at for where money went on to.
const COMMIT_ROWS: usize = 100;

impl Cards {
    /// The receipt of what happened on a card, the same however often it is asked for. A till of
    /// its merchant; the card's holder or that of a card in its place, as for
    /// [`history`](Self::history); or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `card.charge_not_found`, `card.charge_not_captured` while nothing was
    /// paid, `card.payment_not_found`, `card.receipt_not_found` of a refund or a transfer that
    /// there is none of and of a payment that did not arrive, `access.*`.
    pub async fn receipt(
        &self,
        credential: &Credential,
        of: CardReceiptOf,
    ) -> Result<Answer<CardReceipt>, Error> {
        let caller = self.core.authenticate(credential).await?;
        let value = match of {
            CardReceiptOf::Charge { charge } => self.of_charge(&caller, charge).await?,
            CardReceiptOf::Refund { charge, number } => {
                self.of_refund(&caller, charge, number).await?
            }
            CardReceiptOf::Payment { payment } => self.of_payment(&caller, payment).await?,
            CardReceiptOf::Transfer { card, transfer } => {
                self.of_transfer(&caller, card, transfer).await?
            }
        };
        let as_of_ms = self.core.clock.now_ms();
        Ok(Answer { as_of_ms, value })
    }

    /// Whoever may have a receipt: whoever sold it, or may read what moved on the card.
    async fn require_receipt(
        &self,
        caller: &Caller,
        merchant: Option<MerchantId>,
        card: CardId,
    ) -> Result<(), Error> {
        match merchant {
            Some(merchant) if caller.require_seller(merchant).is_ok() => Ok(()),
            _ => require_reader(&self.core, caller, card).await,
        }
    }

    async fn row(&self, transfer: TransferId) -> Result<TransferRow, Error> {
        let found = self.core.store.transfer(transfer).await?;
        found.ok_or(CardError::ReceiptNotFound.into())
    }

    async fn captured(
        &self,
        caller: &Caller,
        charge: ChargeId,
    ) -> Result<(ChargeRecord, ChargePosting), Error> {
        let record = self.load_charge(charge).await?.value;
        let merchant = Some(record.charge.merchant);
        self.require_receipt(caller, merchant, record.charge.card)
            .await?;
        let state = record.charge.state;
        if state != ChargeState::Captured {
            return Err(CardError::ChargeNotCaptured { charge, state }.into());
        }
        let posting = record.posting.clone().ok_or(CardError::ReceiptNotFound)?;
        Ok((record, posting))
    }

    async fn of_charge(&self, caller: &Caller, id: ChargeId) -> Result<CardReceipt, Error> {
        let (ChargeRecord { charge, .. }, posting) = self.captured(caller, id).await?;
        let row = self.row(posting.transfer.ok_or(CardError::ReceiptNotFound)?);
        let row = row.await?;
        let mut lines = vec![CardReceiptLine::Price {
            price: charge.price,
        }];
        let conversion = charge.conversion.as_ref();
        let of_card = conversion.map(|it| it.settled_quote.as_ref().unwrap_or(&it.quote));
        // Of a price in the card's own currency it is one rate.
        let mut quotes: Vec<&Quote> = [charge.quote.as_ref(), of_card]
            .into_iter()
            .flatten()
            .collect();
        quotes.dedup_by_key(|quote| (quote.rate, quote.currency, quote.observed_at_ms));
        for quote in quotes {
            let quote = quote.clone();
            lines.push(CardReceiptLine::Rate { quote });
        }
        lines.push(paid(&row));
        if charge.program.is_some() {
            let points = charge.points;
            lines.push(CardReceiptLine::Points { points });
        }
        lines.push(left(&row, &row.debit));
        Ok(CardReceipt {
            number: id.to_string(),
            kind: CardReceiptKind::Charge,
            card: charge.card,
            merchant: Some(charge.merchant),
            at_ms: row.at_ms,
            reference: charge.reference,
            lines,
        })
    }

    async fn of_refund(
        &self,
        caller: &Caller,
        id: ChargeId,
        number: u32,
    ) -> Result<CardReceipt, Error> {
        let (ChargeRecord { charge, .. }, posting) = self.captured(caller, id).await?;
        let place = usize::try_from(number)
            .ok()
            .and_then(|it| it.checked_sub(1));
        let refund = place.and_then(|place| posting.refunds.get(place));
        let RefundPosting {
            transfer,
            withheld_msat,
            points,
            quote,
            refunded_at_ms,
        } = refund.ok_or(CardError::ReceiptNotFound)?.clone();
        let (mut lines, mut at_ms) = (Vec::new(), refunded_at_ms);
        lines.extend(quote.map(|quote| CardReceiptLine::Rate { quote }));
        let mut balance = None;
        if let Some(transfer) = transfer {
            let row = self.row(transfer).await?;
            at_ms = row.at_ms;
            lines.push(received(&row));
            balance = Some(self.landed(&row).await?);
        }
        if withheld_msat > 0 {
            let amount_msat = withheld_msat;
            lines.push(CardReceiptLine::Withheld { amount_msat });
        }
        if points > 0 {
            lines.push(CardReceiptLine::Points { points: -points });
        }
        lines.extend(balance);
        Ok(CardReceipt {
            number: format!("{id}/{number}"),
            kind: CardReceiptKind::Refund,
            card: charge.card,
            merchant: Some(charge.merchant),
            at_ms,
            reference: charge.reference,
            lines,
        })
    }

    async fn of_payment(&self, caller: &Caller, id: CardPaymentId) -> Result<CardReceipt, Error> {
        let payment = self.payments.load::<CardPayment>(&id.to_string()).await?;
        let payment = payment.value;
        self.require_receipt(caller, payment.merchant, payment.card)
            .await?;
        if payment.state != CardPaymentState::Succeeded {
            return Err(CardError::ReceiptNotFound.into());
        }
        let rows = self.rows_of(&payment).await?;
        let last = rows.first().ok_or(CardError::ReceiptNotFound)?;
        let is_fee = |row: &&TransferRow| row.kind == TransferKind::RoutingFee;
        let mut lines: Vec<_> = rows.iter().filter(|row| !is_fee(row)).map(paid).collect();
        let conversion = payment.conversion.as_ref();
        lines.extend(conversion.map(|it| {
            let quote = it.settled_quote.as_ref().unwrap_or(&it.quote).clone();
            CardReceiptLine::Rate { quote }
        }));
        lines.extend(rows.iter().find(is_fee).map(|row| {
            let amount_msat = row.amount;
            CardReceiptLine::RouteFee { amount_msat }
        }));
        if payment.program.is_some() {
            let points = payment.points;
            lines.push(CardReceiptLine::Points { points });
        }
        lines.push(left(last, &payment.posting.payer));
        Ok(CardReceipt {
            number: id.to_string(),
            kind: CardReceiptKind::Payment,
            card: payment.card,
            merchant: payment.merchant,
            at_ms: last.at_ms,
            reference: payment.payment_hash.to_string(),
            lines,
        })
    }

    /// What a payment took from the card, newest first. It did so after it was asked for.
    async fn rows_of(&self, payment: &CardPayment) -> Result<Vec<TransferRow>, Error> {
        let (payer, id) = (payment.posting.payer, payment.id.to_string());
        let invoice = payment
            .by_book
            .as_ref()
            .map(|paid| paid.invoice.to_string());
        let is_of = |row: &TransferRow| {
            let is_named = row.reference == id || Some(&row.reference) == invoice.as_ref();
            let is_later = row.at_ms >= payment.created_at_ms;
            is_later && row.debit == payer && is_named
        };
        let mut before = None;
        loop {
            let page = self.core.store.transfers(&payer, before, MAX_PAGE).await?;
            let mut found: Vec<_> = page.iter().filter(|row| is_of(row)).cloned().collect();
            // An invoice can have been paid in parts: the first of them that came after it.
            let first = found.last().map(|row| row.commit);
            found.retain(|row| Some(row.commit) == first);
            let last = page.last().filter(|_| page.len() == MAX_PAGE);
            before = match last {
                // What was taken stands in one commit.
                Some(row) if found.is_empty() => Some(row.position),
                _ => return Ok(found),
            };
        }
    }

    async fn of_transfer(
        &self,
        caller: &Caller,
        card: CardId,
        transfer: TransferId,
    ) -> Result<CardReceipt, Error> {
        require_reader(&self.core, caller, card).await?;
        let account = load(&self.core, card).await?.value.balance_account();
        let row = self.row(transfer).await?;
        let (kind, line, balance) = if row.credit == account {
            let balance = self.landed(&row).await?;
            (CardReceiptKind::TopUp, received(&row), balance)
        } else if row.debit == account {
            let balance = left(&row, &account);
            (CardReceiptKind::Withdrawal, paid(&row), balance)
        } else {
            return Err(CardError::ReceiptNotFound.into());
        };
        Ok(CardReceipt {
            number: row.id.to_string(),
            kind,
            card,
            merchant: None,
            at_ms: row.at_ms,
            reference: row.reference,
            lines: vec![line, balance],
        })
    }

    /// What was on the card where money came to: on the one in its place, where it was replaced by
    /// then and the money went on in the same commit.
    async fn landed(&self, row: &TransferRow) -> Result<CardReceiptLine, Error> {
        let (mut row, mut account) = (row.clone(), row.credit);
        let (rows, commit) = (
            self.core.store.journal(row.position, COMMIT_ROWS).await?,
            row.commit,
        );
        for next in rows.into_iter().filter(|next| next.commit == commit) {
            let goes_on = next.debit == account && next.kind == TransferKind::Replacement;
            if goes_on && next.credit.kind() == AccountKind::CardBalance {
                account = next.credit;
                row = next;
            }
        }
        Ok(left(&row, &account))
    }
}

fn paid(row: &TransferRow) -> CardReceiptLine {
    CardReceiptLine::Paid {
        asset: row.debit.asset(),
        amount: row.amount,
    }
}

fn received(row: &TransferRow) -> CardReceiptLine {
    CardReceiptLine::Received {
        asset: row.credit.asset(),
        amount: row.amount,
    }
}

fn left(row: &TransferRow, account: &Account) -> CardReceiptLine {
    CardReceiptLine::Balance {
        asset: account.asset(),
        amount: row.balance_after(account),
    }
}
