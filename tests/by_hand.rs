//! What only a person can decide: payments that never arrive, and money that matches nothing.

mod support;

use std::sync::Arc;

use flashkit::Engine;
use flashkit::cards::CardLimits;
use flashkit::invoices::{GiveUpInvoice, Invoice, InvoiceState};
use flashkit::ledger::Account;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::lightning::{LightningEvent, PaymentHash, PaymentState};
use flashkit::ports::SystemClock;
use flashkit::store::MemoryStore;
use flashkit::treasury::{AssignSuspense, SuspenseItem, SuspenseTarget};
use support::books::expect;
use support::scripted::ScriptedNode;
use support::shop::{self, Merchant, SAT, sat};
use support::{key, until};

struct Set {
    engine: Engine,
    node: ScriptedNode,
    merchant: Merchant,
}

async fn set() -> Set {
    let network = SimulatedNetwork::new(Arc::new(SystemClock));
    let node = ScriptedNode::new(network.node(0));
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let engine = shop::engine_on(store, Some(Arc::new(node.clone()))).await;
    engine.start().await.unwrap();
    let merchant = shop::merchant(&engine, "Cookshop").await;
    Set {
        engine,
        node,
        merchant,
    }
}

impl Set {
    async fn tell(&self, event: LightningEvent) {
        self.node.inject(event);
        until("the event is dealt with", || async {
            self.node.waiting() == 0
        })
        .await;
    }

    async fn claimable(&self, invoice: &Invoice, amount_msat: i64, blocks_left: Option<u32>) {
        self.tell(LightningEvent::Claimable {
            payment_hash: invoice.payment_hash,
            amount_msat,
            blocks_left,
        })
        .await;
    }

    async fn received(&self, payment_hash: PaymentHash, amount_msat: i64) {
        let event = LightningEvent::Received {
            payment_hash,
            amount_msat,
        };
        self.tell(event).await;
    }

    async fn state(&self, invoice: &Invoice) -> InvoiceState {
        let issuer = self.engine.issuer();
        let found = self.engine.invoices().get(&issuer, invoice.id).await;
        found.unwrap().state
    }

    async fn give_up(&self, name: &str, invoice: &Invoice) -> Result<InvoiceState, &'static str> {
        let command = GiveUpInvoice {
            key: key(name),
            invoice: invoice.id,
            reason: "its sender has the money back".to_owned(),
        };
        let issuer = self.engine.issuer();
        let given_up = self.engine.invoices().give_up(&issuer, command).await;
        given_up
            .map(|invoice| invoice.state)
            .map_err(|error| error.code())
    }

    async fn suspense(&self) -> Vec<SuspenseItem> {
        let issuer = self.engine.issuer();
        let found = self.engine.treasury().suspense(&issuer, None, 10).await;
        found.unwrap().value
    }

    async fn assign(
        &self,
        name: &str,
        item: &SuspenseItem,
        to: SuspenseTarget,
    ) -> Result<(), &'static str> {
        let command = AssignSuspense {
            key: key(name),
            item: item.id,
            to,
            reason: "a letter".to_owned(),
        };
        let issuer = self.engine.issuer();
        let treasury = self.engine.treasury();
        let assigned = treasury.assign_suspense(&issuer, command).await;
        assigned.map(drop).map_err(|error| error.code())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_never_arrives_is_given_up_and_found_in_suspense_if_it_does() {
    let set = set().await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale", sat(1_000)).await;
    assert_eq!(set.give_up("0", &sale).await, Err("invoice.not_processing"));
    // The node holds nothing under this hash: as if its sender had it back by now.
    set.claimable(&sale, sale.amount_msat, None).await;
    assert_eq!(set.state(&sale).await, InvoiceState::Processing);
    assert_eq!(set.give_up("1", &sale).await, Ok(InvoiceState::Invalid));
    assert_eq!(set.give_up("2", &sale).await, Err("invoice.not_processing"));
    expect(&set.engine, "nothing came", &[]).await;
    // Told twice, booked once.
    for _ in 0..2 {
        set.received(sale.payment_hash, sale.amount_msat).await;
    }
    let lines = [
        (Account::node_channels(), 1_000 * SAT),
        (Account::suspense(), 1_000 * SAT),
    ];
    expect(&set.engine, "it came after all", &lines).await;
    let items = set.suspense().await;
    assert_eq!(items.len(), 1);
    let merchant = set.merchant.id;
    let to = SuspenseTarget::Merchant { merchant };
    assert_eq!(set.assign("a", &items[0], to).await, Ok(()));
    assert_eq!(
        set.assign("a", &items[0], to).await,
        Ok(()),
        "the same command"
    );
    assert_eq!(
        set.assign("b", &items[0], SuspenseTarget::Operator).await,
        Err("treasury.suspense_assigned")
    );
    assert_eq!(set.suspense().await, []);
    let lines = [
        (Account::node_channels(), 1_000 * SAT),
        (Account::merchant_payable(merchant), 1_000 * SAT),
    ];
    expect(&set.engine, "assigned once", &lines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_one_payment_is_taken_another_amount_goes_back() {
    let set = set().await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale", sat(1_000)).await;
    set.claimable(&sale, sale.amount_msat, Some(40)).await;
    assert_eq!(set.state(&sale).await, InvoiceState::Processing);
    set.claimable(&sale, 2 * sale.amount_msat, Some(40)).await;
    let claimed = set.node.claimed.lock().unwrap().clone();
    assert!(claimed.contains(&sale.amount_msat));
    assert!(!claimed.contains(&(2 * sale.amount_msat)), "{claimed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_at_its_deadline_is_not_taken() {
    let set = set().await;
    let sale = shop::sale(&set.engine, &set.merchant, "sale", sat(1_000)).await;
    set.claimable(&sale, sale.amount_msat, Some(1)).await;
    assert_eq!(set.state(&sale).await, InvoiceState::New);
    set.claimable(&sale, sale.amount_msat, Some(2)).await;
    assert_eq!(set.state(&sale).await, InvoiceState::Processing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_without_reason_is_taken_from_whom_it_belongs_to() {
    let set = set().await;
    let card = shop::card(&set.engine, shop::UID, CardLimits::default()).await;
    set.received(PaymentHash([1; 32]), 5_000).await;
    let items = set.suspense().await;
    let to = SuspenseTarget::Card { card: card.id };
    assert_eq!(set.assign("a", &items[0], to).await, Ok(()));
    // A payment of 4,000 that nobody here asked for is in the node's record.
    let hash = PaymentHash([2; 32]);
    set.node.remember(hash, PaymentState::Succeeded, 4_000);
    set.tell(LightningEvent::Sent {
        payment_hash: hash,
        fee_msat: Some(1_500),
    })
    .await;
    let items = set.suspense().await;
    assert_eq!(items[0].amount_msat, -5_500);
    assert_eq!(
        set.assign("b", &items[0], to).await,
        Err("ledger.insufficient_funds")
    );
    let to = SuspenseTarget::Operator;
    assert_eq!(set.assign("c", &items[0], to).await, Ok(()));
    let lines = [
        (Account::node_channels(), -500),
        (Account::card_balance(card.id), 5_000),
        (Account::operator_capital(), -5_500),
    ];
    expect(&set.engine, "the operator bears it", &lines).await;
}
