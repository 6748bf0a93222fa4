//! A card as it is shown: to whoever taps it, to its holder, to the issuer.

use super::life::reads_nothing;
use super::model::{Card, CardSnapshot, CurrencyBalance, LimitUsage};
use super::top_up_address::{self, TopUpAddress};
use super::{Cards, rules};
use crate::Error;
use crate::core::CommandError;
use crate::exchange;
use crate::ledger::TransferRow;
use crate::money::{Asset, Currency, Quote, Rounding};

/// How much of its history a card shows at once.
const SNAPSHOT_HISTORY: usize = 20;
/// How often a card is looked at again that changes its balance while it is looked at.
const MAX_LOOKS: usize = 8;

/// What a card has, and what it did with it.
#[derive(Default)]
struct Money {
    balance: i64,
    pending: i64,
    usage: Vec<LimitUsage>,
    history: Vec<TransferRow>,
    top_up: Option<TopUpAddress>,
}

impl Cards {
    /// The card as it stands. Its money is left out where it is not to be shown, and where it is
    /// not the card's any more: what happens on the card in its place, or in the family that it
    /// was of, is nobody's business who has the old one.
    pub(super) async fn snapshot_of(
        &self,
        card: Card,
        shows_money: bool,
    ) -> Result<CardSnapshot, Error> {
        let (card, shown) = self.shown_of(card, shows_money).await?;
        let money = match card.unit {
            Asset::Fiat(currency) => {
                let (balance, pending) = (shown.balance, shown.pending);
                Some(self.worth(currency, balance, pending).await)
            }
            _ => None,
        };
        let in_msat = |amount| if money.is_none() { amount } else { 0 };
        Ok(CardSnapshot {
            card: card.id,
            state: card.state,
            kind: card.kind,
            balance_msat: in_msat(shown.balance),
            pending_msat: in_msat(shown.pending),
            money,
            limits: card.limits,
            usage: shown.usage,
            history: shown.history,
            top_up: shown.top_up,
        })
    }

    /// The card with the money that was its own while that was read: where another card came in the
    /// place of its own, or of its family's, the money had moved on before it was looked at.
    async fn shown_of(&self, mut card: Card, shows_money: bool) -> Result<(Card, Money), Error> {
        for _ in 0..MAX_LOOKS {
            if !shows_money || reads_nothing(&card) {
                return Ok((card, Money::default()));
            }
            let money = self.money_of(&card).await?;
            let now = super::load(&self.core, card.id).await?.value;
            let is_same = now.balance_account() == card.balance_account();
            if is_same && !reads_nothing(&now) {
                return Ok((card, money));
            }
            card = now;
        }
        Err(CommandError::Contended.into())
    }

    async fn money_of(&self, card: &Card) -> Result<Money, Error> {
        let core = &self.core;
        let account = card.balance_account();
        let side = account.kind().side();
        let limits = rules::usage_limits(card, core.commit_time_ms())?;
        let windows: Vec<_> = limits.iter().map(|limit| limit.window.clone()).collect();
        let (balance, used) = core.balance_and_usage(&account, &windows).await?;
        let usage = limits.into_iter().zip(used);
        let usage = usage.map(|(limit, used)| LimitUsage {
            kind: limit.kind,
            limit: limit.limit,
            used,
            renews_at_ms: limit.window.end_ms,
        });
        let history = core.store.transfers(&account, None, SNAPSHOT_HISTORY);
        Ok(Money {
            balance: i64::try_from(balance.available(side)).unwrap_or(i64::MAX),
            pending: balance.incoming(side),
            usage: usage.collect(),
            history: history.await?,
            top_up: top_up_address::known(core, card.id).await?,
        })
    }

    /// What is on a card in a currency, with what it is worth where there is a fresh rate.
    async fn worth(&self, currency: Currency, balance: i64, pending: i64) -> CurrencyBalance {
        let quote = exchange::quote(&self.core, currency, None).await.ok();
        let value = |quote: &Quote| {
            let rate = quote.rate;
            rate.fiat_to_msat(currency, balance, Rounding::Down).ok()
        };
        CurrencyBalance {
            currency,
            balance,
            pending,
            value_msat: quote.as_ref().and_then(value),
            quote,
        }
    }
}
