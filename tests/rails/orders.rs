//! What is last known of every output decides, and not the order in which it was told: all the
//! facts of an invoice in one order after another, against what they come to by themselves.

use flashkit::invoices::{
    ConfirmationTier, Invoice, InvoiceState, OnChainFact, OnChainPlace, Outpoint, PaymentRules,
    SurplusTo,
};
use flashkit::ledger::Account;
use flashkit::ports::Clock;
use flashkit::testkit::chain::nobodys_address;
use flashkit::treasury::{AssignSuspense, SuspenseTarget};

use crate::machine::{Dice, START_MS, World};
use crate::support::key;
use crate::support::shop::SAT;

/// What an invoice comes to, and what it leaves in the books.
#[derive(Debug, PartialEq, Eq)]
struct End {
    state: InvoiceState,
    received: i64,
    under: i64,
    over: i64,
    late: i64,
    to_refund: i64,
    /// What its merchant has of it, and what is nobody's.
    owners: i64,
    nobodys: i64,
}

/// One output and the facts that are told of it, the last one last.
struct Output {
    outpoint: Outpoint,
    sats: i64,
    known_ms: i64,
    places: Vec<OnChainPlace>,
}

struct Case {
    amount: i64,
    rules: PaymentRules,
    outputs: Vec<Output>,
}

const GONE: OnChainPlace = OnChainPlace::Gone { replaced_by: None };

fn block(confirmations: u32) -> OnChainPlace {
    OnChainPlace::Block {
        height: 7,
        hash: "ab".repeat(32),
        confirmations,
    }
}

fn place(dice: &mut Dice) -> OnChainPlace {
    let replaceable = dice.roll(2) == 0;
    let unconfirmed = OnChainPlace::Mempool { replaceable };
    match dice.roll(4) {
        0 => GONE,
        1 => unconfirmed,
        _ => block(dice.pick(&[1, 2, 6])),
    }
}

fn case(dice: &mut Dice, seed: u64, expires_ms: i64) -> Case {
    let mut outputs = Vec::new();
    for at in 0..4_u8 {
        let mut txid = [at; 32];
        txid[..8].copy_from_slice(&dice.roll(u64::MAX).to_be_bytes());
        txid[8..16].copy_from_slice(&seed.to_be_bytes());
        let late = if dice.roll(6) == 0 {
            expires_ms
        } else {
            START_MS
        };
        outputs.push(Output {
            outpoint: Outpoint { txid, vout: 0 },
            sats: dice.pick(&[3_001, 5_000, 9_500, 10_000, 10_001, 12_000]),
            // Some at the same moment.
            known_ms: late + i64::try_from(dice.roll(3)).unwrap(),
            places: (0..=dice.roll(3)).map(|_| place(dice)).collect(),
        });
    }
    Case {
        amount: 10_000 * SAT + dice.pick(&[0, 0, 500]),
        rules: PaymentRules {
            surplus: dice.pick(&[None, None, Some(SurplusTo::Tip), Some(SurplusTo::Refund)]),
            accept_late_within_per_mille: dice.pick(&[None, Some(10)]),
            confirmations: vec![ConfirmationTier {
                up_to_msat: i64::MAX,
                confirmations: dice.pick(&[0, 1, 2]),
            }],
            ..PaymentRules::default()
        },
        outputs,
    }
}

