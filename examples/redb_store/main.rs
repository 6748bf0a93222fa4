//! An engine on a store that is not flashkit's own: see `store`, which keeps its books in a redb
//! file. A card is issued, topped up over a simulated Lightning network and charged by a tap; then
//! everything is closed, and the file opened again.
//!
//! ```text
//! cargo run --example redb_store
//! ```

mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flashkit::cards::{ActivateCard, CardLimits, ChargeCard, IssueCard, TopUpCard};
use flashkit::ids::InvoiceId;
use flashkit::invoices::InvoiceState;
use flashkit::lightning::LightningNode;
use flashkit::lightning::simulated::{SimulatedNetwork, SimulatedNode};
use flashkit::money::Price;
use flashkit::ports::SystemClock;
use flashkit::settlement::{CreateMerchant, PairTill, PayoutTerms};
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::testkit::wallet::Wallet;
use flashkit::{Engine, MasterSecret};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SAT: i64 = 1_000;
const UID: &str = "04a39493cc8680";

async fn open(file: &Path, node: &SimulatedNode) -> Result<Engine, Failure> {
    let store = Arc::new(store::open(file, Arc::new(SystemClock))?);
    let master = MasterSecret::new([7; 32]);
    let builder = Engine::builder(store, master).network("regtest");
    let engine = builder.lightning(Arc::new(node.clone())).open().await?;
    engine.start().await?;
    Ok(engine)
}

/// Every account that is not empty.
async fn balances(engine: &Engine) -> Result<Vec<String>, Failure> {
    let books = engine.reports().trial_balance(&engine.issuer()).await?;
    let lines = books.lines.iter().filter(|line| line.balance != 0);
    Ok(lines
        .map(|line| format!("{:>12} msat  {}", line.balance, line.account))
        .collect())
}

async fn sell_by_card(engine: &Engine, customer: &Wallet) -> Result<(), Failure> {
    let issuer = engine.issuer();
    let command = CreateMerchant {
        key: "merchant".parse()?,
        name: "Cookshop".to_owned(),
        terms: PayoutTerms::default(),
        category: None,
    };
    let merchant = engine.settlement().create(&issuer, command).await?.id;
    let command = PairTill {
        key: "till".parse()?,
        merchant,
        label: "till 1".to_owned(),
    };
    let till = engine.settlement().pair_till(&issuer, command).await?;

    let command = IssueCard {
        key: "issue".parse()?,
        uid: UID.to_owned(),
        existing_chip: None,
        limits: CardLimits::default(),
        program: None,
    };
    let card = engine.cards().issue(&issuer, command).await?.id;
    let keys = engine.cards().programming_keys(&issuer, UID).await?;
    let mut chip = VirtualCard::program(UID, &keys)?;
    let command = ActivateCard {
        key: "activate".parse()?,
        card,
    };
    let activated = engine.cards().activate(&issuer, command).await?;

    let command = TopUpCard {
        key: "top-up".parse()?,
        card,
        price: Price::Bitcoin {
            amount_msat: 50_000 * SAT,
        },
    };
    let invoice = engine.cards().top_up(&activated.holder, command).await?;
    customer.pay(&invoice.bolt11).await?;
    settled(engine, invoice.id).await?;

    let command = ChargeCard {
        key: "charge".parse()?,
        tap: chip.tap(),
        price: Price::Bitcoin {
            amount_msat: 1_800 * SAT,
        },
        reference: "two patties and a coco bread".to_owned(),
        pin: None,
    };
    let charge = engine.cards().charge(&till.credential, command).await?;
    println!("charged {} msat by a tap", charge.amount_msat);
    Ok(())
}

async fn settled(engine: &Engine, invoice: InvoiceId) -> Result<(), Failure> {
    for _ in 0..1_000 {
        let found = engine.invoices().get(&engine.issuer(), invoice).await?;
        if found.state == InvoiceState::Settled {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("the payment was not booked in ten seconds".into())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("books.redb");
    let network = SimulatedNetwork::new(Arc::new(SystemClock));
    let (node, customer) = (network.node(0), network.node(1_000_000 * SAT));
    customer.start().await?;
    let customer = Arc::new(Wallet::new(Arc::new(customer), None));
    tokio::spawn(customer.clone().run());

    let engine = open(&file, &node).await?;
    sell_by_card(&engine, &customer).await?;
    let before = balances(&engine).await?;
    before.iter().for_each(|line| println!("{line}"));
    engine.stop().await?;

    let engine = open(&file, &node).await?;
    let after = balances(&engine).await?;
    engine.stop().await?;
    if before != after {
        return Err(format!("the books are others after they were opened again: {after:?}").into());
    }
    println!("closed, opened again: the same");
    Ok(())
}
