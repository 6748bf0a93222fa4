//! The borders of the rules, each from both sides; and rows as an older version wrote them.

use std::sync::Arc;

use flashkit::Engine;
use flashkit::ids::BatchId;
use flashkit::invoices::{
    ConfirmationTier, CreateInvoice, Custody, GivenAddress, Invoice, InvoiceOptions,
    InvoicePurpose, InvoiceState, OnChainFact, OnChainPlace, Outpoint, PaymentRules, Rail,
};
use flashkit::ledger::{Account, Batch, NewDocument, Side, Step};
use flashkit::lightning::LightningEvent;
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::ports::Clock;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::chain::nobodys_address;
use flashkit::testkit::clock::ManualClock;
use serde_json::Value;

use crate::support::books::expect;
use crate::support::scene::told;
use crate::support::scripted::ScriptedNode;
use crate::support::shop::{self, Merchant, SAT, sat};
use crate::support::{key, until};

struct Set {
    store: MemoryStore,
    clock: Arc<ManualClock>,
    node: ScriptedNode,
    engine: Engine,
    merchant: Merchant,
}

async fn set() -> Set {
    let clock = Arc::new(ManualClock::at(1_800_000_000_000));
    let store = MemoryStore::new(clock.clone());
    let node = ScriptedNode::new(SimulatedNetwork::new(clock.clone()).node(0));
    let builder = Engine::builder(Arc::new(store.clone()), shop::master())
        .network("regtest")
        .clock(clock.clone())
        .lightning(Arc::new(node.clone()));
    let engine = builder.open().await.unwrap();
    engine.start().await.unwrap();
    let merchant = shop::merchant(&engine, "Cookshop").await;
    Set {
        store,
        clock,
        node,
        engine,
        merchant,
    }
}

impl Set {
    async fn get(&self, invoice: &Invoice) -> Invoice {
        let issuer = self.engine.issuer();
        let found = self.engine.invoices().get(&issuer, invoice.id).await;
        found.unwrap().value
    }

    /// How many confirmations settle an invoice of so many sats that so many are paid to.
    async fn needed(&self, asked: i64, paid: i64) -> u32 {
        let tiers = [(10_000, 0), (100_000, 1), (1_000_000, 2), (5_000_000, 6)];
        self.needed_by(&tiers, asked, paid).await
    }

    /// The same by other tiers than those.
    async fn needed_by(&self, tiers: &[(i64, u32)], asked: i64, paid: i64) -> u32 {
        let tier = |(sats, confirmations): &(i64, u32)| ConfirmationTier {
            up_to_msat: sats * SAT,
            confirmations: *confirmations,
        };
        let name = format!("tier{}-{asked}x{paid}", tiers.len());
        let address = nobodys_address(&name);
        let command = CreateInvoice {
            key: key(&name),
            purpose: InvoicePurpose::Sale {
                merchant: self.merchant.id,
            },
            price: Some(sat(asked)),
            description: name.clone(),
            expiry_seconds: 600,
            options: InvoiceOptions {
                rails: vec![Rail::OnChain],
                address: Some(GivenAddress {
                    address: address.clone(),
                    custody: Custody::Operator,
                }),
                rules: Some(PaymentRules {
                    confirmations: tiers.iter().map(tier).collect(),
                    ..PaymentRules::NONE
                }),
                ..InvoiceOptions::default()
            },
        };
        let (invoices, issuer) = (self.engine.invoices(), self.engine.issuer());
        let made = invoices.create(&issuer, command).await.unwrap().value;
        let mut txid = [3; 32];
        txid[..8].copy_from_slice(&asked.to_be_bytes());
        txid[8..16].copy_from_slice(&paid.to_be_bytes());
        txid[16..24].copy_from_slice(&tiers.len().to_be_bytes());
        for confirmations in 0..=6 {
            let (height, hash) = (100, "ab".repeat(32));
            let place = match confirmations {
                0 => OnChainPlace::Mempool { replaceable: false },
                confirmations => OnChainPlace::Block {
                    height,
                    hash,
                    confirmations,
                },
            };
            let fact = OnChainFact {
                outpoint: Outpoint { txid, vout: 0 },
                amount_sat: paid,
                first_known_ms: self.clock.now_ms(),
                place,
            };
            invoices
                .observe_on_chain(&issuer, &address, &fact)
                .await
                .unwrap();
            match self.get(&made).await.state {
                InvoiceState::Settled => return confirmations,
                state => assert_eq!(state, InvoiceState::Processing),
            }
        }
        u32::MAX
    }

    async fn tell(&self, event: LightningEvent) {
        self.node.inject(event);
        until("it is dealt with", || async { self.node.waiting() == 0 }).await;
    }