impl Case {
    /// By the last facts alone.
    fn end(&self, expires_ms: i64) -> End {
        let needed = self.rules.confirmations[0].confirmations;
        let (mut here, mut coming, mut late, mut nobodys) = (0, 0, 0, 0);
        for output in &self.outputs {
            let is_late = output.known_ms >= expires_ms;
            let is_nobodys = is_late && self.rules.accept_late_within_per_mille.is_none();
            let needed = needed.max(u32::from(is_nobodys));
            let (is_here, has) = match output.places.last().unwrap() {
                OnChainPlace::Gone { .. } => continue,
                OnChainPlace::Mempool { replaceable } => (needed == 0 && !replaceable, output.sats),
                OnChainPlace::Block { confirmations, .. } => {
                    (*confirmations >= needed, output.sats)
                }
            };
            late += if is_late { has * SAT } else { 0 };
            match (is_here, is_nobodys) {
                (true, true) => nobodys += has * SAT,
                (true, false) => here += has * SAT,
                (false, true) => {}
                (false, false) => coming += has * SAT,
            }
        }
        // Nobody can pay half a sat on chain.
        let price = (self.amount + 999) / SAT * SAT;
        let (received, counted) = (here.min(price), (here + coming).min(price));
        let surplus = here - received;
        let rule = self.rules.surplus;
        End {
            state: match () {
                () if received >= self.amount => InvoiceState::Settled,
                () if counted >= self.amount => InvoiceState::Processing,
                () => InvoiceState::New,
            },
            received,
            under: (self.amount - counted).max(0) * i64::from(counted > 0),
            over: here + coming - counted,
            late,
            to_refund: surplus * i64::from(rule == Some(SurplusTo::Refund)),
            owners: received + surplus * i64::from(rule.is_some()),
            nobodys: nobodys + surplus * i64::from(rule.is_none()),
        }
    }

    /// The facts of all outputs, those of each one in some order with its last one last.
    fn told(&self, dice: &mut Dice) -> Vec<OnChainFact> {
        let mut left: Vec<(usize, Vec<OnChainPlace>)> = Vec::new();
        for (at, output) in self.outputs.iter().enumerate() {
            left.push((at, output.places.clone()));
        }
        let mut told = Vec::new();
        while !left.is_empty() {
            let next = usize::try_from(dice.roll(left.len() as u64)).unwrap();
            let (at, places) = &mut left[next];
            let before_last = places.len().max(2) - 1;
            let which = usize::try_from(dice.roll(before_last as u64)).unwrap();
            let output = &self.outputs[*at];
            told.push(OnChainFact {
                outpoint: output.outpoint,
                amount_sat: output.sats,
                first_known_ms: output.known_ms,
                place: places.remove(which),
            });
            if places.is_empty() {
                left.remove(next);
            }
        }
        told
    }
}

async fn tell(world: &World, name: &str, facts: &[OnChainFact]) {
    let (issuer, address) = (world.engine.issuer(), nobodys_address(name));
    for fact in facts {
        let invoices = world.engine.invoices();
        let told = invoices.observe_on_chain(&issuer, &address, fact).await;
        assert!(told.unwrap());
    }
}

/// What the merchant has, less what it owes; and what is nobody's.
async fn books(world: &World) -> (i64, i64) {
    let merchant = world.merchant.id;
    let has = world.balance(Account::merchant_payable(merchant)).await;
    let owes = world.balance(Account::merchant_receivable(merchant)).await;
    (has - owes, world.balance(Account::suspense()).await)
}

async fn ended(world: &World, invoice: &Invoice, before: (i64, i64)) -> End {
    let (found, after) = (world.get(invoice).await, books(world).await);
    End {
        state: found.state,
        received: found.received_msat,
        under: found.flags.underpaid_msat,
        over: found.flags.overpaid_msat,
        late: found.flags.late_msat,
        to_refund: found.refund_due_msat,
        owners: after.0 - before.0,
        nobodys: after.1 - before.1,
    }
}

#[tokio::test]
async fn in_whatever_order_the_same_is_told_it_comes_to_the_same() {
    let world = World::new().await;
    let mut ends = [0; 3];
    for seed in 1..=40 {
        let mut dice = Dice((seed * 0x9e37_79b9) | 1);
        let expires_ms = world.clock.now_ms() + 3_600_000;
        for order in 0..3_u64 {
            // The same outputs for every order, told of another address: no name is used twice.
            let mut same = Dice((seed * 0x51_7cc1) | 1);
            let mut case = case(&mut same, seed, expires_ms);
            let name = format!("order{seed}/{order}");
            for output in &mut case.outputs {
                output.outpoint.vout = u32::try_from(order).unwrap();
            }
            let invoice = world
                .create_for(&name, case.amount, case.rules.clone())
                .await;
            let before = books(&world).await;
            let told = case.told(&mut dice);
            tell(&world, &name, &told).await;
            let wanted = case.end(expires_ms);
            let found = ended(&world, &invoice, before).await;
            assert_eq!(found, wanted, "seed {seed}, order {order}: {told:#?}");
            ends[match wanted.state {
                InvoiceState::Settled => 0,
                InvoiceState::Processing => 1,
                _ => 2,
            }] += 1;
        }
    }
    assert!(ends.iter().all(|count| *count > 3), "{ends:?}");
    world.engine.stop().await.unwrap();
}

