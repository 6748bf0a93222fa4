//! A shop on a node that does as it is told, two cards, and money on its way.

use std::sync::Arc;

use flashkit::cards::{CardLimits, Charge, ChargeCard, TopUpCard};
use flashkit::invoices::{CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, InvoiceState};
use flashkit::ledger::Account;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::lightning::{Bolt11Details, LightningEvent, LightningNode, PaymentHash};
use flashkit::money::Price;
use flashkit::ports::SystemClock;
use flashkit::settlement::{Payout, RequestPayout};
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::wallet::Wallet;
use flashkit::{Answer, Engine, Error};

use crate::support::books::expect_sound;
use crate::support::scripted::ScriptedNode;
use crate::support::shop::{self, HeldCard, Merchant, SAT, UID, sat};
use crate::support::{key, until};

pub const OTHER_UID: &str = "04a39493cc8681";

pub struct Stage {
    pub engine: Engine,
    pub store: MemoryStore,
    pub node: ScriptedNode,
    pub customer: Arc<Wallet>,
    pub merchant: Merchant,
    pub card: HeldCard,
    pub other: HeldCard,
}

impl Stage {
    pub async fn new() -> Self {
        let store = MemoryStore::new(Arc::new(SystemClock));
        let network = SimulatedNetwork::new(Arc::new(SystemClock));
        let node = ScriptedNode::new(network.node(0));
        let engine = shop::engine_on(Arc::new(store.clone()), Some(Arc::new(node.clone()))).await;
        engine.start().await.unwrap();
        let customer = network.node(10_000_000 * SAT);
        customer.start().await.unwrap();
        let customer = Arc::new(Wallet::new(Arc::new(customer), None));
        tokio::spawn(customer.clone().run());
        let merchant = shop::merchant(&engine, "Cookshop").await;
        let card = shop::card(&engine, UID, CardLimits::default()).await;
        let other = shop::card(&engine, OTHER_UID, CardLimits::default()).await;
        Self {
            engine,
            store,
            node,
            customer,
            merchant,
            card,
            other,
        }
    }

    /// With so many sats on the card.
    pub async fn with(sats: i64) -> Self {
        let stage = Self::new().await;
        shop::top_up(
            &stage.engine,
            &stage.customer,
            &stage.card,
            "first",
            sat(sats),
        )
        .await;
        stage
    }

    pub async fn top_up(&self, name: &str, card: &HeldCard, price: Price) -> Invoice {
        let command = TopUpCard {
            key: key(name),
            card: card.id,
            price,
        };
        let cards = self.engine.cards();
        cards.top_up(&card.holder, command).await.unwrap().value
    }

    /// An invoice whose text the payer reads is free.
    pub async fn described(
        &self,
        name: &str,
        card: &HeldCard,
        price: Price,
        text: &str,
    ) -> Invoice {
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::TopUp { card: card.id },
            price: Some(price),
            description: text.to_owned(),
            expiry_seconds: 3_600,
            options: InvoiceOptions::default(),
        };
        let invoices = self.engine.invoices();
        invoices.create(&card.holder, command).await.unwrap().value
    }

    pub async fn state(&self, invoice: &Invoice) -> InvoiceState {
        let invoices = self.engine.invoices();
        let found = invoices.get(&self.engine.issuer(), invoice.id).await;
        found.unwrap().state
    }

    /// The node tells something, and the engine has dealt with it.
    pub async fn tell(&self, event: LightningEvent) {
        self.node.inject(event);
        until("the event is dealt with", || async {
            self.node.waiting() == 0
        })
        .await;
    }

    pub async fn claimable(&self, payment_hash: PaymentHash, amount_msat: i64) {
        self.tell(LightningEvent::Claimable {
            payment_hash,
            amount_msat,
            blocks_left: None,
        })
        .await;
    }

    pub async fn received(&self, payment_hash: PaymentHash, amount_msat: i64) {
        self.tell(LightningEvent::Received {
            payment_hash,
            amount_msat,
        })
        .await;
    }

    /// In msat, holds counted.
    pub async fn available(&self, account: Account) -> i64 {
        let balance = self.store.balance(&account).await.unwrap();
        i64::try_from(balance.available(account.kind().side())).unwrap()
    }

    pub async fn on_card(&self, card: &HeldCard) -> i64 {
        self.available(Account::card_balance(card.id)).await
    }

    pub async fn payable(&self) -> i64 {
        self.available(Account::merchant_payable(self.merchant.id))
            .await
    }

    pub async fn happened(&self, kind: &str) -> usize {
        let events = self.store.events(0, 1_000).await.unwrap();
        events.iter().filter(|event| event.kind == kind).count()
    }

    pub async fn charge(
        &self,
        name: &str,
        tap: String,
        price: Price,
    ) -> Result<Answer<Charge>, Error> {
        let command = ChargeCard {
            key: key(name),
            tap,
            price,
            reference: name.to_owned(),
            pin: None,
        };
        let cards = self.engine.cards();
        cards.charge(&self.merchant.till, command).await
    }

    /// The merchant is to be paid out to the customer's wallet.
    pub async fn payout(&self, name: &str, sats: i64) -> (Payout, PaymentHash) {
        let bolt11 = self.customer.invoice(sats * SAT, name).await.unwrap();
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        let command = RequestPayout {
            key: key(name),
            merchant: self.merchant.id,
            bolt11,
        };
        let settlement = self.engine.settlement();
        let payout = settlement
            .request_payout(&self.engine.issuer(), command)
            .await;
        (payout.unwrap().value, hash)
    }

    /// All that could have changed: documents are versioned by events, money by the journal.
    pub async fn picture(&self) -> String {
        let heads = self.store.chain_heads().await.unwrap();
        let balances = self.store.balances(None, usize::MAX).await.unwrap();
        let events = self.store.events(0, 1_000).await.unwrap();
        format!("{heads:?} {balances:?} {events:?}")
    }

    pub async fn stop(self) {
        expect_sound(&self.engine, "at the end").await;
        self.engine.stop().await.unwrap();
    }
}
