//! A card, a till and somebody else's wallet, whose payments wait until the test decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use flashkit::cards::lnurl::{LnurlReply, LnurlRequest};
use flashkit::cards::{CardLimits, CardPayment, CardPaymentState, PayWithCard};
use flashkit::ids::CardPaymentId;
use flashkit::ledger::Account;
use flashkit::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use flashkit::lightning::{
    Bolt11Details, InvoiceRequest, LightningNode, PaymentHash, PaymentState, Preimage,
};
use flashkit::ports::SystemClock;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::wallet::Wallet;
use flashkit::{CardPaymentSettings, Engine, Settings};
use serde_json::Value;

use crate::support::books::expect_sound;
use crate::support::scene::told;
use crate::support::scripted::ScriptedNode;
use crate::support::shop::{self, HeldCard, Merchant, SAT, sat};
use crate::support::{key, until};

/// What is on the card at first, in sats.
pub const ON_CARD: i64 = 50_000;

pub struct Set {
    pub store: Arc<dyn Store>,
    pub engine: Engine,
    pub node: ScriptedNode,
    simulated: SimulatedNode,
    pub network: SimulatedNetwork,
    pub customer: Arc<Wallet>,
    pub merchant: Merchant,
    pub card: HeldCard,
    /// Somebody else's node: what is sent to it waits.
    pub payee: SimulatedNode,
    preimages: Mutex<HashMap<PaymentHash, Preimage>>,
}

pub fn settings() -> Settings {
    Settings {
        unknown_retry_ms: 200,
        job_lease_ms: 1_000,
        tap_url: "pay.example.com/boltcard".to_owned(),
        card_payments: CardPaymentSettings {
            wait_ms: 150,
            ..CardPaymentSettings::default()
        },
        ..Settings::default()
    }
}

/// An engine on a store and a node.
pub async fn open(store: Arc<dyn Store>, node: ScriptedNode, settings: Settings) -> Engine {
    let engine = Engine::builder(store, shop::master())
        .network("regtest")
        .rates(shop::rates())
        .settings(settings)
        .lightning(Arc::new(node))
        .open()
        .await
        .unwrap();
    engine.start().await.unwrap();
    engine
}

impl Set {
    pub async fn new(limits: CardLimits) -> Self {
        Self::with(limits, settings()).await
    }

    pub async fn with(limits: CardLimits, settings: Settings) -> Self {
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        Self::on(store, limits, settings).await
    }

    pub async fn on(store: Arc<dyn Store>, limits: CardLimits, settings: Settings) -> Self {
        let network = SimulatedNetwork::new(Arc::new(SystemClock));
        let simulated = network.node(0);
        let node = ScriptedNode::new(simulated.clone());
        let engine = open(store.clone(), node.clone(), settings).await;
        let customer = network.node(10_000_000 * SAT);
        customer.start().await.unwrap();
        let customer = Arc::new(Wallet::new(Arc::new(customer), None));
        tokio::spawn(customer.clone().run());
        let payee = network.node(0);
        payee.start().await.unwrap();
        let merchant = shop::merchant(&engine, "Cookshop").await;
        let card = shop::card(&engine, shop::UID, limits).await;
        shop::top_up(&engine, &customer, &card, "top-up", sat(ON_CARD)).await;
        Self {
            store,
            engine,
            node,
            simulated,
            network,
            customer,
            merchant,
            card,
            payee,
            preimages: Mutex::default(),
        }
    }

    /// An invoice of the other wallet; without an amount for 0 sats.
    pub async fn bill(&self, sats: i64) -> String {
        let made = u64::try_from(self.preimages.lock().unwrap().len()).unwrap();
        let mut bytes = [9; 32];
        bytes[..8].copy_from_slice(&made.to_be_bytes());
        let preimage = Preimage::new(bytes);
        let payment_hash = preimage.payment_hash();
        self.preimages
            .lock()
            .unwrap()
            .insert(payment_hash, preimage);
        let request = InvoiceRequest {
            payment_hash,
            amount_msat: (sats > 0).then_some(sats * SAT),
            description: "elsewhere".to_owned(),
            description_hash: None,
            expiry_seconds: 3_600,
        };
        self.payee.create_invoice(request).await.unwrap()
    }

    /// The other wallet takes what waits.
    pub async fn take(&self, bolt11: &str) {
        self.comes(bolt11).await;
        self.take_now(bolt11).await;
    }

