//! Every way a payment can arrive, on two real Lightning nodes and the chain they are on: the one
//! in this process, or the real one that `BITCOIND_EXE` names. One start of the nodes serves all.
#![cfg(all(
    feature = "ldk",
    feature = "chain",
    feature = "sqlite",
    feature = "testkit"
))]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use flashkit::cards::{CardLimits, CardPaymentState, PayWithCard};
use flashkit::chain::bitcoin::bip32::{DerivationPath, Xpriv, Xpub};
use flashkit::chain::bitcoin::hashes::{Hash, sha256};
use flashkit::chain::bitcoin::secp256k1::{Secp256k1, SecretKey};
use flashkit::chain::bitcoin::{Network, Psbt};
use flashkit::chain::{Bitcoind, ChainSource, Esplora};
use flashkit::ids::{RefundId, WalletId};
use flashkit::invoices::{
    CancelInvoice, CaptureInvoice, ConfirmationTier, CreateInvoice, Invoice, InvoiceOptions,
    InvoicePaymentState, InvoicePurpose, InvoiceState, PaymentRules, Rail,
};
use flashkit::ledger::Account;
use flashkit::lightning::{Bolt11Details, LightningNode};
use flashkit::ports::{Clock, SystemClock};
use flashkit::refunds::{CreateRefund, RefundAmount, RefundFeeBearer, RefundState, RefundTo};
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::chain::{ChainEndpoint, TestChain, from_env};
use flashkit::testkit::local_network::{self, LocalNode};
use flashkit::testkit::wallet::Wallet as Customer;
use flashkit::treasury::CapitalAccount;
use flashkit::wallets::{
    AddWallet, BumpSpend, NewAddress, PrepareSpend, Spend, SpendOutput, SpendTarget, SubmitSpend,
    WalletOwner, WalletSource, XpubKind,
};
use flashkit::{CardPaymentSettings, Engine, Settings};
use lightning_invoice::{InvoiceBuilder, PaymentSecret};
use support::books::node_agrees;
use support::shop::{self, Merchant, SAT, sat};
use support::{key, until};

/// For how long somebody who is paid may lock a card's money up.
const LOCK_BLOCKS: u32 = 72;

/// The engine's time, which can be ahead of the world's.
struct Ahead(AtomicI64);

impl Clock for Ahead {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + self.0.load(Ordering::SeqCst)
    }

    fn steady_ms(&self) -> i64 {
        SystemClock.steady_ms() + self.0.load(Ordering::SeqCst)
    }
}

struct World {
    chain: Arc<dyn TestChain>,
    clock: Arc<Ahead>,
    engine: Engine,
    node: Arc<flashkit::lightning::ldk::LdkNode>,
    world: Arc<flashkit::lightning::ldk::LdkNode>,
    customer: Arc<Customer>,
    merchant: Merchant,
}

fn source(chain: &dyn TestChain) -> Arc<dyn ChainSource> {
    match chain.source() {
        ChainEndpoint::Esplora { url } => Arc::new(Esplora::new(&url).unwrap()),
        ChainEndpoint::BitcoindRpc {
            host,
            port,
            user,
            password,
        } => Arc::new(Bitcoind::new(&host, port, &user, &password).unwrap()),
    }
}

async fn engine(chain: &dyn TestChain, node: &LocalNode, clock: Arc<Ahead>) -> Engine {
    let settings = Settings {
        unknown_retry_ms: 200,
        chain_poll_ms: 60_000,
        card_payments: CardPaymentSettings {
            max_lock_blocks: LOCK_BLOCKS,
            ..CardPaymentSettings::default()
        },
        ..Settings::default()
    };
    let builder = Engine::builder(Arc::new(node.store.clone()), shop::master());
    let builder = builder.network("regtest").clock(clock).settings(settings);
    let builder = builder.chain(source(chain)).lightning(node.node.clone());
    let engine = builder.open().await.unwrap();
    engine.start().await.unwrap();
    engine
}

