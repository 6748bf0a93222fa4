//! Two real ldk-node nodes over the chain of the testkit: what the Esplora server (or, with
//! `BITCOIND_EXE`, the real bitcoind) must answer for Lightning to work.
#![cfg(all(feature = "testkit", feature = "ldk"))]

use std::net::TcpListener;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::testkit::chain::{ChainEndpoint, TestChain, from_env};
use ldk_node::bitcoin::Network;
use ldk_node::config::EsploraSyncConfig;
use ldk_node::lightning::ln::msgs::SocketAddress;
use ldk_node::lightning_invoice::{Bolt11InvoiceDescription, Description};
use ldk_node::{Builder, Event, Node, UserChannelId};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
const FUNDS_SATS: u64 = 1_000_000;
const CHANNEL_SATS: u64 = 400_000;
const PUSH_MSAT: u64 = 100_000_000;
/// More than any fees these tests can cost, less than any amount that moves.
const FEES_SATS: u64 = 8_000;

struct Peer {
    node: Node,
    address: SocketAddress,
    _folder: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.node.stop();
    }
}

fn start(chain: &dyn TestChain) -> Peer {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = SocketAddress::from_str(&format!("127.0.0.1:{port}")).unwrap();
    let mut builder = Builder::new();
    builder.set_network(Network::Regtest);
    builder.set_storage_dir_path(folder.path().display().to_string());
    builder
        .set_listening_addresses(vec![address.clone()])
        .unwrap();
    match chain.source() {
        ChainEndpoint::Esplora { url } => {
            let config = EsploraSyncConfig {
                background_sync_config: None,
            };
            builder.set_chain_source_esplora(url, Some(config));
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
    let node = builder.build().unwrap();
    node.start().unwrap();
    Peer {
        node,
        address,
        _folder: folder,
    }
}

/// Polls until `look` has an answer; fails loudly after the deadline.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn event<T>(peer: &Peer, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        let rest = DEADLINE.saturating_sub(start.elapsed());
        let event = tokio::time::timeout(rest, peer.node.next_event_async())
            .await
            .unwrap_or_else(|_| panic!("no event {what}"));
        peer.node.event_handled().unwrap();
        if let Some(found) = pick(&event) {
            return found;
        }
    }
}

async fn mine_and_sync(chain: &dyn TestChain, blocks: u32, peers: &[&Peer]) {
    chain.mine(blocks).await.unwrap();
    for peer in peers {
        peer.node.sync_wallets().unwrap();
    }
}

fn onchain_sats(peer: &Peer) -> u64 {
    peer.node.list_balances().total_onchain_balance_sats
}

async fn in_mempool(chain: &dyn TestChain, txid: &str) {
    until("the transaction in the mempool", async || {
        let txids = chain.mempool_txids().await.unwrap();
        txids.iter().any(|known| known == txid).then_some(())
    })
    .await;
}

async fn two_funded_nodes(chain: &dyn TestChain) -> (Peer, Peer) {
    let (alice, bob) = (start(chain), start(chain));
    for peer in [&alice, &bob] {
        let address = peer.node.onchain_payment().new_address().unwrap();
        let txid = chain.fund(&address.to_string(), FUNDS_SATS).await.unwrap();
        in_mempool(chain, &txid).await;
    }
    mine_and_sync(chain, 6, &[&alice, &bob]).await;
    assert_eq!(onchain_sats(&alice), FUNDS_SATS);
    assert_eq!(onchain_sats(&bob), FUNDS_SATS);
    (alice, bob)
}

async fn open_channel(
    chain: &dyn TestChain,
    from: &Peer,
    to: &Peer,
) -> (UserChannelId, UserChannelId) {
    let (id, address) = (to.node.node_id(), to.address.clone());
    from.node
        .open_channel(id, address, CHANNEL_SATS, Some(PUSH_MSAT), None)
        .unwrap();
    let funding = event(from, "ChannelPending", |event| match event {
        Event::ChannelPending { funding_txo, .. } => Some(funding_txo.txid),
        _ => None,
    })
    .await;
    in_mempool(chain, &funding.to_string()).await;
    mine_and_sync(chain, 6, &[from, to]).await;
    let ready = |event: &Event| match event {
        Event::ChannelReady {
            user_channel_id, ..
        } => Some(*user_channel_id),
        _ => None,
    };
    let own = event(from, "ChannelReady", ready).await;
    (own, event(to, "ChannelReady", ready).await)
}