fn of(byte: u8, place: OnChainPlace) -> OnChainFact {
    OnChainFact {
        outpoint: Outpoint {
            txid: [byte; 32],
            vout: 0,
        },
        amount_sat: 10_000,
        first_known_ms: START_MS,
        place,
    }
}

/// What a person gave away is not taken from there: the invoice stands unpaid, and says that more
/// came than counts.
#[tokio::test]
async fn surplus_that_was_assigned_does_not_count_when_the_price_vanishes() {
    let world = World::new().await;
    let (treasury, issuer) = (world.engine.treasury(), world.engine.issuer());
    let before = books(&world).await;
    let invoice = world
        .create_for("given", 10_000 * SAT, PaymentRules::default())
        .await;
    tell(&world, "given", &[of(1, block(1)), of(2, block(1))]).await;
    let waiting = treasury.suspense(&issuer, None, 10).await.unwrap().value;
    let command = AssignSuspense {
        key: key("give"),
        item: waiting[0].id,
        to: SuspenseTarget::Operator,
        reason: "a gift".to_owned(),
    };
    treasury.assign_suspense(&issuer, command).await.unwrap();
    tell(&world, "given", &[of(1, GONE)]).await;
    let found = world.get(&invoice).await;
    assert_eq!(found.state, InvoiceState::New);
    assert_eq!(found.flags.overpaid_msat, 10_000 * SAT);
    assert_eq!(found.flags.reorged_msat, 10_000 * SAT);
    assert_eq!(books(&world).await, before);
    // The same without the gift.
    let free = world
        .create_for("free", 10_000 * SAT, PaymentRules::default())
        .await;
    tell(&world, "free", &[of(3, block(1)), of(4, block(1))]).await;
    tell(&world, "free", &[of(3, GONE)]).await;
    let found = world.get(&free).await;
    assert_eq!(found.state, InvoiceState::Settled);
    assert_eq!(found.flags.overpaid_msat, 0);
    assert_eq!(books(&world).await, (before.0 + 10_000 * SAT, before.1));
    let none = treasury.suspense(&issuer, None, 10).await.unwrap().value;
    assert_eq!(none, []);
    world.engine.stop().await.unwrap();
}

/// A tip that was spent is not there a second time when the price vanishes and it counts for that:
/// what it comes to now pays what is owed.
#[tokio::test]
async fn a_tip_that_was_spent_is_not_given_again_when_the_price_vanishes() {
    let mut world = World::new().await;
    let merchant = world.merchant.id;
    let (payable, owes) = (
        Account::merchant_payable(merchant),
        Account::merchant_receivable(merchant),
    );
    let rules = PaymentRules {
        surplus: Some(SurplusTo::Tip),
        ..PaymentRules::default()
    };
    let invoice = world.create_for("spent", 1_000 * SAT, rules).await;
    let before = (world.balance(payable).await, world.balance(owes).await);
    let price = OnChainFact {
        amount_sat: 1_000,
        ..of(5, block(1))
    };
    let tip = OnChainFact {
        amount_sat: 50_000,
        ..of(6, block(1))
    };
    tell(&world, "spent", &[price.clone(), tip]).await;
    assert_eq!(world.balance(payable).await, before.0 + 51_000 * SAT);
    world.pay_out("spent").await;
    assert_eq!(world.balance(payable).await, 0);
    let price = OnChainFact {
        place: GONE,
        ..price
    };
    tell(&world, "spent", &[price]).await;
    assert_eq!(world.get(&invoice).await.state, InvoiceState::Settled);
    assert_eq!(world.balance(payable).await, 0);
    assert_eq!(world.balance(owes).await, before.1 + 1_000 * SAT);
    world.engine.stop().await.unwrap();
}