impl World {
    async fn open(folder: &Path) -> Self {
        let chain = from_env().await.unwrap();
        let clock = Arc::new(Ahead(AtomicI64::new(0)));
        let operator = operator(folder, &*chain);
        let world = LocalNode::open(&folder.join("world.db"), [9; 64], chain.source()).unwrap();
        let engine = engine(&*chain, &operator, clock.clone()).await;
        world.node.start().await.unwrap();
        let (ours, address) = (&operator.node, &operator.address);
        local_network::connect(&*chain, ours, address, &world.node, |_| {})
            .await
            .unwrap();
        let customer = Arc::new(Customer::new(world.node.clone(), None));
        tokio::spawn(customer.clone().run());
        let merchant = shop::merchant(&engine, "Cookshop").await;
        let world = Self {
            chain,
            clock,
            engine,
            node: operator.node,
            world: world.node,
            customer,
            merchant,
        };
        add(&world.engine, WalletSource::Node).await;
        let has = world.node.balances().await.unwrap();
        for (account, name, amount) in [
            (CapitalAccount::Channels, "channels", has.channels_msat),
            (CapitalAccount::Onchain, "onchain", has.onchain_msat),
        ] {
            shop::capital(&world.engine, account, name, amount).await;
        }
        world
    }

    async fn invoice(&self, name: &str, rules: PaymentRules, hold: bool) -> Invoice {
        let tier = ConfirmationTier {
            up_to_msat: i64::MAX,
            confirmations: 1,
        };
        let rails = if hold {
            vec![Rail::Lightning]
        } else {
            vec![Rail::Lightning, Rail::OnChain]
        };
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::Sale {
                merchant: self.merchant.id,
            },
            price: Some(sat(10_000)),
            description: name.to_owned(),
            expiry_seconds: 3_600,
            options: InvoiceOptions {
                rails,
                hold,
                rules: Some(PaymentRules {
                    confirmations: vec![tier],
                    ..rules
                }),
                ..InvoiceOptions::default()
            },
        };
        let made = self
            .engine
            .invoices()
            .create(&self.engine.issuer(), command)
            .await;
        made.unwrap().value
    }

    async fn now(&self, invoice: &Invoice) -> Invoice {
        let found = self
            .engine
            .invoices()
            .get(&self.engine.issuer(), invoice.id)
            .await;
        found.unwrap().value
    }

    async fn fund(&self, invoice: &Invoice, sats: u64) {
        self.chain.fund(&address(invoice), sats).await.unwrap();
        self.look().await;
    }

    async fn mine(&self, blocks: u32) {
        self.chain.mine(blocks).await.unwrap();
        self.look().await;
    }

    async fn look(&self) {
        look(&self.engine).await;
    }

    async fn until(&self, invoice: &Invoice, state: InvoiceState) -> Invoice {
        until(&format!("{}: {state:?}", invoice.description), || async {
            self.engine.run_due_jobs().await.unwrap();
            self.now(invoice).await.state == state
        })
        .await;
        self.now(invoice).await
    }

    /// The books have what the merchant is owed, and what nobody is.
    async fn owed(&self, merchant_sats: i64, nobodys_sats: i64) {
        let payable = Account::merchant_payable(self.merchant.id);
        for (account, sats) in [
            (payable, merchant_sats),
            (Account::suspense(), nobodys_sats),
        ] {
            let books = self
                .engine
                .reports()
                .trial_balance(&self.engine.issuer())
                .await
                .unwrap();
            assert!(books.is_balanced());
            let line = books.lines.iter().find(|line| line.account == account);
            let found = line.map_or(0, |line| line.balance);
            assert_eq!(found, i128::from(sats * SAT), "{account}");
        }
    }
}

fn operator(folder: &Path, chain: &dyn TestChain) -> LocalNode {
    let seed = *shop::master().node_entropy();
    LocalNode::open(&folder.join("books.db"), seed, chain.source()).unwrap()
}

async fn look(engine: &Engine) {
    while !engine
        .wallets()
        .look_now(&engine.issuer())
        .await
        .unwrap()
        .is_complete
    {}
}

