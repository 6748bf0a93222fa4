//! A merchant with a till and many cards, on a file.
#![allow(dead_code, reason = "every bench uses its own part")]

use std::path::Path;
use std::sync::Arc;

use flashkit::access::Credential;
use flashkit::cards::{ActivateCard, CardLimits, ChargeCard, IssueCard};
use flashkit::ids::{CardId, MerchantId};
use flashkit::ledger::Account;
use flashkit::money::Price;
use flashkit::ports::SystemClock;
use flashkit::settlement::{CreateMerchant, PairTill, PayoutTerms};
use flashkit::store::Store;
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::{Engine, IdempotencyKey, MasterSecret};
use tokio::task::JoinSet;

use super::transfers::{AMOUNT_MSAT, Done, FUNDS_MSAT, batch, fund};

const AT_ONCE: usize = 200;

pub struct Shop {
    pub engine: Engine,
    pub store: SqliteStore,
    pub merchant: MerchantId,
    pub cards: Vec<(CardId, VirtualCard)>,
    till: Credential,
    /// How many charges were asked for.
    pub charges: u64,
}

fn key(text: String) -> Done<IdempotencyKey> {
    Ok(text.parse()?)
}

async fn engine(store: &SqliteStore) -> Done<Engine> {
    let master = MasterSecret::new([7; 32]);
    Ok(Engine::builder(Arc::new(store.clone()), master)
        .open()
        .await?)
}

impl Shop {
    /// A new file with so many active cards, each with a limit a day and money on it.
    pub async fn open(file: &Path, cards: usize) -> Done<Self> {
        let store = SqliteStore::open(file, Arc::new(SystemClock))?;
        let engine = engine(&store).await?;
        let issuer = engine.issuer();
        let create = CreateMerchant {
            key: key("merchant".to_owned())?,
            name: "Cookshop".to_owned(),
            terms: PayoutTerms::default(),
            category: None,
        };
        let merchant = engine.settlement().create(&issuer, create).await?.id;
        let pair = PairTill {
            key: key("till".to_owned())?,
            merchant,
            label: "till 1".to_owned(),
        };
        let till = engine.settlement().pair_till(&issuer, pair).await?;
        let mut shop = Self {
            till: till.credential.clone(),
            engine,
            store,
            merchant,
            cards: Vec::new(),
            charges: 0,
        };
        for first in (0..cards).step_by(AT_ONCE) {
            let mut work = JoinSet::new();
            for number in first..cards.min(first + AT_ONCE) {
                work.spawn(issue(shop.engine.clone(), number));
            }
            while let Some(card) = work.join_next().await {
                shop.cards.push(card??);
            }
        }
        let ids: Vec<CardId> = shop.cards.iter().map(|card| card.0).collect();
        fund(&shop.store, &ids).await?;
        Ok(shop)
    }

    /// The same file, closed and opened again: nothing is remembered.
    pub async fn reopen(self, file: &Path) -> Done<Self> {
        self.engine.stop().await?;
        self.store.close().await?;
        let store = SqliteStore::open(file, Arc::new(SystemClock))?;
        let engine = engine(&store).await?;
        Ok(Self {
            engine,
            store,
            ..self
        })
    }

    /// A tap of a card, with what is to be paid.
    pub fn tap(&mut self, card: usize) -> Done<ChargeCard> {
        self.charges += 1;
        Ok(ChargeCard {
            key: key(format!("charge/{:012}", self.charges))?,
            tap: self.cards[card].1.tap(),
            price: Price::Bitcoin {
                amount_msat: AMOUNT_MSAT,
            },
            reference: "patty and coco bread".to_owned(),
            pin: None,
        })
    }

    pub async fn charge(&self, command: ChargeCard) -> Done {
        self.engine.cards().charge(&self.till, command).await?;
        Ok(())
    }

    pub async fn charge_singly(&self, commands: Vec<ChargeCard>) -> Done {
        for command in commands {
            self.charge(command).await?;
        }
        Ok(())
    }

    pub async fn charge_at_once(&self, commands: Vec<ChargeCard>) -> Done {
        let mut work = JoinSet::new();
        for command in commands {
            self.begin(&mut work, command);
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        Ok(())
    }

    fn begin(&self, work: &mut JoinSet<Result<(), flashkit::Error>>, command: ChargeCard) {
        let (cards, till) = (self.engine.cards(), self.till.clone());
        work.spawn(async move { cards.charge(&till, command).await.map(drop) });
    }

    /// So many charges, of one card after the other, many at once.
    pub async fn charge_all(&mut self, charges: usize) -> Done {
        let mut work = JoinSet::new();
        for number in 0..charges {
            if work.len() == AT_ONCE
                && let Some(done) = work.join_next().await
            {
                done??;
            }
            let command = self.tap(number % self.cards.len())?;
            self.begin(&mut work, command);
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        Ok(())
    }
}

impl Shop {
    /// So many transfers, of one card after the other to the merchant, many at once: each a commit
    /// with a command and an event, told to the store directly.
    pub async fn transfer_all(&self, transfers: u64) -> Done {
        let mut work = JoinSet::new();
        let payable = Account::merchant_payable(self.merchant);
        for (number, (card, _)) in (0..transfers).zip(self.cards.iter().cycle()) {
            if work.len() == AT_ONCE
                && let Some(done) = work.join_next().await
            {
                done??;
            }
            let (store, batch) = (self.store.clone(), batch(number, *card, payable));
            work.spawn(async move { store.commit(batch).await.map(drop) });
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        Ok(())
    }
}

async fn issue(engine: Engine, number: usize) -> Done<(CardId, VirtualCard)> {
    let issuer = engine.issuer();
    let uid = format!("04{number:012x}");
    let issue = IssueCard {
        key: key(format!("issue/{number}"))?,
        uid: uid.clone(),
        existing_chip: None,
        limits: CardLimits {
            per_day: Some(FUNDS_MSAT),
            ..CardLimits::default()
        },
        program: None,
    };
    let card = engine.cards().issue(&issuer, issue).await?.id;
    let keys = engine.cards().programming_keys(&issuer, &uid).await?;
    let chip = VirtualCard::program(&uid, &keys)?;
    let key = key(format!("activate/{number}"))?;
    engine
        .cards()
        .activate(&issuer, ActivateCard { key, card })
        .await?;
    Ok((card, chip))
}
