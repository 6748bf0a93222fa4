//! The address at which a card is topped up: stable, revocable, and telling nothing of a tap.
//!
//! It is random and stands in a document of its own. A new one takes the place of the old; money
//! for the old one is refused from then on, an invoice that was made for it included.

use serde::{Deserialize, Serialize};

use super::error::CardError;
use super::life::require_reader;
use super::lnurl;
use super::payment_error::CardPaymentError;
use super::{Cards, current, guard, load, load_active, programs};
use crate::Error;
use crate::access::Credential;
use crate::core::{Answer, Caller, Core, Decision, Executed, IdempotencyKey, Loaded, emit, put};
use crate::exchange::{self, Moves};
use crate::ids::CardId;
use crate::ledger::{Account, Step};
use crate::money::Asset;

const ADDRESSES: &str = "top_up_address";
/// Which one a card has now: a document a card.
const CURRENT: &str = "top_up_current";

/// Takes the address away at which a card is topped up, and makes a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewTopUpAddress {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// The card.
    pub card: CardId,
}

/// Where a card is topped up by anybody who knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopUpAddress {
    /// The card.
    pub card: CardId,
    /// The LNURL-pay (LUD-06) endpoint.
    pub url: String,
    /// The same, to be printed or shown as a code: bech32 in lower case (LUD-01).
    pub lnurl: String,
}

impl TopUpAddress {
    fn new(core: &Core, card: CardId, address: &str) -> Self {
        let url = format!("{}/top-up/{address}", lnurl::base(&core.settings.tap_url));
        let lnurl = lnurl::encode(&url);
        Self { card, url, lnurl }
    }
}

/// An address as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AddressRecord {
    address: String,
    card: CardId,
    created_at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_at_ms: Option<i64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Current {
    address: String,
}

fn write(record: &AddressRecord, read_version: i64) -> Result<Step, Error> {
    let id = record.address.clone();
    put(ADDRESSES, id, read_version, record, Vec::new())
}

/// A new address for a card, and the steps that make it its own.
fn make(core: &Core, card: CardId, pointer_version: i64) -> Result<(String, [Step; 2]), Error> {
    let mut random = [0; 16];
    core.entropy.fill(&mut random)?;
    let record = AddressRecord {
        address: hex::encode(random),
        card,
        created_at_ms: core.clock.now_ms(),
        revoked_at_ms: None,
    };
    let address = record.address.clone();
    let current = Current {
        address: address.clone(),
    };
    let pointer = put(
        CURRENT,
        card.to_string(),
        pointer_version,
        &current,
        Vec::new(),
    )?;
    Ok((address, [write(&record, 0)?, pointer]))
}

async fn load_current(core: &Core, card: CardId) -> Result<Option<Loaded<Current>>, Error> {
    core.load(CURRENT, &card.to_string()).await
}

async fn load_address(core: &Core, address: &str) -> Result<Loaded<AddressRecord>, Error> {
    let found: Option<Loaded<AddressRecord>> = core.load(ADDRESSES, address).await?;
    Ok(found.ok_or(CardPaymentError::TopUpAddressUnknown)?)
}

/// The address of a card; made when it is first asked for.
pub(super) async fn of_card(core: &Core, card: CardId) -> Result<TopUpAddress, Error> {
    core.settle(|| async {
        if load_current(core, card).await?.is_some() {
            return Ok(None);
        }
        let (_, steps) = make(core, card, 0)?;
        Ok(Some(steps.to_vec()))
    })
    .await?;
    let current = load_current(core, card).await?.ok_or(CardError::NotFound)?;
    Ok(TopUpAddress::new(core, card, &current.value.address))
}

/// The address of a card, if it was asked for before.
pub(super) async fn known(core: &Core, card: CardId) -> Result<Option<TopUpAddress>, Error> {
    let current = load_current(core, card).await?;
    Ok(current.map(|current| TopUpAddress::new(core, card, &current.value.address)))
}

/// Whose address it is, unless it was taken away.
pub(super) async fn card_of(core: &Core, address: &str) -> Result<CardId, Error> {
    let found = load_address(core, address).await?.value;
    match found.revoked_at_ms {
        None => Ok(found.card),
        Some(_) => Err(CardPaymentError::TopUpAddressRevoked.into()),
    }
}