async fn add(engine: &Engine, source: WalletSource) -> WalletId {
    let command = AddWallet {
        key: key("wallet"),
        owner: WalletOwner::Operator,
        name: "wallet".to_owned(),
        source,
        used_addresses: 0,
        // Two wallets have the same keys, and the second begins after what the first was paid.
        birthday_height: Some(1),
    };
    engine
        .wallets()
        .add(&engine.issuer(), command)
        .await
        .unwrap()
        .value
        .id
}

fn address(invoice: &Invoice) -> String {
    invoice.on_chain.as_ref().unwrap().address.clone()
}

fn asks_for_rest() -> PaymentRules {
    PaymentRules {
        ask_for_rest: true,
        ..PaymentRules::NONE
    }
}

/// Two parts on chain, and the rest over Lightning by a text of its own.
async fn parts_and_both_rails(world: &World) {
    let invoice = world.invoice("parts", asks_for_rest(), false).await;
    world.fund(&invoice, 3_000).await;
    world.mine(1).await;
    let under = world.now(&invoice).await;
    assert_eq!(
        (under.state, under.flags.underpaid_msat),
        (InvoiceState::New, 7_000 * SAT)
    );
    world.fund(&invoice, 2_000).await;
    world.mine(1).await;
    until("a text for the rest", || async {
        world.engine.run_due_jobs().await.unwrap();
        world
            .now(&invoice)
            .await
            .lightning
            .last()
            .unwrap()
            .amount_msat
            == Some(5_000 * SAT)
    })
    .await;
    let rest = world.now(&invoice).await;
    world.customer.pay(&rest.bolt11).await.unwrap();
    let settled = world.until(&invoice, InvoiceState::Settled).await;
    assert_eq!(
        (settled.received_msat, settled.payments.len()),
        (10_000 * SAT, 3)
    );
    world.owed(10_000, 0).await;
}

/// More than was asked for waits for a person, and so does what comes late; over Lightning what
/// comes late goes back at no cost.
async fn over_and_late(world: &World) {
    let over = world.invoice("over", PaymentRules::NONE, false).await;
    world.fund(&over, 12_000).await;
    world.mine(1).await;
    let over = world.now(&over).await;
    assert_eq!(
        (over.state, over.flags.overpaid_msat),
        (InvoiceState::Settled, 2_000 * SAT)
    );
    world.owed(20_000, 2_000).await;
    let late = world.invoice("late", PaymentRules::NONE, false).await;
    world.clock.0.fetch_add(2 * 3_600_000, Ordering::SeqCst);
    assert!(world.customer.pay(&late.bolt11).await.is_err());
    world.fund(&late, 10_000).await;
    world.mine(1).await;
    let late = world.now(&late).await;
    assert_eq!(
        (late.state, late.flags.late_msat),
        (InvoiceState::Expired, 10_000 * SAT)
    );
    world.owed(20_000, 12_000).await;
}

/// A 3-block reorg takes a settled payment away, and the next block gives it back.
async fn reorg(world: &World) {
    let invoice = world.invoice("reorg", PaymentRules::NONE, false).await;
    world.fund(&invoice, 10_000).await;
    world.mine(3).await;
    assert_eq!(world.now(&invoice).await.state, InvoiceState::Settled);
    world.owed(30_000, 12_000).await;
    world.chain.reorg(3).await.unwrap();
    world.look().await;
    let gone = world.now(&invoice).await;
    let found = (gone.state, gone.flags.reorged_msat);
    assert_eq!(found, (InvoiceState::Processing, 10_000 * SAT));
    world.owed(20_000, 12_000).await;
    world.mine(1).await;
    assert_eq!(world.now(&invoice).await.state, InvoiceState::Settled);
    world.owed(30_000, 12_000).await;
}

/// Somebody with a wallet of keys, who replaces what was paid, or spends it twice.
struct Payer {
    engine: Engine,
    wallet: WalletId,
    master: Xpriv,
}

