//! Conversions between bitcoin and currencies, and how far the operator lets its position go.
//!
//! A conversion is two transfers in one commit, through the operator's `exchange` accounts: one in
//! each asset, so that assets never mix and every asset still sums to zero. What those accounts
//! come to is the operator's open position. In a currency it may not go beyond the cap that the
//! operator has set for it, which holds in the commit; without one, nothing is opened.

mod model;
mod rules;

use std::sync::Arc;

use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, CommandError, Core, Decision, Executed, Loaded, emit, put};
use crate::ledger::{Account, AccountKind, Refusal, Step};
use crate::money::{Asset, Currency, Quote, QuoteSide, Rate};
use crate::rates::{self, RateError, RatePolicy};

pub use model::{
    ConversionRules, DriftBearer, OpenPosition, PositionCap, PositionRate, RefundRate,
    SetPositionCap,
};
pub(crate) use rules::{share_down, share_up, spread, take_spread, with_spread};

const POSITION_CAPS: &str = "position_cap";
/// The index under which all of them stand.
const ALL: &str = "all";

/// The handle for the operator's open positions.
#[derive(Clone)]
pub struct Exchange {
    core: Arc<Core>,
}

impl Exchange {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Sets how far the operator's position in a currency may go, either way. One that is beyond
    /// it already can only come back. Issuer only.
    ///
    /// # Errors
    /// `command.out_of_bounds`, `command.*`, `access.*`.
    pub async fn set_position_cap(
        &self,
        credential: &Credential,
        command: SetPositionCap,
    ) -> Result<Answer<PositionCap>, Error> {
        let (core, credential) = (self.core.clone(), credential.clone());
        self.core
            .detached(async move {
                let caller = core.authenticate(&credential).await?;
                caller.require_issuer()?;
                if command.max_open < 0 {
                    let (field, bounds) = ("max_open", "0 or more");
                    return Err(CommandError::OutOfBounds { field, bounds }.into());
                }
                let decide = || async {
                    let (version, _) = load_cap(&core, command.currency).await?;
                    let answer = PositionCap {
                        currency: command.currency,
                        max_open: command.max_open,
                        changed_at_ms: core.clock.now_ms(),
                    };
                    let id = command.currency.code().to_owned();
                    let keys = vec![(ALL, ALL.to_owned())];
                    let steps = vec![
                        put(POSITION_CAPS, id.clone(), version, &answer, keys)?,
                        emit("exchange.position_cap_set", id, &answer)?,
                    ];
                    Ok(Decision { steps, answer })
                };
                let operation = "exchange.set_position_cap";
                let executed: Executed<PositionCap> = core
                    .execute(&caller, operation, &command.key, &command, decide)
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    /// The operator's open position in bitcoin and in every currency that has one or has a cap.
    /// Each currency is valued at the rate given for it; without one at a fresh rate, and not at
    /// all where there is none: nothing is guessed. Issuer only.
    ///
    /// # Errors
    /// `money.overflow`, `access.*`, `store.*`.
    pub async fn positions(
        &self,
        credential: &Credential,
        at: &[PositionRate],
    ) -> Result<Answer<Vec<OpenPosition>>, Error> {
        let core = &self.core;
        core.authenticate(credential).await?.require_issuer()?;
        let as_of_ms = core.clock.now_ms();
        let mut value = Vec::new();
        for (account, _) in core.store.balances(None, usize::MAX).await? {
            if account.kind() == AccountKind::Exchange {
                value.push(self.position(account.asset(), at).await?);
            }
        }
        let mut after = None;
        loop {
            let page: Vec<PositionCap> = core.list(POSITION_CAPS, ALL, ALL, after, PAGE).await?;
            for cap in &page {
                let asset = Asset::Fiat(cap.currency);
                if value.iter().all(|position| position.asset != asset) {
                    value.push(self.position(asset, at).await?);
                }
            }
            after = page.last().map(|cap| cap.currency.code().to_owned());
            if page.len() < PAGE {
                value.sort_by_key(|position| position.asset);
                return Ok(Answer { as_of_ms, value });
            }
        }
    }

    async fn position(&self, asset: Asset, at: &[PositionRate]) -> Result<OpenPosition, Error> {
        let core = &self.core;
        let account = Account::exchange(asset);
        let balance = core.balance(&account).await?;
        let side = account.kind().side();
        let mut position = OpenPosition {
            asset,
            amount: rules::narrow(balance.posted(side))?,
            lowest: rules::narrow(balance.available(side))?,
            highest: rules::narrow(balance.highest(side))?,
            max_open: None,
            rate: None,
            value_msat: None,
        };
        match asset {
            Asset::Btc => position.value_msat = Some(position.amount),
            Asset::Fiat(currency) => {
                position.max_open = Some(load_cap(core, currency).await?.1);
                position.rate = match at.iter().find(|given| given.currency == currency) {
                    Some(given) => Some(given.rate),
                    None => fresh_rate(core, currency).await,
                };
                if let Some(rate) = position.rate {
                    let value = rules::value_msat(rate, currency, position.amount)?;
                    position.value_msat = Some(value);
                }
            }
            Asset::Points(_) => {}
        }
        Ok(position)
    }
}

const PAGE: usize = 100;

/// The rate of now, if there is one that is fresh.
pub(crate) async fn fresh_rate(core: &Core, currency: Currency) -> Option<Rate> {
    let quote = quote(core, currency, None).await;
    quote.ok().map(|quote| quote.rate)
}

/// The market's rate for a conversion, without a spread. With a side, one of that side or none.
pub(crate) async fn quote(
    core: &Core,
    currency: Currency,
    side: Option<QuoteSide>,
) -> Result<Quote, Error> {
    let observation = match side {
        Some(side) => core.rates.on_side(currency, side).await?,
        None => core.rates.rate(currency).await?,
    };
    let policy = RatePolicy {
        spread: None,
        ..core.settings.rates
    };
    Ok(rates::quote(
        currency,
        observation,
        policy,
        core.clock.now_ms(),
    )?)
}

async fn load_cap(core: &Core, currency: Currency) -> Result<(i64, i64), Error> {
    let found: Option<Loaded<PositionCap>> = core.load(POSITION_CAPS, currency.code()).await?;
    Ok(found.map_or((0, 0), |cap| (cap.version, cap.value.max_open)))
}

/// Which way a conversion moves the operator's position in the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moves {
    /// The operator takes the currency: what it owes of it grows less.
    Up,
    /// The operator gives the currency.
    Down,
}

/// Holds in the commit, after the steps that move the position: it is within its cap, and that is
/// the one that was read. A position that comes back from beyond its cap is let through.
pub(crate) async fn within_cap(
    core: &Core,
    currency: Currency,
    moves: Moves,
) -> Result<[Step; 2], Error> {
    let (version, max_open) = load_cap(core, currency).await?;
    let (lowest, highest) = match moves {
        Moves::Up => (None, Some(max_open)),
        Moves::Down => (Some(max_open.saturating_neg()), None),
    };
    Ok([
        Step::Require {
            collection: POSITION_CAPS,
            id: currency.code().to_owned(),
            version,
        },
        Step::Within {
            account: Account::exchange(Asset::Fiat(currency)),
            lowest,
            highest,
        },
    ])
}

/// Refuses what would take the operator's position beyond its cap, were it to give so much of the
/// currency now, what is on hold counted.
pub(crate) async fn require_left(
    core: &Core,
    currency: Currency,
    amount: i64,
) -> Result<(), Error> {
    let (_, max_open) = load_cap(core, currency).await?;
    let account = Account::exchange(Asset::Fiat(currency));
    let balance = core.balance(&account).await?;
    let lowest = balance.available(account.kind().side());
    if lowest.saturating_add(max_open.into()) >= i128::from(amount) {
        return Ok(());
    }
    let currency = currency.code().to_owned();
    Err(RateError::PositionCapReached { currency, max_open }.into())
}

/// What a refusal of the ledger means for a conversion.
pub(crate) fn refused(error: Error) -> Error {
    match error {
        Error::Ledger(Refusal::OutOfBounds {
            account,
            lowest,
            highest,
            ..
        }) if account.kind() == AccountKind::Exchange => RateError::PositionCapReached {
            currency: account.asset().to_string(),
            max_open: highest
                .or(lowest.map(i64::saturating_neg))
                .unwrap_or_default(),
        }
        .into(),
        other => other,
    }
}