    /// The same with what has come, if anything has.
    pub async fn take_now(&self, bolt11: &str) {
        let hash = hash(bolt11);
        let preimage = self.preimages.lock().unwrap()[&hash].clone();
        self.payee.claim(hash, preimage, 0).await.unwrap();
    }

    /// The other wallet gives back what waits.
    pub async fn give_back(&self, bolt11: &str) {
        self.comes(bolt11).await;
        self.give_back_now(bolt11).await;
    }

    /// Whoever pays may be answered before it is sent.
    async fn comes(&self, bolt11: &str) {
        crate::support::until("it comes to the other wallet", async || {
            let record = self.payee.record(hash(bolt11));
            record.is_some_and(|record| record.state != PaymentState::Failed)
        })
        .await;
    }

    pub async fn give_back_now(&self, bolt11: &str) {
        self.payee.fail(hash(bolt11)).await.unwrap();
    }

    pub fn has_arrived(&self, bolt11: &str) -> bool {
        let record = self.payee.record(hash(bolt11));
        record.is_some_and(|record| record.state == PaymentState::Succeeded)
    }

    /// How a payment to this engine stands at its node.
    pub fn node_record(&self, bolt11: &str) -> Option<PaymentState> {
        let record = self.simulated.record(hash(bolt11));
        record.map(|record| record.state)
    }

    pub async fn pay(&mut self, name: &str, bolt11: &str) -> Result<CardPayment, &'static str> {
        let tap = self.card.chip.tap();
        self.pay_tap(name, &tap, bolt11).await
    }

    pub async fn pay_tap(
        &self,
        name: &str,
        tap: &str,
        bolt11: &str,
    ) -> Result<CardPayment, &'static str> {
        let command = PayWithCard {
            key: key(name),
            tap: tap.to_owned(),
            bolt11: bolt11.to_owned(),
            pin: None,
        };
        let cards = self.engine.cards();
        told(cards.pay(&self.merchant.till, command).await).map(|answer| answer.value)
    }

    pub async fn payment(&self, id: CardPaymentId) -> CardPayment {
        let cards = self.engine.cards();
        let found = cards.get_payment(&self.engine.issuer(), id).await;
        found.unwrap().value
    }

    pub async fn until_state(&self, id: CardPaymentId, state: CardPaymentState) -> CardPayment {
        until("the payment stands as it should", || async {
            self.payment(id).await.state == state
        })
        .await;
        self.payment(id).await
    }

    /// What the card can spend, in msat.
    pub async fn balance(&self) -> i64 {
        let cards = self.engine.cards();
        let card = cards.get(&self.card.holder, self.card.id).await;
        card.unwrap().balance_msat
    }

    /// What is used of the card's first limit.
    pub async fn used(&self) -> i64 {
        let cards = self.engine.cards();
        let card = cards.get(&self.card.holder, self.card.id).await;
        card.unwrap().usage[0].used
    }

    pub async fn payable(&self) -> i64 {
        let account = Account::merchant_payable(self.merchant.id);
        let balance = self.store.balance(&account).await.unwrap();
        i64::try_from(balance.available(account.kind().side())).unwrap()
    }

    pub async fn ask(&self, url: &str) -> LnurlReply {
        let request = LnurlRequest {
            url: url.to_owned(),
            till: None,
            source: None,
        };
        self.engine.cards().answer(&request).await
    }

    /// A JSON answer with its status.
    pub async fn json(&self, url: &str) -> (u16, Value) {
        let reply = self.ask(url).await;
        assert_eq!(reply.content_type, "application/json; charset=utf-8");
        (reply.status, serde_json::from_str(&reply.body).unwrap())
    }

    pub async fn stop(self, step: &str) {
        expect_sound(&self.engine, step).await;
        let (reports, issuer) = (self.engine.reports(), self.engine.issuer());
        let verdict = reports.verify_journal(&issuer, &[]).await.unwrap();
        assert_eq!(verdict.problems, [], "{step}");
        let audit = reports.audit(&issuer).await.unwrap();
        let explained = audit.controls.iter().all(|control| control.is_explained());
        assert_eq!(audit.untied, [], "{step}");
        assert!(
            explained && audit.differences.is_empty(),
            "{step}: {audit:?}"
        );
        self.engine.stop().await.unwrap();
    }
}

pub fn hash(bolt11: &str) -> PaymentHash {
    bolt11.parse::<Bolt11Details>().unwrap().payment_hash
}