impl Payer {
    /// With the keys of a number, and a coin on the first address of them where one is asked for.
    async fn new(world: &World, keys: u8, has_coin: bool) -> Self {
        let master = Xpriv::new_master(Network::Regtest, &[keys; 32]).unwrap();
        let secp = Secp256k1::new();
        let path: DerivationPath = "84'/1'/0'".parse().unwrap();
        let account = Xpub::from_priv(&secp, &master.derive_priv(&secp, &path).unwrap());
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let builder = Engine::builder(store, shop::master()).network("regtest");
        let engine = builder.chain(source(&*world.chain)).open().await.unwrap();
        let source = WalletSource::Xpub {
            xpub: format!("[{}/84'/1'/0']{account}", master.fingerprint(&secp)),
            script: Some(XpubKind::SegwitV0),
        };
        let wallet = add(&engine, source).await;
        let payer = Self {
            engine,
            wallet,
            master,
        };
        let command = NewAddress {
            key: key("coin"),
            wallet,
            label: String::new(),
        };
        let (wallets, issuer) = (payer.engine.wallets(), payer.engine.issuer());
        let address = wallets
            .new_address(&issuer, command)
            .await
            .unwrap()
            .value
            .address;
        if has_coin {
            world.chain.fund(&address, 50_000).await.unwrap();
        }
        world.chain.mine(1).await.unwrap();
        look(&payer.engine).await;
        payer
    }

    async fn submit(&self, name: &str, spend: &Spend) {
        let mut psbt: Psbt = spend.psbt.parse().unwrap();
        psbt.sign(&self.master, &Secp256k1::new()).unwrap();
        let command = SubmitSpend {
            key: key(name),
            spend: spend.id,
            psbt: Some(psbt.to_string()),
        };
        let (wallets, issuer) = (self.engine.wallets(), self.engine.issuer());
        wallets.submit_spend(&issuer, command).await.unwrap();
    }

    async fn pay(&self, name: &str, target: SpendTarget, fee_sat_per_kvb: u64) -> Spend {
        let command = PrepareSpend {
            key: key(name),
            wallet: self.wallet,
            target,
            fee_sat_per_kvb: Some(fee_sat_per_kvb),
        };
        let (wallets, issuer) = (self.engine.wallets(), self.engine.issuer());
        let spend = wallets.prepare_spend(&issuer, command).await.unwrap().value;
        self.submit(name, &spend).await;
        spend
    }
}

fn to(address: String) -> SpendTarget {
    let amount_sat = 10_000;
    SpendTarget::Pay {
        outputs: vec![SpendOutput {
            address,
            amount_sat,
        }],
    }
}

/// A payment that its payer replaces is paid once; one whose coin is spent elsewhere is not paid.
async fn replaced_and_double_spent(world: &World) {
    let payer = Payer::new(world, 77, true).await;
    let invoice = world.invoice("replaced", PaymentRules::NONE, false).await;
    let first = payer.pay("first", to(address(&invoice)), 2_000).await;
    world.look().await;
    assert_eq!(world.now(&invoice).await.state, InvoiceState::Processing);
    let command = BumpSpend {
        key: key("bump"),
        spend: first.id,
        fee_sat_per_kvb: 9_000,
    };
    let (wallets, issuer) = (payer.engine.wallets(), payer.engine.issuer());
    let second = wallets.bump_spend(&issuer, command).await.unwrap().value;
    payer.submit("second", &second).await;
    world.look().await;
    let replaced = world.now(&invoice).await;
    let states: Vec<_> = replaced
        .payments
        .iter()
        .map(|payment| payment.state)
        .collect();
    assert_eq!(
        states,
        [InvoicePaymentState::Void, InvoicePaymentState::Pending]
    );
    assert!(replaced.payments[0].replaced_by.is_some());
    world.mine(1).await;
    assert_eq!(world.now(&invoice).await.received_msat, 10_000 * SAT);
    world.owed(40_000, 12_000).await;
    // Other books with the same keys spend the coin elsewhere.
    let payer = Payer::new(world, 78, true).await;
    let thief = Payer::new(world, 78, false).await;
    let funded = thief.engine.wallets();
    until("the thief sees the coin", || async {
        look(&thief.engine).await;
        let coins = funded
            .coins(&thief.engine.issuer(), thief.wallet, None, 9)
            .await;
        coins.unwrap().value.len() == 1
    })
    .await;
    let invoice = world
        .invoice("double-spent", PaymentRules::NONE, false)
        .await;
    payer.pay("honest", to(address(&invoice)), 2_000).await;
    world.look().await;
    assert_eq!(world.now(&invoice).await.state, InvoiceState::Processing);
    let elsewhere = world.world.new_onchain_address().await.unwrap();
    let everything = SpendTarget::Everything { address: elsewhere };
    thief.pay("elsewhere", everything, 20_000).await;
    world.look().await;
    let gone = world.now(&invoice).await;
    assert_eq!(
        (gone.state, gone.payments[0].state),
        (InvoiceState::New, InvoicePaymentState::Void)
    );
    world.mine(1).await;
    assert_eq!(world.now(&invoice).await.state, InvoiceState::New);
    world.owed(40_000, 12_000).await;
}