    /// Writes an invoice the way it was written before payments were records.
    async fn as_before(&self, invoice: &Invoice, hold: Option<Value>) {
        let id = invoice.id.to_string();
        let found = self.store.document("invoice", &id).await.unwrap().unwrap();
        let of_old = [
            "id",
            "purpose",
            "amount_msat",
            "quote",
            "description",
            "payment_hash",
            "bolt11",
            "state",
            "created_at_ms",
            "expires_at_ms",
            "received_msat",
        ];
        let mut body: Value = found.body.read().unwrap();
        let fields = body.as_object_mut().unwrap();
        fields.retain(|name, _| of_old.contains(&name.as_str()));
        assert_eq!(fields.len(), of_old.len());
        if let Some(hold) = hold {
            fields.insert("hold".to_owned(), hold);
        }
        let state = fields["state"].as_str().unwrap().to_owned();
        let hash = invoice.payment_hash.to_string();
        let owner = invoice.purpose.owner_id();
        let step = Step::Put(NewDocument {
            collection: "invoice",
            id,
            read_version: found.version,
            body: body.into(),
            index_keys: vec![("payment_hash", hash), ("owner", owner), ("state", state)],
        });
        let batch = Batch {
            id: BatchId::from_parts(1, invoice.payment_hash.0[..10].try_into().unwrap()),
            command: None,
            steps: vec![step].into(),
        };
        self.store.commit(batch).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tier_of_confirmations_begins_and_ends_where_it_says() {
    let set = set().await;
    for (asked, paid, confirmations) in [
        (10_000, 10_000, 0),
        (10_001, 10_001, 1),
        (100_000, 100_000, 1),
        (100_001, 100_001, 2),
        (1_000_000, 1_000_000, 2),
        (1_000_001, 1_000_001, 6),
        (5_000_000, 5_000_000, 6),
        // Beyond the last tier its own holds.
        (5_000_001, 5_000_001, 6),
        // The greater of what is asked and what is paid counts.
        (10_000, 10_001, 1),
        (10_000, 1_000_001, 6),
    ] {
        let needed = set.needed(asked, paid).await;
        assert_eq!(needed, confirmations, "{asked} asked, {paid} paid");
    }
}

/// That little settles unconfirmed says nothing of more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_last_tier_nothing_settles_unconfirmed() {
    let set = set().await;
    let small = [(10_000, 0)];
    for (sats, confirmations) in [(10_000, 0), (10_001, 1), (100_000_000, 1)] {
        let needed = set.needed_by(&small, sats, sats).await;
        assert_eq!(needed, confirmations, "{sats}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_before_payments_were_records_are_read_and_go_on() {
    let set = set().await;
    let sale = async |name: &str| shop::sale(&set.engine, &set.merchant, name, sat(1_000)).await;
    let (open, coming, paid) = (sale("open").await, sale("coming").await, sale("paid").await);
    let amount_msat = 1_000 * SAT;
    let claimable = |invoice: &Invoice| LightningEvent::Claimable {
        payment_hash: invoice.payment_hash,
        amount_msat,
        blocks_left: None,
    };
    let received = |invoice: &Invoice| LightningEvent::Received {
        payment_hash: invoice.payment_hash,
        amount_msat,
    };
    for invoice in [&coming, &paid] {
        set.tell(claimable(invoice)).await;
    }
    set.tell(received(&paid)).await;
    let id = coming.id.to_string();
    let found = set.store.document("invoice", &id).await.unwrap().unwrap();
    let body: Value = found.body.read().unwrap();
    let hold = body["payments"][0]["holds"]["counted"].clone();
    assert!(hold.is_string());
    set.as_before(&open, None).await;
    set.as_before(&coming, Some(hold)).await;
    set.as_before(&paid, None).await;
    for (invoice, state, payments) in [
        (&open, InvoiceState::New, 0),
        (&coming, InvoiceState::Processing, 1),
        (&paid, InvoiceState::Settled, 1),
    ] {
        let now = set.get(invoice).await;
        assert_eq!((now.state, now.payments.len()), (state, payments));
        assert_eq!((now.lightning.len(), now.options.hold), (1, false));
    }
    // Each goes on as it would have: told twice, booked once.
    set.tell(claimable(&open)).await;
    for invoice in [&open, &open, &coming, &coming, &paid] {
        set.tell(received(invoice)).await;
    }
    for invoice in [&open, &coming, &paid] {
        let now = set.get(invoice).await;
        assert_eq!(
            (now.state, now.received_msat),
            (InvoiceState::Settled, amount_msat)
        );
    }
    let lines = [
        (Account::node_channels(), 3 * amount_msat),
        (Account::merchant_payable(set.merchant.id), 3 * amount_msat),
    ];
    expect(&set.engine, "booked once each", &lines).await;
}

/// One address has several spellings, and a text of another chain would take the money elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_one_of_this_network_and_one_in_all_its_spellings() {
    let set = set().await;
    let (engine, merchant) = (&set.engine, set.merchant.id);
    let issuer = engine.issuer();
    let ask = |name: &'static str, address: &str| {
        let options = InvoiceOptions {
            rails: vec![Rail::OnChain],
            address: Some(GivenAddress {
                address: address.to_owned(),
                custody: Custody::Operator,
            }),
            ..InvoiceOptions::default()
        };
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::Sale { merchant },
            price: Some(sat(10_000)),
            description: name.to_owned(),
            expiry_seconds: 600,
            options,
        };
        let (invoices, issuer) = (engine.invoices(), issuer.clone());
        async move { told(invoices.create(&issuer, command).await) }
    };
    let ours = nobodys_address("ours");
    let long = "b".repeat(1_000);
    for (name, text, code) in [
        ("hello", "hello", "invoice.bad_address"),
        ("nothing", "", "invoice.bad_address"),
        ("long", &long, "invoice.bad_address"),
        ("query", &format!("{ours}?amount=9"), "invoice.bad_address"),
        (
            "typed",
            &ours.replace("bcrt1q", "bcrt1p"),
            "invoice.bad_address",
        ),
        (
            "mainnet",
            "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
            "invoice.wrong_network",
        ),
        (
            "testnet",
            "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx",
            "invoice.wrong_network",
        ),
    ] {
        assert_eq!(ask(name, text).await.unwrap_err(), code, "{text}");
    }
    let invoice = ask("capitals", &ours.to_uppercase()).await.unwrap().value;
    let rail = invoice.on_chain.as_ref().unwrap();
    assert_eq!(rail.address, ours);
    assert_eq!(
        ask("again", &ours).await.unwrap_err(),
        "ledger.already_claimed"
    );
    // A host tells of it in either.
    let fact = OnChainFact {
        outpoint: Outpoint {
            txid: [7; 32],
            vout: 0,
        },
        amount_sat: 10_000,
        first_known_ms: invoice.created_at_ms,
        place: OnChainPlace::Mempool { replaceable: false },
    };
    let invoices = engine.invoices();
    for address in [ours.to_uppercase(), ours] {
        let told = invoices.observe_on_chain(&issuer, &address, &fact).await;
        assert!(told.unwrap(), "{address}");
    }
}

