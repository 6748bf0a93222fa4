//! Random refunds of random invoices, over every kind of amount, way and outcome, against a model
//! that knows nothing of the engine but amounts: never more goes back than came, or than the
//! merchant's cap lets go, and the invoice, the merchant and the books say the same.

use flashkit::cards::CardLimits;
use flashkit::ids::RefundId;
use flashkit::invoices::{Invoice, InvoiceOptions, PaymentRules, SurplusTo};
use flashkit::ledger::Account;
use flashkit::money::Currency;
use flashkit::refunds::{
    CancelRefund, Refund, RefundAmount, RefundOutcome, RefundState, RefundTo, ResolveRefund,
};

use crate::refunds::{bolt11, order};
use crate::support::books::expect_sound;
use crate::support::scripted::Pay;
use crate::support::shop::{self, HeldCard, SAT, jmd, sat};
use crate::support::{key, until};
use crate::traps::{Set, set};

const PRICE: i64 = 150_000;
const AMOUNT: i64 = 10_000_000;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }
}

/// How one stands, to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Went {
    Back,
    Nowhere,
    Waits,
    Asks,
}

struct Entry {
    id: RefundId,
    amount: i64,
    covers: i64,
    went: Went,
}

struct Model {
    came: i64,
    surplus: i64,
    cap: i64,
    /// Whole dollars for a bitcoin.
    rate: i64,
    entries: Vec<Entry>,
}

fn whole(numerator: i128, denominator: i128) -> i64 {
    i64::try_from(numerator / denominator).unwrap()
}

fn up(numerator: i128, denominator: i128) -> i64 {
    whole(numerator + denominator - 1, denominator)
}

impl Model {
    fn sum(&self, of: impl Fn(&Entry) -> i64) -> i64 {
        let counted = self
            .entries
            .iter()
            .filter(|entry| entry.went != Went::Nowhere);
        counted.map(of).sum()
    }

    fn in_bitcoin(&self, cents: i64) -> i64 {
        whole(
            i128::from(cents) * 100_000_000_000,
            i128::from(self.rate) * 100,
        )
    }

    fn of_price(cents: i64, rounded: fn(i128, i128) -> i64) -> i64 {
        rounded(i128::from(AMOUNT) * i128::from(cents), i128::from(PRICE))
    }

    /// What should go, and what of the invoice that is.
    fn judge(&self, asked: RefundAmount) -> Result<(i64, i64), &'static str> {
        let (gone, covered) = (
            self.sum(|entry| entry.amount),
            self.sum(|entry| entry.covers),
        );
        let by_then = (self.came - covered).min(self.came - gone);
        let is_now = matches!(
            asked,
            RefundAmount::RateNow { .. } | RefundAmount::Fiat { .. }
        );
        let room = if is_now { self.came - covered } else { by_then };
        if room <= 0 {
            return Err("refund.nothing_left");
        }
        let (goes, covers) = match asked {
            RefundAmount::Everything => (room, room),
            RefundAmount::Surplus if self.surplus <= covered => return Err("refund.nothing_left"),
            RefundAmount::Surplus => {
                let goes = room.min(self.surplus - covered);
                (goes, goes)
            }
            RefundAmount::Bitcoin { amount_msat } => (amount_msat, amount_msat),
            RefundAmount::RateThen { minor_units } => {
                let goes = Self::of_price(minor_units, whole);
                (goes, goes)
            }
            RefundAmount::RateNow { minor_units: None } => {
                let cents = whole(i128::from(PRICE) * i128::from(room), i128::from(AMOUNT));
                (self.in_bitcoin(cents), room)
            }
            RefundAmount::RateNow {
                minor_units: Some(cents),
            }
            | RefundAmount::Fiat {
                minor_units: cents, ..
            } => (self.in_bitcoin(cents), Self::of_price(cents, up)),
        };
        if goes <= 0 {
            return Err("money.not_positive");
        }
        if covers > room {
            return Err("refund.exceeds_paid");
        }
        if is_now && goes > self.cap - gone {
            return Err("refund.exceeds_cap");
        }
        Ok((goes, covers))
    }
}

