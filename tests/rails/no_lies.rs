//! What a till is told is true: `OK` of what arrived, `ERROR` only of what is not in flight and
//! never will be. A model that knows nothing of the engine follows what every till was told.

use flashkit::cards::CardLimits;
use flashkit::{CardPaymentSettings, Settings};
use serde_json::Value;

use crate::lnurl::withdraw;
use crate::set::{ON_CARD, Set, hash, settings};
use crate::support::scripted::Pay;
use crate::support::shop::SAT;
use crate::support::until;

/// Knuth's MMIX generator: its upper bits are random enough here.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// What a till was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Ok,
    Pending,
    Error,
}

/// What is known of one invoice from what tills were told, and from its payee.
#[derive(Debug, Default, Clone)]
struct Known {
    /// Somebody was told that it may be on its way, and nobody that it failed.
    may_be_in_flight: bool,
    /// Somebody was told that it will not be paid, after all else that was said.
    is_denied: bool,
}

const BILLS: usize = 4;
const PRICE: i64 = 1_000;

struct World {
    set: Set,
    bills: Vec<String>,
    taps: Vec<String>,
    known: Vec<Known>,
    trace: Vec<String>,
}

impl World {
    async fn new() -> Self {
        let settings = Settings {
            unknown_retry_ms: 20,
            card_payments: CardPaymentSettings {
                wait_ms: 0,
                ..settings().card_payments
            },
            ..settings()
        };
        let mut set = Set::with(CardLimits::default(), settings).await;
        let mut bills = Vec::new();
        for _ in 0..BILLS {
            bills.push(set.bill(PRICE).await);
        }
        let taps = (0..4).map(|_| set.card.chip.tap()).collect();
        Self {
            set,
            bills,
            taps,
            known: vec![Known::default(); BILLS],
            trace: Vec::new(),
        }
    }

    async fn ask(&mut self, tap: usize, bill: usize) -> Told {
        let (_, reply) = self
            .set
            .json(&withdraw(&self.taps[tap], &self.bills[bill]))
            .await;
        let told = match (&reply["status"], &reply["state"]) {
            (Value::String(status), Value::Null) if status == "OK" => Told::Ok,
            (Value::String(status), _) if status == "OK" => Told::Pending,
            _ => Told::Error,
        };
        self.trace
            .push(format!("tap {tap} bill {bill}: {told:?} {reply}"));
        let known = &mut self.known[bill];
        match told {
            // Nothing may be said to be paid that is not.
            Told::Ok => {
                assert!(self.set.has_arrived(&self.bills[bill]), "{:#?}", self.trace);
                assert!(!known.is_denied, "denied before: {:#?}", self.trace);
            }
            Told::Pending => {
                known.may_be_in_flight = true;
                known.is_denied = false;
            }
            Told::Error => {
                let waits = self.set.payee.record(hash(&self.bills[bill]));
                let waits = waits
                    .filter(|record| record.state != flashkit::lightning::PaymentState::Failed);
                assert_eq!(waits, None, "in flight or paid: {:#?}", self.trace);
                known.may_be_in_flight = false;
                known.is_denied = true;
            }
        }
        told
    }

    async fn step(&mut self, chance: &mut Chance) {
        let bill = chance.below(BILLS);
        match chance.below(10) {
            0..=4 => {
                let tap = chance.below(4);
                self.ask(tap, bill).await;
            }
            5 | 6 => {
                let script = [Pay::SendAndDoubt, Pay::Doubt, Pay::Refuse][chance.below(3)];
                self.trace.push(format!("next: {script:?}"));
                self.set.node.script([script]);
            }
            7 => {
                self.trace.push(format!("take {bill}"));
                self.set.take_now(&self.bills[bill]).await;
            }
            8 => {
                self.trace.push(format!("give back {bill}"));
                self.set.give_back_now(&self.bills[bill]).await;
            }
            _ => tokio::task::yield_now().await,
        }
    }

    /// Everything ends: what waits is taken or given back, until the books hold nothing.
    async fn end(mut self, chance: &mut Chance) -> usize {
        let takes: Vec<bool> = (0..BILLS).map(|_| chance.below(2) == 0).collect();
        until("nothing is on its way", || async {
            for (bill, takes) in self.bills.iter().zip(&takes) {
                if *takes {
                    self.set.take_now(bill).await;
                } else {
                    self.set.give_back_now(bill).await;
                }
            }
            let (cards, holder) = (self.set.engine.cards(), &self.set.card.holder);
            let all = cards
                .list_payments(holder, self.set.card.id, None, 100)
                .await;
            let all = all.unwrap().value;
            all.iter().all(|payment| payment.state.is_final())
        })
        .await;
        let mut paid = 0;
        for bill in 0..BILLS {
            let arrived = self.set.has_arrived(&self.bills[bill]);
            paid += i64::from(arrived);
            assert!(
                !(arrived && self.known[bill].is_denied),
                "bill {bill} was denied and arrived: {:#?}",
                self.trace
            );
            // Whoever still wonders is told now, by any tap that was used for it or by none.
            if self.known[bill].may_be_in_flight {
                let told = self.ask(chance.below(4), bill).await;
                let expected = if arrived { Told::Ok } else { Told::Error };
                assert_eq!(told, expected, "{:#?}", self.trace);
            }
        }
        let left = (ON_CARD - paid * PRICE) * SAT;
        assert_eq!(self.set.balance().await, left, "{:#?}", self.trace);
        self.set.stop("no lies").await;
        usize::try_from(paid).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_is_never_told_that_nothing_is_in_flight_while_something_is() {
    let mut worlds = Vec::new();
    for seed in 0..24 {
        worlds.push(tokio::spawn(async move {
            let mut chance = Chance(seed);
            let mut world = World::new().await;
            for _ in 0..24 {
                world.step(&mut chance).await;
            }
            let told: [usize; 3] = [Told::Ok, Told::Pending, Told::Error].map(|what| {
                let said = format!(": {what:?} ");
                world
                    .trace
                    .iter()
                    .filter(|line| line.contains(&said))
                    .count()
            });
            (world.end(&mut chance).await, told)
        }));
    }
    let (mut paid, mut told) = (0, [0; 3]);
    for (seed, world) in worlds.into_iter().enumerate() {
        let (arrived, said) = world
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        paid += arrived;
        for (sum, count) in told.iter_mut().zip(said) {
            *sum += count;
        }
    }
    println!("{paid} invoices paid; OK, pending and ERROR were said {told:?} times");
    assert!(
        paid > 10 && told.iter().all(|count| *count > 10),
        "{paid} {told:?}"
    );
}