/// What is held is captured, given back, or goes back by itself before its deadline.
async fn held(world: &World) {
    let invoices = world.engine.invoices();
    let mut sent = Vec::new();
    for name in ["captured", "cancelled", "timed-out"] {
        let invoice = world.invoice(name, PaymentRules::NONE, true).await;
        let hash = world.customer.send(&invoice.bolt11).await.unwrap();
        let waits = world.until(&invoice, InvoiceState::Processing).await;
        assert_eq!(waits.payments[0].state, InvoicePaymentState::Authorized);
        sent.push((waits, hash));
    }
    let [captured, cancelled, timed_out] = sent.try_into().unwrap();
    let command = CaptureInvoice {
        key: key("capture"),
        invoice: captured.0.id,
    };
    invoices
        .capture(&world.merchant.till, command)
        .await
        .unwrap();
    world.until(&captured.0, InvoiceState::Settled).await;
    world.customer.sent(captured.1).await.unwrap();
    let command = CancelInvoice {
        key: key("cancel"),
        invoice: cancelled.0.id,
    };
    invoices
        .cancel(&world.merchant.till, command)
        .await
        .unwrap();
    assert!(world.customer.sent(cancelled.1).await.is_err());
    world.owed(50_000, 12_000).await;
    let deadline = timed_out.0.payments[0].claim_deadline_height.unwrap();
    let height = world.chain.height().await.unwrap();
    // Two blocks before its deadline it goes back, whether or not anybody said so.
    world.mine(deadline - height - 2).await;
    local_network::sync(&[&*world.node, &*world.world])
        .await
        .unwrap();
    world.clock.0.fetch_add(600_000, Ordering::SeqCst);
    until("it has gone back", || async {
        world.engine.run_due_jobs().await.unwrap();
        world.now(&timed_out.0).await.payments[0].state == InvoicePaymentState::Void
    })
    .await;
    assert!(world.customer.sent(timed_out.1).await.is_err());
    world.owed(50_000, 12_000).await;
}

/// Somebody who is paid by a card neither takes the money nor gives it back: it is locked up for no
/// more blocks than the engine allows, and then it is the card's again.
async fn held_by_whoever_is_paid(world: &World) {
    let cards = world.engine.cards();
    let mut card = shop::card(&world.engine, shop::UID, CardLimits::default()).await;
    shop::top_up(&world.engine, &world.customer, &card, "top-up", sat(5_000)).await;
    world.customer.hold(true);
    let bolt11 = world.customer.invoice(2_000 * SAT, "held").await.unwrap();
    let command = PayWithCard {
        key: key("held"),
        tap: card.chip.tap(),
        bolt11,
        pin: None,
    };
    let sent_at = world.chain.height().await.unwrap();
    let payment = cards.pay(&world.merchant.till, command).await.unwrap().id;
    let stands = async || {
        world.engine.run_due_jobs().await.unwrap();
        let found = cards.get_payment(&card.holder, payment).await.unwrap();
        let seen = cards.get(&card.holder, card.id).await.unwrap();
        (found.state.is_final(), seen.balance_msat / SAT)
    };
    // 2,000 sats, half a percent and ten sats for the route.
    assert_eq!(stands().await, (false, 2_980));
    let mut back_at = None;
    while back_at.is_none() && world.chain.height().await.unwrap() < sent_at + LOCK_BLOCKS {
        world.mine(6).await;
        let nodes = [&*world.world, &*world.node];
        local_network::sync(&nodes).await.unwrap();
        world.clock.0.fetch_add(600_000, Ordering::SeqCst);
        if stands().await.0 {
            back_at = Some(world.chain.height().await.unwrap());
        }
    }
    println!("locked up for {:?} blocks", back_at.map(|at| at - sent_at));
    world.customer.hold(false);
    until("the card has its money again", || async {
        stands().await == (true, 5_000)
    })
    .await;
    assert!(back_at.is_some(), "it came back in time");
    let found = cards.get_payment(&card.holder, payment).await.unwrap();
    assert_eq!(found.state, CardPaymentState::Failed);
}