fn amount(dice: &mut Dice) -> RefundAmount {
    let cents = dice.pick(&[1, 7, 9_999, 30_000, 75_000, 150_000, 150_001]);
    match dice.roll(8) {
        0 => RefundAmount::Everything,
        1 => RefundAmount::Surplus,
        2 | 3 => RefundAmount::Bitcoin {
            amount_msat: dice.pick(&[1, 999_999, 2_000_000, 3_333_333, 10_000_001, 0, -1]),
        },
        4 => RefundAmount::RateThen { minor_units: cents },
        5 => RefundAmount::RateNow { minor_units: None },
        6 => RefundAmount::RateNow {
            minor_units: Some(cents),
        },
        _ => RefundAmount::Fiat {
            currency: Currency::from_code("JMD").unwrap(),
            minor_units: cents,
        },
    }
}

struct World {
    set: Set,
    card: HeldCard,
    model: Model,
    invoice: Invoice,
    /// What the merchant has, to the model, what is set aside taken off.
    payable: i64,
    seen: std::collections::BTreeMap<String, u32>,
}

impl World {
    async fn sale(&mut self, name: &str, dice: &mut Dice) {
        self.set.rate("15000000");
        let per_mille = dice.pick(&[None, Some(500), Some(1_500), Some(3_000)]);
        let options = InvoiceOptions {
            rules: Some(PaymentRules {
                surplus: Some(SurplusTo::Tip),
                refund_up_to_per_mille: per_mille,
                ..PaymentRules::NONE
            }),
            ..InvoiceOptions::default()
        };
        let invoice = self.set.make(self.set.command(name, jmd(PRICE), options));
        let invoice = invoice.await.unwrap();
        assert_eq!(invoice.amount_msat, AMOUNT);
        let came = AMOUNT + dice.pick(&[0, 2_000_000]);
        self.invoice = self.set.over_lightning(&invoice, came).await;
        self.payable += came;
        self.model = Model {
            came,
            surplus: came - AMOUNT,
            cap: came * i64::from(per_mille.unwrap_or(1_000)) / 1_000,
            rate: 15_000_000,
            entries: Vec::new(),
        };
    }

    fn fee(amount: i64) -> i64 {
        10_000 + up(i128::from(amount) * 50, 10_000)
    }

    async fn refund(&mut self, name: &str, dice: &mut Dice) {
        let asked = amount(dice);
        let expected = self.model.judge(asked);
        let goes = expected.map_or(1, |(goes, _)| goes);
        let way = dice.roll(5);
        // To a Lightning address go whole sats.
        let expected = match expected {
            Ok((..1_000, _)) if way == 0 => Err("refund.fee_takes_all"),
            expected => expected,
        };
        let to = match way {
            0 => RefundTo::LightningAddress {
                address: "ann@x.com".to_owned(),
            },
            1 | 2 => RefundTo::Card { card: self.card.id },
            _ => bolt11(&self.set.customer.invoice(goes, "back").await.unwrap()),
        };
        let script = dice.pick(&[
            None,
            Some(Pay::Refuse),
            Some(Pay::Doubt),
            Some(Pay::SendAndDoubt),
        ]);
        if way > 2 && expected.is_ok() {
            self.set.node.script(script);
        }
        let command = order(name, &self.invoice, to, asked);
        let refund = self.set.refund(command.clone()).await;
        let told = refund
            .as_ref()
            .map(|refund| (refund.amount_msat, refund.covers_msat));
        assert_eq!(told.map_err(|code| *code), expected, "{name}: {asked:?}");
        let Ok(refund) = refund else {
            let code = expected.unwrap_err().to_owned();
            *self.seen.entry(code).or_default() += 1;
            return;
        };
        let (went, costs) = match (way, script) {
            (0, _) => (Went::Asks, 0),
            (1 | 2, _) => (Went::Back, goes),
            (_, Some(Pay::Refuse)) => (Went::Nowhere, 0),
            (_, Some(Pay::Doubt)) => (Went::Waits, goes + Self::fee(goes)),
            (_, None | Some(_)) => {
                self.until(&refund, RefundState::Succeeded).await;
                (Went::Back, goes)
            }
        };
        self.payable -= costs;
        let name = format!("{went:?}");
        *self.seen.entry(name).or_default() += 1;
        let (amount, covers) = expected.unwrap();
        self.model.entries.push(Entry {
            id: refund.id,
            amount,
            covers,
            went,
        });
        // Asked once more: the same refund, and nothing more.
        assert_eq!(self.set.refund(command).await.unwrap().id, refund.id);
    }

