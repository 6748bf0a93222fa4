//! Where a card may not be spent, its money is not given away either: by retiring it, or by filling up
//! another card.

use std::sync::Arc;

use flashkit::Engine;
use flashkit::access::Credential;
use flashkit::cards::{
    AutoTopUp, CardLimits, CardProgramTerms, CardState, ChargeCard, RetireCard, RetireTo,
    SetAutoTopUp, TopUpSource, UpdateCardProgram,
};
use flashkit::ids::{CardId, CardProgramId};
use flashkit::ledger::Account;
use flashkit::money::Asset;
use flashkit::ports::SystemClock;
use flashkit::store::{MemoryStore, Store};

use crate::rules::{issue, merchant, program};
use crate::support::gated_store::{GatedStore, Pause};
use crate::support::key;
use crate::support::scene::told;
use crate::support::shop::{self, HeldCard, Merchant, SAT, sat};

struct World {
    store: Arc<dyn Store>,
    pause: Arc<Pause>,
    engine: Engine,
    program: CardProgramId,
    /// Of the program, with 10,000 sats.
    card: HeldCard,
    /// Of the program.
    kin: HeldCard,
    /// Of none.
    stranger: HeldCard,
    here: Merchant,
    elsewhere: Merchant,
}

/// Which terms are tried: certain merchants, or certain kinds of shop.
fn only(here: &Merchant, by_category: bool) -> CardProgramTerms {
    CardProgramTerms {
        merchants: match by_category {
            false => vec![here.id],
            true => Vec::new(),
        },
        categories: match by_category {
            false => Vec::new(),
            true => vec!["5814".parse().unwrap()],
        },
        ..CardProgramTerms::default()
    }
}

async fn world() -> World {
    let memory = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let pause = Arc::new(Pause::default());
    let store: Arc<dyn Store> = Arc::new(GatedStore::pausing(memory, pause.clone()));
    let builder = Engine::builder(store.clone(), shop::master()).network("regtest");
    let engine = builder.open().await.unwrap();
    let program = program(&engine, "certain", CardProgramTerms::default()).await;
    let card = issue(&engine, "04112233440001", CardLimits::default(), program).await;
    let kin = issue(&engine, "04112233440002", CardLimits::default(), program).await;
    let stranger = shop::card(&engine, "04112233440003", CardLimits::default()).await;
    shop::fund(&*store, 1, card.id, 10_000 * SAT).await;
    World {
        here: merchant(&engine, "Patties", Some("5814")).await,
        elsewhere: merchant(&engine, "Books", Some("5942")).await,
        store,
        pause,
        engine,
        program,
        card,
        kin,
        stranger,
    }
}

impl World {
    async fn update(&self, name: &str, terms: CardProgramTerms) {
        let command = UpdateCardProgram {
            key: key(name),
            program: self.program,
            name: name.to_owned(),
            terms,
        };
        let programs = self.engine.cards().programs();
        programs
            .update(&self.engine.issuer(), command)
            .await
            .unwrap();
    }

