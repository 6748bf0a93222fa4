//! Many payments of one invoice: nobody can keep out whoever pays, and nobody gets by in many small
//! parts with fewer confirmations than in one.

use flashkit::invoices::{
    ConfirmationTier, Invoice, InvoicePaymentState, InvoiceState, OnChainFact, OnChainPlace,
    Outpoint, PaymentRules,
};
use flashkit::ledger::Account;
use flashkit::testkit::chain::nobodys_address;

use crate::machine::{START_MS, World};
use crate::support::shop::{self, SAT, sat};
use crate::traps::{GONE, MEMPOOL, block};

impl World {
    async fn output(&self, name: &str, number: u8, amount_sat: i64, place: OnChainPlace) {
        let fact = OnChainFact {
            outpoint: Outpoint {
                txid: [number; 32],
                vout: u32::try_from(name.len()).unwrap(),
            },
            amount_sat,
            first_known_ms: START_MS + i64::from(number),
            place,
        };
        let (issuer, address) = (self.engine.issuer(), nobodys_address(name));
        let invoices = self.engine.invoices();
        let told = invoices.observe_on_chain(&issuer, &address, &fact).await;
        assert!(told.unwrap());
    }

    async fn states(&self, invoice: &Invoice) -> Vec<InvoicePaymentState> {
        let found = self.get(invoice).await;
        found.payments.iter().map(|paid| paid.state).collect()
    }
}

#[tokio::test]
async fn neither_dust_nor_what_is_replaced_again_and_again_keeps_out_whoever_pays() {
    let world = World::new().await;
    let price = 1_000_000;
    for (name, amount_sat, last) in [("dust", 330, block(1)), ("replaced..", price, GONE)] {
        let invoice = world
            .create_for(name, price * SAT, PaymentRules::NONE)
            .await;
        let before = world.balance(Account::suspense()).await;
        for number in 0..=110 {
            world.output(name, number, amount_sat, MEMPOOL).await;
            world.output(name, number, amount_sat, last.clone()).await;
        }
        let crowded = world.get(&invoice).await;
        assert_eq!(crowded.payments.len(), 50, "{name}");
        // What found no place is there all the same, and waits for a person.
        let in_block = matches!(last, OnChainPlace::Block { .. });
        let counted = if in_block { 50 * amount_sat * SAT } else { 0 };
        let waits = if in_block { 61 * amount_sat * SAT } else { 0 };
        assert_eq!(crowded.received_msat, counted, "{name}");
        assert_eq!(
            world.balance(Account::suspense()).await - before,
            waits,
            "{name}"
        );
        world.output(name, 200, price, MEMPOOL).await;
        world.output(name, 200, price, block(1)).await;
        let paid = world.get(&invoice).await;
        assert_eq!(paid.state, InvoiceState::Settled, "{name}");
        assert_eq!(paid.received_msat, price * SAT);
    }
    world.engine.stop().await.unwrap();
}

fn tiers() -> PaymentRules {
    let tier = |up_to_sat: i64, confirmations| ConfirmationTier {
        up_to_msat: up_to_sat * SAT,
        confirmations,
    };
    PaymentRules {
        confirmations: vec![tier(10_000, 0), tier(100_000, 1), tier(1_000_000, 3)],
        ..PaymentRules::NONE
    }
}

#[tokio::test]
async fn what_comes_in_parts_needs_the_confirmations_of_all_of_it() {
    use InvoicePaymentState::{Pending, Settled, Void};
    let world = World::new().await;
    // Whoever pays chooses how much: ten parts that nobody waits for are one that is waited for.
    let open = world.create_priced("open", None, tiers()).await;
    world.output("open", 1, 4_000, MEMPOOL).await;
    world.output("open", 2, 6_000, MEMPOOL).await;
    assert_eq!(world.states(&open).await, [Settled, Settled]);
    world.output("open", 3, 4_000, MEMPOOL).await;
    assert_eq!(world.states(&open).await, [Settled, Settled, Pending]);
    // Where another is gone, what is left is less.
    world.output("open", 1, 4_000, GONE).await;
    assert_eq!(world.states(&open).await, [Void, Settled, Settled]);
    world.output("open", 4, 95_000, block(1)).await;
    assert_eq!(world.states(&open).await, [Void, Settled, Settled, Pending]);
    // What had enough when it was settled stays so, as long as it has no less.
    world.output("open", 3, 4_000, block(1)).await;
    world.output("open", 4, 95_000, block(2)).await;
    assert_eq!(world.states(&open).await, [Void, Settled, Settled, Pending]);
    world.output("open", 4, 95_000, block(3)).await;
    assert_eq!(world.states(&open).await, [Void, Settled, Settled, Settled]);
    // Out of its block it has less than all together need.
    world.output("open", 3, 4_000, MEMPOOL).await;
    assert_eq!(world.states(&open).await, [Void, Settled, Pending, Settled]);
    // By the price where that is more than what came, and by what came where that is more.
    let dear = world.create_for("a-dear", 90_000 * SAT, tiers()).await;
    world.output("a-dear", 1, 5_000, MEMPOOL).await;
    assert_eq!(world.states(&dear).await, [Pending]);
    world.output("a-dear", 1, 5_000, block(1)).await;
    assert_eq!(world.states(&dear).await, [Settled]);
    let cheap = world.create_for("the-cheap", 9_000 * SAT, tiers()).await;
    world.output("the-cheap", 1, 20_000, MEMPOOL).await;
    assert_eq!(world.states(&cheap).await, [Pending]);
    let two = world.create_for("two-parts", 9_000 * SAT, tiers()).await;
    world.output("two-parts", 2, 6_000, MEMPOOL).await;
    world.output("two-parts", 3, 6_000, MEMPOOL).await;
    assert_eq!(world.states(&two).await, [Settled, Pending]);
    world.engine.stop().await.unwrap();
}

/// The node says that more came than was offered, or less: what was accepted is the invoice's, and
/// the rest is nobody's.
#[tokio::test]
async fn what_arrives_beyond_what_was_accepted_waits_in_suspense() {
    let world = World::new().await;
    let suspense = Account::suspense();
    for (name, more, state) in [
        ("more", 5 * SAT, InvoiceState::Settled),
        ("less", -5 * SAT, InvoiceState::Invalid),
    ] {
        let before = world.balance(suspense).await;
        let payable = Account::merchant_payable(world.merchant.id);
        let has = world.balance(payable).await;
        let sale = shop::sale(&world.engine, &world.merchant, name, sat(10_000)).await;
        world.claimable(sale.payment_hash, 10_000 * SAT).await;
        let came = 10_000 * SAT + more;
        world.received(sale.payment_hash, came).await;
        let found = world.get(&sale).await;
        assert_eq!(found.state, state, "{name}");
        let taken = came.min(10_000 * SAT);
        assert_eq!(found.received_msat, taken, "{name}");
        assert_eq!(world.balance(payable).await - has, taken, "{name}");
        assert_eq!(
            world.balance(suspense).await - before,
            came - taken,
            "{name}"
        );
    }
    world.engine.stop().await.unwrap();
}
