//! A merchant, a till, a card and a customer on an engine.

use std::sync::Arc;

use flashkit::access::Credential;
use flashkit::cards::{ActivateCard, CardLimits, IssueCard, IssueVirtualCard, TopUpCard};
use flashkit::ids::{BatchId, CardId, CredentialId, MerchantId, ProgramId, TransferId};
use flashkit::invoices::{CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, InvoiceState};
use flashkit::ledger::{Account, Batch, NewTransfer, Step, TransferKind};
use flashkit::lightning::LightningNode;
use flashkit::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use flashkit::money::{Currency, Price};
use flashkit::ports::{Clock, SystemClock};
use flashkit::rates::FixedRates;
use flashkit::rewards::CreateProgram;
use flashkit::settlement::{CreateMerchant, PairTill, PayoutTerms};
use flashkit::store::Store;
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::testkit::wallet::Wallet;
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use flashkit::{CardPaymentSettings, Engine, MasterSecret, Settings};

use super::{key, until};

pub const SAT: i64 = 1_000;
pub const UID: &str = "04a39493cc8680";

/// The secret of every test engine.
pub fn master() -> MasterSecret {
    MasterSecret::new([7; 32])
}

/// One bitcoin is fifteen million Jamaican dollars, as of now.
pub fn rates() -> Arc<FixedRates> {
    let rates = FixedRates::new();
    let jmd = Currency::from_code("JMD").unwrap();
    rates.set(
        jmd,
        "15000000.00".parse().unwrap(),
        "test",
        SystemClock.now_ms(),
    );
    Arc::new(rates)
}

pub fn jmd(minor_units: i64) -> Price {
    Price::Fiat {
        currency: Currency::from_code("JMD").unwrap(),
        minor_units,
    }
}

pub fn sat(amount: i64) -> Price {
    Price::Bitcoin {
        amount_msat: amount * SAT,
    }
}

/// An engine on any store and node.
pub async fn engine_on(store: Arc<dyn Store>, node: Option<Arc<dyn LightningNode>>) -> Engine {
    let settings = Settings {
        unknown_retry_ms: 300,
        job_lease_ms: 1_000,
        card_payments: CardPaymentSettings {
            wait_ms: 1_000,
            ..CardPaymentSettings::default()
        },
        ..Settings::default()
    };
    let mut builder = Engine::builder(store, master())
        .network("regtest")
        .rates(rates())
        .settings(settings);
    if let Some(node) = node {
        builder = builder.lightning(node);
    }
    builder.open().await.unwrap()
}

/// An engine on a simulated node, with a customer who has money.
pub struct Simulated {
    pub engine: Engine,
    pub network: SimulatedNetwork,
    pub node: SimulatedNode,
    pub customer: Arc<Wallet>,
}

pub async fn simulated(store: Arc<dyn Store>) -> Simulated {
    let network = SimulatedNetwork::new(Arc::new(SystemClock));
    let node = network.node(0);
    let engine = engine_on(store, Some(Arc::new(node.clone()))).await;
    with_customer(engine, network, node).await
}