    async fn retire(&self, name: &str, to: RetireTo) -> Result<CardState, &'static str> {
        let (key, card) = (key(name), self.card.id);
        let cards = self.engine.cards();
        let command = RetireCard { key, card, to };
        told(cards.retire(&self.card.holder, command).await).map(|card| card.state)
    }

    /// The card is to fill another one up.
    async fn fills(&self, name: &str, other: &HeldCard) -> Result<(), &'static str> {
        let from = TopUpSource::Card { card: self.card.id };
        self.rule(name, other.id, &other.holder, from).await
    }

    async fn rule(
        &self,
        name: &str,
        card: CardId,
        holder: &Credential,
        from: TopUpSource,
    ) -> Result<(), &'static str> {
        let command = SetAutoTopUp {
            key: key(name),
            card,
            rule: Some(AutoTopUp {
                unit: Asset::Btc,
                below: 1_000 * SAT,
                to: 2_000 * SAT,
                times_per_day: 10,
                from,
            }),
            source: Some(self.card.holder.clone()),
        };
        told(self.engine.cards().set_auto_top_up(holder, command).await).map(drop)
    }

    async fn on(&self, card: CardId) -> i64 {
        let account = Account::card_balance(card);
        let balance = self.store.balance(&account).await.unwrap();
        i64::try_from(balance.available(account.kind().side())).unwrap() / SAT
    }

    async fn seen(&self, kind: &str) -> usize {
        let events = self.store.events(0, 1_000).await.unwrap();
        events.iter().filter(|event| event.kind == kind).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_spent_elsewhere_is_not_given_there() {
    for by_category in [false, true] {
        let world = world().await;
        world.update("only", only(&world.here, by_category)).await;
        let merchant = match by_category {
            false => "card.merchant_not_allowed",
            true => "card.category_not_allowed",
        };
        let to_merchant = |of: &Merchant| RetireTo::Merchant { merchant: of.id };
        let to_card = |of: &HeldCard| RetireTo::Card { card: of.id };
        for (name, to, code) in [
            ("stranger", to_card(&world.stranger), "card.payee_not_known"),
            ("elsewhere", to_merchant(&world.elsewhere), merchant),
        ] {
            assert_eq!(world.retire(name, to).await, Err(code), "{name}");
        }
        let fills = world.fills("stranger", &world.stranger).await;
        assert_eq!(fills, Err("card.payee_not_known"));
        world.fills("kin", &world.kin).await.unwrap();
        world.engine.run_due_jobs().await.unwrap();
        assert_eq!(
            (world.on(world.kin.id).await, world.on(world.card.id).await),
            (2_000, 8_000)
        );
        let to = match by_category {
            false => to_card(&world.kin),
            true => to_merchant(&world.here),
        };
        assert_eq!(world.retire("gone", to).await, Ok(CardState::Retired));
        assert_eq!(world.on(world.card.id).await, 0);
        // Whoever has it now spends it where it always could be.
        if !by_category {
            let mut kin = world.kin;
            for (name, till, expected) in [
                (
                    "books",
                    &world.elsewhere.till,
                    Err("card.merchant_not_allowed"),
                ),
                ("patty", &world.here.till, Ok(())),
            ] {
                let command = ChargeCard {
                    key: key(name),
                    tap: kin.chip.tap(),
                    price: sat(9_999),
                    reference: String::new(),
                    pin: None,
                };
                let charged = told(world.engine.cards().charge(till, command).await);
                assert_eq!(charged.map(drop), expected, "{name}");
            }
        }
    }
}

/// What was agreed before the program named where its cards pay fills up nothing afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_agreed_before_ends_with_the_rule() {
    let world = world().await;
    world.fills("agreed", &world.stranger).await.unwrap();
    world.update("only", only(&world.here, false)).await;
    world.engine.run_due_jobs().await.unwrap();
    let have = (
        world.on(world.stranger.id).await,
        world.on(world.card.id).await,
    );
    assert_eq!(have, (0, 10_000));
    let told = (
        world.seen("card.topped_up").await,
        world.seen("card.top_up_failed").await,
    );
    assert_eq!(told, (0, 1));
}

/// The rule comes between the decision and its commit: it is decided again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_forbids_meanwhile_is_not_given() {
    for operation in ["cards.retire", "cards.set_auto_top_up", "card.auto_top_up"] {
        let world = Arc::new(world().await);
        let is_job = operation == "card.auto_top_up";
        if is_job {
            world.fills("agreed", &world.stranger).await.unwrap();
        }
        world.pause.arm(operation);
        let given = {
            let (world, operation) = (world.clone(), operation.to_owned());
            tokio::spawn(async move {
                let card = world.stranger.id;
                match operation.as_str() {
                    "cards.retire" => {
                        let to = RetireTo::Card { card };
                        world.retire("late", to).await.map(drop)
                    }
                    "cards.set_auto_top_up" => world.fills("late", &world.stranger).await,
                    _ => {
                        world.engine.run_due_jobs().await.unwrap();
                        Err("card.payee_not_known")
                    }
                }
            })
        };
        world.pause.reached().await;
        world.update("only", only(&world.here, false)).await;
        world.pause.release();
        assert_eq!(
            given.await.unwrap(),
            Err("card.payee_not_known"),
            "{operation}"
        );
        let have = (
            world.on(world.stranger.id).await,
            world.on(world.card.id).await,
        );
        assert_eq!(have, (0, 10_000), "{operation}");
    }
}