/// A text of a node that no channel leads to, whose last hop may wait for so many blocks.
fn nobodys_invoice(amount_msat: i64, lock_blocks: u64) -> String {
    let key = SecretKey::from_slice(&[42; 32]).unwrap();
    let bytes = [u8::try_from(lock_blocks % 251).unwrap(); 32];
    InvoiceBuilder::new(lightning_invoice::Currency::Regtest)
        .description("elsewhere".to_owned())
        .payment_hash(sha256::Hash::from_byte_array(bytes))
        .payment_secret(PaymentSecret([1; 32]))
        .current_timestamp()
        .expiry_time(std::time::Duration::from_secs(86_400))
        .min_final_cltv_expiry_delta(lock_blocks)
        .amount_milli_satoshis(amount_msat.unsigned_abs())
        .build_signed(|hash| Secp256k1::new().sign_ecdsa_recoverable(hash, &key))
        .unwrap()
        .to_string()
}

/// A sale is paid back to a text of the customer's. What the channels cannot carry now, and what would
/// be locked up for too long, is refused before anything is held; what finds no route is the
/// merchant's again.
async fn paid_back(world: &World) {
    let grocer = shop::merchant(&world.engine, "Grocer").await;
    let (refunds, settlement) = (world.engine.refunds(), world.engine.settlement());
    let issuer = world.engine.issuer();
    let paid = 900_000 * SAT;
    let command = CreateInvoice {
        key: key("large"),
        purpose: InvoicePurpose::Sale {
            merchant: grocer.id,
        },
        price: Some(sat(900_000)),
        description: "large".to_owned(),
        expiry_seconds: 3_600,
        options: InvoiceOptions {
            rails: vec![Rail::OnChain],
            rules: Some(PaymentRules {
                confirmations: vec![ConfirmationTier {
                    up_to_msat: i64::MAX,
                    confirmations: 1,
                }],
                ..PaymentRules::NONE
            }),
            ..InvoiceOptions::default()
        },
    };
    let made = world.engine.invoices().create(&issuer, command).await;
    let sale = made.unwrap().value;
    world.fund(&sale, 900_000).await;
    world.mine(1).await;
    let sale = world.until(&sale, InvoiceState::Settled).await;
    let available = async || {
        let balance = settlement.balance(&grocer.till, grocer.id).await;
        balance.unwrap().value.available_msat
    };
    let pay_back = async |name: &str, amount_msat: i64, bolt11: String| {
        let command = CreateRefund {
            key: key(name),
            invoice: sale.id,
            to: RefundTo::Bolt11 { bolt11 },
            amount: RefundAmount::Bitcoin { amount_msat },
            fee_bearer: RefundFeeBearer::Merchant,
            reason: "returned".to_owned(),
        };
        let made = refunds.create(&grocer.till, command).await;
        made.map(|made| made.value).map_err(|error| error.code())
    };
    let ends = async |id: RefundId| {
        until("the refund has ended", || async {
            world.engine.run_due_jobs().await.unwrap();
            let refund = refunds.get(&grocer.till, id).await.unwrap().value;
            refund.state.is_final()
        })
        .await;
        refunds.get(&grocer.till, id).await.unwrap().value
    };
    assert_eq!(available().await, paid);
    let has = world.node.balances().await.unwrap();
    assert!(has.outbound_capacity_msat < 890_000 * SAT);
    let bill = world.customer.invoice(890_000 * SAT, "all").await.unwrap();
    let refused = pay_back("all", 890_000 * SAT, bill).await;
    assert_eq!(refused.unwrap_err(), "refund.no_outbound_capacity");
    let amount_msat = 50_000 * SAT;
    let refused = pay_back("locked", amount_msat, nobodys_invoice(amount_msat, 433)).await;
    assert_eq!(refused.unwrap_err(), "refund.locks_too_long");
    assert_eq!(available().await, paid);
    assert!(world.now(&sale).await.flags.is_none());
    let lost = pay_back("no-route", amount_msat, nobodys_invoice(amount_msat, 18)).await;
    let lost = ends(lost.unwrap().id).await;
    assert_eq!(lost.state, RefundState::Failed, "{lost:?}");
    assert_eq!(available().await, paid);
    let bill = world.customer.invoice(amount_msat, "back").await.unwrap();
    let hash = bill.parse::<Bolt11Details>().unwrap().payment_hash;
    let done = pay_back("back", amount_msat, bill).await.unwrap();
    let done = ends(done.id).await;
    let found = (done.state, done.sent_msat, done.fee_msat);
    assert_eq!(found, (RefundState::Succeeded, amount_msat, Some(0)));
    until("the customer has it", || async {
        world.customer.received_msat(hash) == amount_msat
    })
    .await;
    assert_eq!(available().await, paid - amount_msat);
    assert_eq!(world.now(&sale).await.flags.refunded_msat, amount_msat);
}

