//! A till without a channel: its first payment brings one from a liquidity provider (LSPS2), and
//! the second comes by an offer over it. Three real nodes on a chain in this process.
#![cfg(feature = "ldk")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::Engine;
use flashkit::invoices::{
    CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, InvoiceState, PaymentRules, Rail,
    SurplusTo,
};
use flashkit::ledger::Account;
use flashkit::lightning::LightningNode;
use flashkit::lightning::ldk::{LdkNode, LiquidityProvider};
use flashkit::store::sqlite::SqliteStore;
use flashkit::testkit::chain::{self, ChainEndpoint, TestChain};
use flashkit::testkit::local_network::{config, free_address};
use flashkit::treasury::{AssignSuspense, SuspenseTarget};
use ldk_node::bitcoin::Network;
use ldk_node::config::{AnchorChannelsConfig, Config, EsploraSyncConfig};
use ldk_node::liquidity::LSPS2ServiceConfig;
use ldk_node::{Builder, Node};
use support::books::{expect, node_agrees};
use support::shop::{self, SAT, sat};
use support::{key, until};
use tokio::runtime::Handle;

/// What the provider keeps of a first payment: one in a hundred.
const FEE_PPM: u32 = 10_000;

/// Somebody else's node.
fn stranger(seed: u8, chain: &dyn TestChain, folder: &Path, sells_channels: bool) -> Arc<Node> {
    let mut builder = Builder::from_config(Config {
        network: Network::Regtest,
        listening_addresses: Some(vec![free_address().unwrap().parse().unwrap()]),
        anchor_channels_config: Some(AnchorChannelsConfig::default()),
        ..Config::default()
    });
    builder.set_entropy_seed_bytes([seed; 64]);
    builder.set_storage_dir_path(folder.join(seed.to_string()).display().to_string());
    builder.set_runtime(Handle::current());
    builder.set_log_facade_logger();
    match chain.source() {
        ChainEndpoint::Esplora { url } => {
            let by_hand = EsploraSyncConfig {
                background_sync_config: None,
            };
            builder.set_chain_source_esplora(url, Some(by_hand));
        }
        ChainEndpoint::BitcoindRpc {
            host,
            port,
            user,
            password,
        } => {
            builder.set_chain_source_bitcoind_rpc(host, port, user, password);
        }
    }
    if sells_channels {
        builder.set_liquidity_provider_lsps2(LSPS2ServiceConfig {
            require_token: Some("cookshop".to_owned()),
            advertise_service: false,
            channel_opening_fee_ppm: FEE_PPM,
            channel_over_provisioning_ppm: 1_000_000,
            min_channel_opening_fee_msat: 0,
            min_channel_lifetime: 100,
            max_client_to_self_delay: 1_024,
            min_payment_size_msat: 0,
            max_payment_size_msat: 1_000_000_000,
            client_trusts_lsp: false,
        });
    }
    let node = Arc::new(builder.build().unwrap());
    let starting = node.clone();
    tokio::task::block_in_place(|| starting.start()).unwrap();
    node
}

/// Calls of ldk-node block.
fn call<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// Nobody takes its events.
fn drain(node: Arc<Node>) {
    tokio::spawn(async move {
        loop {
            node.next_event_async().await;
            call(|| node.event_handled()).unwrap();
        }
    });
}