/// What holds in the commit that takes money for a card: the card can be used, and the address
/// that it came by was not taken away. Beside it the most that the card may have. What is paid by
/// book comes from `payer`: out of the card's own currency nothing is exchanged.
pub(crate) async fn admit_top_up(
    core: &Core,
    card: CardId,
    address: Option<&str>,
    payer: Option<Account>,
) -> Result<(Option<i64>, Vec<Step>), Error> {
    // What is paid to a card that was replaced goes to the one in its place.
    let card = current(core, card).await?.value.id;
    let card = load_active(core, card).await?;
    let (ceiling, held) = programs::ceiling(core, &card.value).await?;
    let mut steps = vec![guard(&card)];
    steps.extend(held);
    let is_exchanged = payer.is_none_or(|payer| payer.asset() != card.value.unit);
    if let (Asset::Fiat(unit), true) = (card.value.unit, is_exchanged) {
        steps.extend(exchange::within_cap(core, unit, Moves::Down).await?);
    }
    if let Some(address) = address {
        card_of(core, address).await?;
        let version = load_address(core, address).await?.version;
        steps.push(Step::Require {
            collection: ADDRESSES,
            id: address.to_owned(),
            version,
        });
    }
    Ok((ceiling, steps))
}

impl Cards {
    /// Where a card is topped up by anybody who knows it: the same until it is renewed. Its holder or
    /// that of a card that came in its place, or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `access.*`.
    pub async fn top_up_address(
        &self,
        credential: &Credential,
        card: CardId,
    ) -> Result<Answer<TopUpAddress>, Error> {
        let caller = self.core.authenticate(credential).await?;
        require_reader(&self.core, &caller, card).await?;
        load(&self.core, card).await?;
        let as_of_ms = self.core.clock.now_ms();
        let value = of_card(&self.core, card).await?;
        Ok(Answer { as_of_ms, value })
    }

    /// Takes the address away at which a card is topped up, and makes a new one. What is sent to
    /// the old one from now on goes back to its sender. Its holder or that of a card that came in its
    /// place, which is where what is sent to it ends; or the issuer.
    ///
    /// # Errors
    /// `card.not_found`, `command.*`, `access.*`.
    pub async fn renew_top_up_address(
        &self,
        credential: &Credential,
        command: RenewTopUpAddress,
    ) -> Result<Answer<TopUpAddress>, Error> {
        let (cards, credential) = (self.clone(), credential.clone());
        self.core
            .detached(async move {
                let core = &cards.core;
                let caller = core.authenticate(&credential).await?;
                let executed: Executed<TopUpAddress> = core
                    .execute(
                        &caller,
                        "cards.renew_top_up_address",
                        &command.key,
                        &command,
                        || cards.decide_renew_address(&caller, &command),
                    )
                    .await?;
                Ok(executed.answer)
            })
            .await
    }

    async fn decide_renew_address(
        &self,
        caller: &Caller,
        command: &RenewTopUpAddress,
    ) -> Result<Decision<TopUpAddress>, Error> {
        let core = &self.core;
        let card = load(core, command.card).await?;
        // What was printed of it still leads to the card in its place.
        require_reader(core, caller, card.value.id).await?;
        let in_its_place = current(core, card.value.id).await?;
        let mut steps = vec![guard(&card)];
        if in_its_place.value.id != card.value.id {
            steps.push(guard(&in_its_place));
        }
        let card = card.value.id;
        let mut pointer_version = 0;
        if let Some(Loaded { version, value }) = load_current(core, card).await? {
            pointer_version = version;
            let old = load_address(core, &value.address).await?;
            let revoked = AddressRecord {
                revoked_at_ms: Some(core.clock.now_ms()),
                ..old.value
            };
            steps.push(write(&revoked, old.version)?);
        }
        let (address, new) = make(core, card, pointer_version)?;
        steps.extend(new);
        let answer = TopUpAddress::new(core, card, &address);
        steps.push(emit(
            "card.top_up_address_renewed",
            card.to_string(),
            &answer,
        )?);
        Ok(Decision { steps, answer })
    }
}