    async fn until(&self, refund: &Refund, state: RefundState) {
        until("the refund stands as it should", || async {
            self.set.refund_of(refund).await.state == state
        })
        .await;
    }

    /// One that waits or asks comes to an end.
    async fn end_one(&mut self, dice: &mut Dice) {
        let refunds = self.set.engine.refunds();
        let issuer = self.set.engine.issuer();
        let open = |entry: &&mut Entry| matches!(entry.went, Went::Waits | Went::Asks);
        let Some(entry) = self.model.entries.iter_mut().find(open) else {
            return;
        };
        if entry.went == Went::Asks {
            let command = CancelRefund {
                key: key(&format!("cancel/{}", entry.id)),
                refund: entry.id,
            };
            refunds.cancel(&issuer, command).await.unwrap();
            entry.went = Went::Nowhere;
            return;
        }
        let arrived = dice.roll(2) == 0;
        let outcome = match arrived {
            true => RefundOutcome::Succeeded { fee_msat: Some(7) },
            false => RefundOutcome::Failed,
        };
        let command = ResolveRefund {
            key: key(&format!("resolve/{}", entry.id)),
            refund: entry.id,
            outcome,
            reason: "asked".to_owned(),
            despite_record: false,
        };
        refunds.resolve(&issuer, command).await.unwrap();
        let set_aside = entry.amount + Self::fee(entry.amount);
        self.payable += match arrived {
            true => set_aside - entry.amount - 7,
            false => set_aside,
        };
        entry.went = match arrived {
            true => Went::Back,
            false => Went::Nowhere,
        };
    }

    async fn agrees(&self, step: &str) {
        let flags = self.set.get(&self.invoice).await.flags;
        let model = &self.model;
        let back = |entry: &Entry| {
            if entry.went == Went::Back {
                entry.amount
            } else {
                0
            }
        };
        let gone = model.sum(|entry| entry.amount);
        assert_eq!(flags.refunded_msat, model.sum(back), "{step}");
        assert_eq!(flags.refunding_msat, gone - model.sum(back), "{step}");
        assert_eq!(
            flags.refund_covers_msat,
            model.sum(|entry| entry.covers),
            "{step}"
        );
        assert!(gone <= model.came.max(model.cap), "{step}: more than came");
        assert!(flags.refund_covers_msat <= model.came, "{step}");
        let available = self.set.available(self.set.payable()).await;
        assert_eq!(available, self.payable, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_order_of_refunds_pays_back_more_than_came() {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..4 {
        let set = set().await;
        let card = shop::card(&set.engine, shop::UID, CardLimits::default()).await;
        let float = shop::sale(&set.engine, &set.merchant, "float", sat(500_000)).await;
        let invoice = set.over_lightning(&float, 500_000 * SAT).await;
        let model = Model {
            came: 0,
            surplus: 0,
            cap: 0,
            rate: 15_000_000,
            entries: Vec::new(),
        };
        let mut world = World {
            set,
            card,
            model,
            invoice,
            payable: 500_000 * SAT,
            seen: std::mem::take(&mut seen),
        };
        for sale in 0..5 {
            world.sale(&format!("sale-{sale}"), &mut dice).await;
            for op in 0..14 {
                let step = format!("round {round}, sale {sale}, step {op}");
                match dice.roll(6) {
                    0 => {
                        let rate = dice.pick(&[7_500_000, 10_000_000, 15_000_000, 30_000_000]);
                        world.set.rate(&rate.to_string());
                        world.model.rate = rate;
                    }
                    1 => world.end_one(&mut dice).await,
                    _ => {
                        world
                            .refund(&format!("refund-{sale}-{op}"), &mut dice)
                            .await
                    }
                }
                world.agrees(&step).await;
            }
        }
        expect_sound(&world.set.engine, "the end").await;
        let suspense = world.set.available(Account::suspense()).await;
        assert_eq!(suspense, 0);
        seen = std::mem::take(&mut world.seen);
        world.set.engine.stop().await.unwrap();
    }
    println!("{seen:?}");
    for what in [
        "Asks",
        "Back",
        "Nowhere",
        "Waits",
        "refund.exceeds_paid",
        "refund.exceeds_cap",
        "refund.nothing_left",
        "money.not_positive",
    ] {
        assert!(seen.contains_key(what), "{what} never happened: {seen:?}");
    }
}