async fn in_time(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !done().await {
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(60), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The payer has a channel to the provider, and the provider has coins for more.
async fn world(chain: &dyn TestChain, payer: &Node, provider: &Node) {
    chain.mine(101).await.unwrap();
    for node in [payer, provider] {
        let address = call(|| node.onchain_payment().new_address()).unwrap();
        chain.fund(&address.to_string(), 5_000_000).await.unwrap();
    }
    chain.mine(6).await.unwrap();
    for node in [payer, provider] {
        call(|| node.sync_wallets()).unwrap();
    }
    let address = provider.listening_addresses().unwrap().remove(0);
    call(|| payer.open_channel(provider.node_id(), address, 1_000_000, None, None)).unwrap();
    in_time("the channel's transaction", async || {
        !chain.mempool_txids().await.unwrap().is_empty()
    })
    .await;
    chain.mine(6).await.unwrap();
    in_time("the payer's channel", async || {
        for node in [payer, provider] {
            call(|| node.sync_wallets()).unwrap();
        }
        let channels = [payer.list_channels(), provider.list_channels()];
        channels.iter().flatten().filter(|c| c.is_usable).count() == 2
    })
    .await;
}

async fn sale(
    engine: &Engine,
    merchant: &shop::Merchant,
    (name, sats): (&str, i64),
    options: InvoiceOptions,
) -> Invoice {
    let command = CreateInvoice {
        key: key(name),
        purpose: InvoicePurpose::Sale {
            merchant: merchant.id,
        },
        price: Some(sat(sats)),
        description: "A month of patties".to_owned(),
        expiry_seconds: 3_600,
        options,
    };
    let made = engine.invoices().create(&engine.issuer(), command).await;
    made.unwrap().value
}

async fn settled(engine: &Engine, invoice: &Invoice) -> Invoice {
    let get = async || {
        let found = engine.invoices().get(&engine.issuer(), invoice.id).await;
        found.unwrap().value
    };
    until("the invoice is settled", || async {
        get().await.state == InvoiceState::Settled
    })
    .await;
    get().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_payment_brings_its_channel_and_the_second_comes_by_an_offer() {
    let folder = tempfile::tempdir().unwrap();
    let chain = chain::from_env().await.unwrap();
    let payer = stranger(21, &*chain, folder.path(), false);
    let provider = stranger(22, &*chain, folder.path(), true);
    drain(payer.clone());
    drain(provider.clone());
    world(&*chain, &payer, &provider).await;

    let mut ours = config([23; 64], chain.source(), &free_address().unwrap());
    ours.liquidity_provider = Some(LiquidityProvider {
        node_id: provider.node_id().to_string(),
        address: provider.listening_addresses().unwrap()[0].to_string(),
        token: Some("cookshop".to_owned()),
    });
    let clock = Arc::new(flashkit::ports::SystemClock);
    let store = SqliteStore::open(folder.path().join("books"), clock.clone()).unwrap();
    let node = LdkNode::new(ours, Arc::new(store.clone()), clock, Handle::current()).unwrap();
    let node = Arc::new(node);
    let engine = Engine::builder(Arc::new(store), shop::master())
        .network("regtest")
        .lightning(node.clone())
        .open()
        .await
        .unwrap();
    engine.start().await.unwrap();
    let merchant = shop::merchant(&engine, "Cookshop").await;

    let options = InvoiceOptions {
        just_in_time_max_fee_msat: Some(500 * SAT),
        ..InvoiceOptions::default()
    };
    let first = sale(&engine, &merchant, ("first", 50_000), options).await;
    assert!(first.lightning[0].just_in_time);
    let bolt11 = first.bolt11.parse().unwrap();
    call(|| payer.bolt11_payment().send(&bolt11, None)).unwrap();
    let paid = settled(&engine, &first).await;
    assert_eq!(
        (paid.received_msat, paid.flags.underpaid_msat),
        (50_000 * SAT, 0)
    );
    assert_eq!(paid.payments[0].skimmed_msat, 500 * SAT);

    let options = InvoiceOptions {
        rails: vec![Rail::Bolt12],
        ..InvoiceOptions::default()
    };
    let second = sale(&engine, &merchant, ("second", 40_000), options).await;
    let offer = second.offer.clone().unwrap().text.parse().unwrap();
    call(|| payer.bolt12_payment().send(&offer, None, None, None)).unwrap();
    let paid = settled(&engine, &second).await;
    assert_eq!(paid.payments[0].rail, Rail::Bolt12);
    expect(
        &engine,
        "a channel bought with the first payment, and an offer paid over it",
        &[
            (Account::node_channels(), 89_500 * SAT),
            (Account::routing_fees(), 500 * SAT),
            (Account::merchant_payable(merchant.id), 90_000 * SAT),
        ],
    )
    .await;
    until("the node has what the books say", || node_agrees(&engine)).await;

    // Money that nobody asked for (keysend): it is there, and waits for a person.
    let (id, amount_msat) = (node.node_id().parse().unwrap(), 3_000 * SAT as u64);
    call(|| provider.spontaneous_payment().send(amount_msat, id, None)).unwrap();
    let (treasury, issuer) = (engine.treasury(), engine.issuer());
    let waiting = async || treasury.suspense(&issuer, None, 10).await.unwrap().value;
    until("it waits in suspense", || async {
        !waiting().await.is_empty()
    })
    .await;
    let waits = waiting().await;
    assert_eq!((waits.len(), waits[0].amount_msat), (1, 3_000 * SAT));
    assert!(waits[0].payment_hash.is_some());
    let command = AssignSuspense {
        key: key("keysend"),
        item: waits[0].id,
        to: SuspenseTarget::Merchant {
            merchant: merchant.id,
        },
        reason: "a tip, as the customer says".to_owned(),
    };
    treasury.assign_suspense(&issuer, command).await.unwrap();
    expect(
        &engine,
        "a payment that nobody asked for, given to whom it was meant for",
        &[
            (Account::node_channels(), 92_500 * SAT),
            (Account::routing_fees(), 500 * SAT),
            (Account::merchant_payable(merchant.id), 93_000 * SAT),
        ],
    )
    .await;

    // More than was asked for over Lightning, where a rule says whose that is.
    let options = InvoiceOptions {
        rules: Some(PaymentRules {
            surplus: Some(SurplusTo::Tip),
            ..PaymentRules::NONE
        }),
        ..InvoiceOptions::default()
    };
    let third = sale(&engine, &merchant, ("third", 1_000), options).await;
    let (bolt11, more) = (third.bolt11.parse().unwrap(), 1_200 * SAT as u64);
    let text = || provider.bolt11_payment();
    call(|| text().send_using_amount(&bolt11, more, None)).unwrap();
    let paid = settled(&engine, &third).await;
    assert_eq!(
        (paid.received_msat, paid.flags.overpaid_msat),
        (1_000 * SAT, 200 * SAT)
    );
    expect(
        &engine,
        "a tip over Lightning",
        &[
            (Account::node_channels(), 93_700 * SAT),
            (Account::routing_fees(), 500 * SAT),
            (Account::merchant_payable(merchant.id), 94_200 * SAT),
        ],
    )
    .await;
    until("the node has what the books say", || node_agrees(&engine)).await;
    engine.stop().await.unwrap();
    for node in [payer, provider] {
        call(|| node.stop()).unwrap();
    }
}
