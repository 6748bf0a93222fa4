//! Taps that tills took offline, as the model knows them.

use super::shop::CardStanding;
use super::{Asked, Model, TakenOffline, Truth, Wrong, not_lawful, number, parse, text, wrong};
use crate::ids::MerchantId;
use crate::ledger::{Account, EventRecord};
use crate::testkit::simulator::tally::Transition;

/// What every till of a simulation may take.
pub(crate) const PER_TAP_MSAT: i64 = 2_200_000;
pub(crate) const PER_DAY_MSAT: i64 = 14_000_000;
pub(crate) const WINDOW_MS: i64 = 3 * 3_600_000;

impl Model {
    pub(super) fn read_offline(
        &mut self,
        event: &EventRecord,
        truth: &Truth<'_>,
    ) -> Result<(), Wrong> {
        let body = &event.body;
        match event.kind.as_str() {
            "offline.paid" | "offline.unpaid" => {}
            _ => return Ok(()),
        }
        let name = text(body, "reference")?;
        let Some(Asked::Offline(taken)) = self.asked.get(name).cloned() else {
            return wrong("nothing happens that nobody asked for", name);
        };
        if !self.done.insert(format!("offline/{}", text(body, "id")?)) {
            return wrong("nothing is done twice", "a tap taken offline");
        }
        let (paid, lost) = (number(body, "paid_msat")?, number(body, "loss_msat")?);
        let merchant: MerchantId = parse(text(body, "merchant")?)?;
        if merchant != taken.merchant || paid + lost != taken.amount_msat {
            return not_lawful("another sale");
        }
        // What the card paid was told just before.
        let charged = self.paid_offline.remove(name).unwrap_or(0);
        if charged != paid {
            return not_lawful(format!("{charged} msat charged, {paid} msat paid"));
        }
        let reason = body.get("reason").and_then(serde_json::Value::as_str);
        let Some(reason) = reason else {
            self.fire(Transition::OfflinePaid);
            return if lost == 0 {
                Ok(())
            } else {
                not_lawful("a loss without a reason")
            };
        };
        let (by_till, is_so, transition) = self.why_unpaid(&taken, reason, truth)?;
        if !is_so {
            return wrong("nothing is refused without a reason", reason);
        }
        if reason != "card.tap_replayed"
            && paid == 0
            && let Some(card) = self.cards.get_mut(&taken.card)
        {
            card.claim(taken.counter)?;
        }
        let borne_by = text(body, "borne_by")?;
        let by_merchant = by_till || taken.merchant_bears;
        if (borne_by == "merchant") != by_merchant {
            return not_lawful(format!("borne by {borne_by}"));
        }
        let (debit, credit) = if by_merchant {
            let lost = Account::merchant_offline_loss(merchant);
            (lost, Account::unpaid_sales(merchant))
        } else {
            (Account::offline_loss(), Account::merchant_payable(merchant))
        };
        self.books.post(debit, credit, lost);
        self.fire(transition);
        Ok(())
    }

    /// Whether it is the till that did wrong, whether the reason is one, and what it is called.
    fn why_unpaid(
        &self,
        taken: &TakenOffline,
        reason: &str,
        truth: &Truth<'_>,
    ) -> Result<(bool, bool, Transition), Wrong> {
        let Some(card) = self.cards.get(&taken.card) else {
            return not_lawful("a card of nobody");
        };
        let is_stopped = card.standing != CardStanding::Active;
        // By then the till must have heard of it.
        let is_known = card
            .stopped_at_ms
            .is_some_and(|at_ms| taken.at_ms >= at_ms + WINDOW_MS);
        let is_late = truth.latest_ms > taken.at_ms + WINDOW_MS;
        // What a till did wrong is its merchant's; the rest is borne as the terms say.
        Ok(match reason {
            "card.tap_replayed" => {
                let was_used = card.is_used(taken.counter);
                (true, was_used, Transition::OfflineUsedTap)
            }
            "offline.too_late" => (true, is_late, Transition::OfflineTooLate),
            "offline.over_day_limit" => (true, true, Transition::OfflineOverDay),
            "card.insufficient_funds" => (false, true, Transition::OfflineUncovered),
            "card.limit_exceeded" | "card.too_many_taps" => {
                (false, true, Transition::OfflineOverCardLimit)
            }
            "card.pin_required" => {
                let is_needed = self.needs_pin(taken.card, taken.amount_msat);
                (false, is_needed, Transition::OfflineNeedsPin)
            }
            "card.frozen" | "card.not_active" => (is_known, is_stopped, Transition::OfflineStopped),
            other => return not_lawful(other),
        })
    }
}