async fn pay(from: &Peer, to: &Peer, amount_msat: u64) {
    let text = Description::new("coffee".to_owned()).unwrap();
    let description = Bolt11InvoiceDescription::Direct(text);
    let invoice = to
        .node
        .bolt11_payment()
        .receive(amount_msat, &description, 3600)
        .unwrap();
    from.node.bolt11_payment().send(&invoice, None).unwrap();
    let received = event(to, "PaymentReceived", |event| match event {
        Event::PaymentReceived { amount_msat, .. } => Some(*amount_msat),
        _ => None,
    })
    .await;
    assert_eq!(received, amount_msat);
    event(from, "PaymentSuccessful", |event| match event {
        Event::PaymentSuccessful { .. } => Some(()),
        Event::PaymentFailed { reason, .. } => panic!("payment failed: {reason:?}"),
        _ => None,
    })
    .await;
}

async fn closed(peer: &Peer) {
    event(peer, "ChannelClosed", |event| match event {
        Event::ChannelClosed { .. } => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channel_lives_and_closes_by_agreement() {
    let started = Instant::now();
    let chain: Arc<dyn TestChain> = from_env().await.unwrap();
    let (alice, bob) = two_funded_nodes(&*chain).await;
    let (channel, _) = open_channel(&*chain, &alice, &bob).await;
    // A node lets at most a tenth of a channel be in flight towards it: LDK's default.
    pay(&alice, &bob, 30_000_000).await;
    pay(&bob, &alice, 20_000_000).await;
    alice
        .node
        .close_channel(&channel, bob.node.node_id())
        .unwrap();
    closed(&alice).await;
    closed(&bob).await;
    until("the closing transaction", async || {
        (!chain.mempool_txids().await.unwrap().is_empty()).then_some(())
    })
    .await;
    mine_and_sync(&*chain, 6, &[&alice, &bob]).await;
    // 400 000 in the channel, 100 000 pushed, 30 000 paid to bob and 20 000 back.
    let bob_expected = FUNDS_SATS + 100_000 + 30_000 - 20_000;
    assert_eq!(onchain_sats(&bob), bob_expected);
    let alice_expected = 2 * FUNDS_SATS - bob_expected;
    let alice_has = onchain_sats(&alice);
    assert!(
        (alice_expected - FEES_SATS..alice_expected).contains(&alice_has),
        "alice has {alice_has} of {alice_expected}"
    );
    eprintln!("cooperative close: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn force_close_waits_for_its_delay_and_is_swept() {
    let started = Instant::now();
    let chain: Arc<dyn TestChain> = from_env().await.unwrap();
    let (alice, bob) = two_funded_nodes(&*chain).await;
    let (channel, _) = open_channel(&*chain, &alice, &bob).await;
    let before = onchain_sats(&alice);
    alice
        .node
        .force_close_channel(&channel, bob.node.node_id(), None)
        .unwrap();
    closed(&alice).await;
    until("the commitment transaction", async || {
        (!chain.mempool_txids().await.unwrap().is_empty()).then_some(())
    })
    .await;
    // Bob's side has no delay beyond one block; alice's has 144.
    mine_and_sync(&*chain, 1, &[&alice, &bob]).await;
    closed(&bob).await;
    mine_and_sync(&*chain, 137, &[&alice, &bob]).await;
    assert!(
        onchain_sats(&alice) <= before,
        "alice's coins came before their delay"
    );
    let expected = before + CHANNEL_SATS - PUSH_MSAT / 1_000;
    mine_and_sync(&*chain, 7, &[&alice, &bob]).await;
    let has = until("alice's coins", async || {
        mine_and_sync(&*chain, 1, &[&alice, &bob]).await;
        let has = onchain_sats(&alice);
        (has > expected - FEES_SATS).then_some(has)
    })
    .await;
    assert!(has < expected);
    let bob_expected = FUNDS_SATS + PUSH_MSAT / 1_000;
    until("bob's coins", async || {
        mine_and_sync(&*chain, 1, &[&alice, &bob]).await;
        (onchain_sats(&bob) > bob_expected - FEES_SATS).then_some(())
    })
    .await;
    eprintln!("force close: {:?}", started.elapsed());
}
