//! What people do with cards, in short.

use flashkit::access::Credential;
use flashkit::cards::{
    Activation, AddFamilyCard, Card, CardLimits, CardState, ChargeCard, FreezeCard, IssueCard,
    ReplaceCard, ReportLost, RetireCard, RetireTo,
};
use flashkit::ids::CardId;
use flashkit::ledger::Account;
use flashkit::store::Store;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Answer, Engine, Error};

use crate::support::key;
use crate::support::scene::{Told, told};
use crate::support::shop::{self, SAT, sat};

/// The number of the chip with this number.
pub fn uid(number: usize) -> String {
    format!("04a39493cc{number:04x}")
}

/// A card that was issued and programmed, and not handed over.
pub async fn blank(engine: &Engine, number: usize) -> (CardId, VirtualCard) {
    let (issuer, uid) = (engine.issuer(), uid(number));
    let command = IssueCard {
        key: key(&format!("issue/{uid}")),
        uid: uid.clone(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let id = engine.cards().issue(&issuer, command).await.unwrap().id;
    let keys = engine.cards().programming_keys(&issuer, &uid).await;
    let chip = VirtualCard::program(&uid, &keys.unwrap()).unwrap();
    (id, chip)
}

pub async fn replace(
    engine: &Engine,
    by: &Credential,
    name: &str,
    card: CardId,
    tap: &str,
) -> Result<Answer<Activation>, Error> {
    let command = ReplaceCard {
        key: key(name),
        card,
        tap: tap.to_owned(),
    };
    engine.cards().replace(by, command).await
}

pub async fn add(
    engine: &Engine,
    by: &Credential,
    name: &str,
    main: CardId,
    tap: &str,
    limits: CardLimits,
) -> Result<Answer<Activation>, Error> {
    let command = AddFamilyCard {
        key: key(name),
        main,
        tap: tap.to_owned(),
        limits,
    };
    engine.cards().add_to_family(by, command).await
}

pub async fn lose(engine: &Engine, by: &Credential, name: &str, card: CardId) -> Told<Card> {
    let key = key(name);
    told(
        engine
            .cards()
            .report_lost(by, ReportLost { key, card })
            .await,
    )
}

pub async fn freeze(engine: &Engine, by: &Credential, name: &str, card: CardId) -> Told<Card> {
    let key = key(name);
    told(engine.cards().freeze(by, FreezeCard { key, card }).await)
}

pub async fn unfreeze(engine: &Engine, by: &Credential, name: &str, card: CardId) -> Told<Card> {
    let key = key(name);
    told(engine.cards().unfreeze(by, FreezeCard { key, card }).await)
}

pub async fn retire(
    engine: &Engine,
    by: &Credential,
    name: &str,
    card: CardId,
    to: RetireTo,
) -> Told<Card> {
    let key = key(name);
    told(
        engine
            .cards()
            .retire(by, RetireCard { key, card, to })
            .await,
    )
}

pub async fn charge(
    engine: &Engine,
    till: &Credential,
    name: &str,
    tap: &str,
    sats: i64,
) -> Result<i64, &'static str> {
    let command = ChargeCard {
        key: key(name),
        tap: tap.to_owned(),
        price: sat(sats),
        reference: name.to_owned(),
        pin: None,
    };
    let charged = told(engine.cards().charge(till, command).await);
    charged.map(|charge| charge.amount_msat / SAT)
}

/// What an account has to give, in sats.
pub async fn has(store: &dyn Store, account: Account) -> i64 {
    let balance = store.balance(&account).await.unwrap();
    i64::try_from(balance.available(account.kind().side())).unwrap() / SAT
}

pub async fn on_card(store: &dyn Store, card: CardId) -> i64 {
    has(store, Account::card_balance(card)).await
}

pub async fn state(engine: &Engine, card: CardId) -> CardState {
    let found = engine.cards().get(&engine.issuer(), card).await;
    found.unwrap().state
}

/// Money on a card, from outside.
pub async fn fund(store: &dyn Store, number: u16, card: CardId, sats: i64) {
    shop::fund(store, number, card, sats * SAT).await;
}