/// An engine whose time is the test's, but for the node's.
pub async fn simulated_at(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Simulated {
    let network = SimulatedNetwork::new(Arc::new(SystemClock));
    let node = network.node(0);
    let builder = Engine::builder(store, master()).lightning(Arc::new(node.clone()));
    let engine = builder.network("regtest").clock(clock).open().await;
    with_customer(engine.unwrap(), network, node).await
}

async fn with_customer(
    engine: Engine,
    network: SimulatedNetwork,
    node: SimulatedNode,
) -> Simulated {
    engine.start().await.unwrap();
    let customer = network.node(10_000_000 * SAT);
    customer.start().await.unwrap();
    let customer = Arc::new(Wallet::new(Arc::new(customer), None));
    tokio::spawn(customer.clone().run());
    Simulated {
        engine,
        network,
        node,
        customer,
    }
}

/// A merchant with a till.
pub struct Merchant {
    pub id: MerchantId,
    pub till: Credential,
}

pub async fn merchant(engine: &Engine, name: &str) -> Merchant {
    let issuer = engine.issuer();
    let command = CreateMerchant {
        key: key(&format!("merchant/{name}")),
        name: name.to_owned(),
        terms: PayoutTerms::default(),
        category: None,
    };
    let id = engine
        .settlement()
        .create(&issuer, command)
        .await
        .unwrap()
        .id;
    let command = PairTill {
        key: key(&format!("till/{name}")),
        merchant: id,
        label: "till 1".to_owned(),
    };
    let till = engine
        .settlement()
        .pair_till(&issuer, command)
        .await
        .unwrap();
    Merchant {
        id,
        till: till.credential.clone(),
    }
}

/// The id of a credential, which is no secret.
pub fn id_of(credential: &Credential) -> CredentialId {
    let text = credential.reveal().strip_prefix("flashkit_").unwrap();
    text.rsplit_once('_').unwrap().0.parse().unwrap()
}

/// A points program: 2 % of a sale, a point is a sat.
pub async fn program(engine: &Engine, merchant: MerchantId) -> ProgramId {
    let command = CreateProgram {
        key: key(&format!("program/{merchant}")),
        merchant,
        name: "Points".to_owned(),
        earn_bps: 200,
        point_value_msat: SAT,
    };
    engine
        .rewards()
        .create(&engine.issuer(), command)
        .await
        .unwrap()
        .id
}

/// A card in somebody's hand.
pub struct HeldCard {
    pub id: CardId,
    pub holder: Credential,
    pub chip: VirtualCard,
}

pub async fn card(engine: &Engine, uid: &str, limits: CardLimits) -> HeldCard {
    let issuer = engine.issuer();
    let command = IssueCard {
        key: key(&format!("issue/{uid}")),
        uid: uid.to_owned(),
        existing_chip: None,
        limits,
        program: None,
    };
    let id = engine.cards().issue(&issuer, command).await.unwrap().id;
    let keys = engine.cards().programming_keys(&issuer, uid).await.unwrap();
    let chip = VirtualCard::program(uid, &keys).unwrap();
    let command = ActivateCard {
        key: key(&format!("activate/{uid}")),
        card: id,
    };
    let holder = engine
        .cards()
        .activate(&issuer, command)
        .await
        .unwrap()
        .holder
        .clone();
    HeldCard { id, holder, chip }
}

/// The operator puts money into its channels, and says so.
pub async fn capital(engine: &Engine, account: CapitalAccount, name: &str, amount_msat: i64) {
    let command = BookCapital {
        key: key(&format!("capital/{name}")),
        account,
        direction: CapitalDirection::In,
        amount_msat,
        reason: name.to_owned(),
    };
    engine
        .treasury()
        .book_capital(&engine.issuer(), command)
        .await
        .unwrap();
}

/// Waits until an invoice is booked.
pub async fn settled(engine: &Engine, invoice: &Invoice) {
    let (engine, id) = (engine.clone(), invoice.id);
    until("the invoice is settled", || async {
        let invoice = engine.invoices().get(&engine.issuer(), id).await.unwrap();
        invoice.state == InvoiceState::Settled
    })
    .await;
}

/// A sale, asked for by the till.
pub async fn sale(engine: &Engine, merchant: &Merchant, name: &str, price: Price) -> Invoice {
    let command = CreateInvoice {
        key: key(name),
        purpose: InvoicePurpose::Sale {
            merchant: merchant.id,
        },
        price: Some(price),
        description: "Two patties and a coco bread".to_owned(),
        expiry_seconds: 600,
        options: InvoiceOptions::default(),
    };
    engine
        .invoices()
        .create(&merchant.till, command)
        .await
        .unwrap()
        .value
}

/// A card is topped up by the customer, over Lightning.
pub async fn top_up(engine: &Engine, customer: &Wallet, card: &HeldCard, name: &str, price: Price) {
    let command = TopUpCard {
        key: key(name),
        card: card.id,
        price,
    };
    let invoice = engine
        .cards()
        .top_up(&card.holder, command)
        .await
        .unwrap()
        .value;
    customer.pay(&invoice.bolt11).await.unwrap();
    settled(engine, &invoice).await;
}

/// Money on a card, from outside.
pub async fn fund(store: &dyn Store, number: u16, card: CardId, amount_msat: i64) {
    let mut random = [0x6c; 10];
    random[..2].copy_from_slice(&number.to_be_bytes());
    let transfer = NewTransfer {
        id: TransferId::from_parts(3, random),
        debit: Account::node_channels(),
        credit: Account::card_balance(card),
        amount: amount_msat,
        kind: TransferKind::TopUp,
        reference: "from outside".to_owned(),
        credit_ceiling: None,
    };
    let batch = Batch {
        id: BatchId::from_parts(3, random),
        command: None,
        steps: vec![Step::Transfer(transfer)].into(),
    };
    store.commit(batch).await.unwrap();
}

/// A card that is a number and a code, with 1,000 sats, and its holder.
pub async fn virtual_card(engine: &Engine, store: &dyn Store) -> (CardId, Credential) {
    let (cards, issuer) = (engine.cards(), engine.issuer());
    let command = IssueVirtualCard {
        key: key("virtual"),
        limits: CardLimits::default(),
        expires_at_ms: None,
        program: None,
    };
    let card = cards.issue_virtual(&issuer, command).await.unwrap().id;
    let command = ActivateCard {
        key: key("hand over"),
        card,
    };
    let held = cards.activate(&issuer, command).await.unwrap();
    fund(store, 9, card, 1_000 * SAT).await;
    (card, held.holder.clone())
}