/// What came to an address before the invoice was made is nobody's payment of it: it waits for a person
/// where it is the operator's, and is nothing of these books where it is a merchant's. A miner's clock
/// may be two hours off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_an_invoice_was_made_does_not_settle_it() {
    const DAY_MS: i64 = 24 * 3_600_000;
    let set = set().await;
    let (invoices, issuer) = (set.engine.invoices(), set.engine.issuer());
    let mut waiting = 0;
    for (number, (before_ms, is_its, custody)) in [
        (DAY_MS, true, Custody::Operator),
        (DAY_MS + 1, false, Custody::Operator),
        (DAY_MS, true, Custody::Merchant),
        (DAY_MS + 1, false, Custody::Merchant),
        (365 * DAY_MS, false, Custody::Merchant),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("invoice-{number}");
        let address = nobodys_address(&name);
        let command = CreateInvoice {
            key: key(&name),
            purpose: InvoicePurpose::Sale {
                merchant: set.merchant.id,
            },
            price: Some(sat(20_000)),
            description: name.clone(),
            expiry_seconds: 600,
            options: InvoiceOptions {
                rails: vec![Rail::OnChain],
                address: Some(GivenAddress {
                    address: address.clone(),
                    custody,
                }),
                ..InvoiceOptions::default()
            },
        };
        let invoice = invoices.create(&issuer, command).await.unwrap().value;
        let place = OnChainPlace::Block {
            height: 100,
            hash: "ab".repeat(32),
            confirmations: 6,
        };
        let fact = OnChainFact {
            outpoint: Outpoint {
                txid: [u8::try_from(number).unwrap(); 32],
                vout: 0,
            },
            amount_sat: 20_000,
            first_known_ms: invoice.created_at_ms - before_ms,
            place,
        };
        // Told again it comes to the same.
        for _ in 0..2 {
            let told = invoices.observe_on_chain(&issuer, &address, &fact).await;
            assert!(told.unwrap());
        }
        let now = set.get(&invoice).await;
        let (state, payments) = match is_its {
            true => (InvoiceState::Settled, 1),
            false => (InvoiceState::New, 0),
        };
        assert_eq!((now.state, now.payments.len()), (state, payments), "{name}");
        if !is_its && custody == Custody::Operator {
            waiting += 20_000 * SAT;
        }
        let in_suspense = set.store.balance(&Account::suspense()).await.unwrap();
        assert_eq!(in_suspense.posted(Side::Credit), i128::from(waiting));
    }
}