/// The engine is down while an invoice is paid and its time goes by: the block had it in time.
async fn paid_while_down(world: World, folder: &Path) -> World {
    let invoice = world.invoice("down", PaymentRules::NONE, false).await;
    world.engine.stop().await.unwrap();
    let World {
        chain,
        clock,
        engine: stopped,
        node,
        world: other,
        customer,
        merchant,
    } = world;
    drop((stopped, node));
    chain.fund(&address(&invoice), 10_000).await.unwrap();
    chain.mine(2).await.unwrap();
    clock.0.fetch_add(2 * 3_600_000, Ordering::SeqCst);
    let again = operator(folder, &*chain);
    let engine = engine(&*chain, &again, clock.clone()).await;
    let node = again.node;
    let world = World {
        chain,
        clock,
        engine,
        node,
        world: other,
        customer,
        merchant,
    };
    world.engine.run_due_jobs().await.unwrap();
    world.look().await;
    let paid = world.now(&invoice).await;
    // Its time in this engine began ahead of the world's, which the blocks have.
    assert_eq!(
        (paid.state, paid.flags.late_msat),
        (InvoiceState::Settled, 0)
    );
    world.owed(70_000, 12_000).await;
    world
}

/// Over Lightning what comes late is taken where a rule says so.
async fn late_by_rule(world: &World) {
    let takes_late = PaymentRules {
        accept_late_within_per_mille: Some(10),
        ..PaymentRules::NONE
    };
    let late = world.invoice("late-by-rule", takes_late, false).await;
    // Later than that LDK gives it back by itself.
    world.clock.0.fetch_add(3_700_000, Ordering::SeqCst);
    world.until(&late, InvoiceState::Expired).await;
    world.customer.pay(&late.bolt11).await.unwrap();
    let late = world.until(&late, InvoiceState::Settled).await;
    assert_eq!(late.flags.late_msat, 10_000 * SAT);
    world.owed(60_000, 12_000).await;
    // The last round of it, before anybody stops.
    until("the node has what the books say", || {
        node_agrees(&world.engine)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_a_payment_arrives_on_real_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path()).await;
    parts_and_both_rails(&world).await;
    // While the other wallet's invoices are good by the engine's time as well.
    paid_back(&world).await;
    held_by_whoever_is_paid(&world).await;
    over_and_late(&world).await;
    reorg(&world).await;
    replaced_and_double_spent(&world).await;
    held(&world).await;
    late_by_rule(&world).await;
    let world = paid_while_down(world, folder.path()).await;
    until("the node and the wallets have what the books say", || {
        node_agrees(&world.engine)
    })
    .await;
    world.engine.stop().await.unwrap();
    world.world.stop().await.unwrap();
}
