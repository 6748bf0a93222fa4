//! Two real nodes on a chain in this process, behind the Lightning port.
#![cfg(feature = "ldk")]

mod draining;
mod records;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::lightning::ldk::{LdkChainSource, LdkConfig, LdkNetwork, LdkNode, LdkSeed};
use flashkit::lightning::{
    Dispatch, InvoiceRequest, LightningError, LightningEvent, LightningNode, PaymentDirection,
    PaymentHash, PaymentRequest, PaymentState, Preimage,
};
use flashkit::ports::SystemClock;
use flashkit::store::{KeyValue, StoreError};
use flashkit::testkit::chain::{self, ChainEndpoint, TestChain};
use flashkit::testkit::faulty_store::FaultyKeyValue;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

const CHANNEL_SATS: i64 = 1_000_000;
const PUSH_MSAT: i64 = 300_000_123;
const PATIENCE: Duration = Duration::from_secs(60);

struct Party {
    config: LdkConfig,
    state: FaultyKeyValue,
    node: LdkNode,
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    listener.local_addr().expect("address").to_string()
}

impl Party {
    fn new(seed: u8, chain: &dyn TestChain) -> Self {
        let source = match chain.source() {
            ChainEndpoint::Esplora { url } => LdkChainSource::Esplora { url },
            ChainEndpoint::BitcoindRpc {
                host,
                port,
                user,
                password,
            } => LdkChainSource::BitcoindRpc {
                host,
                port,
                user,
                password,
            },
        };
        let mut config = LdkConfig::new(LdkNetwork::Regtest, LdkSeed::new([seed; 64]), source);
        config.listening_addresses = vec![free_address()];
        if let Ok(folder) = std::env::var("FLASHKIT_LDK_LOGS") {
            config.log_file = Some(format!("{folder}/{seed}-{}.log", std::process::id()).into());
        }
        let state = FaultyKeyValue::new();
        let node = build(&config, &state);
        Self {
            config,
            state,
            node,
        }
    }

    /// What a new process does: a new node on the same state.
    async fn restart(&mut self) {
        self.node.stop().await.expect("stop");
        self.node = build(&self.config, &self.state);
        self.node.start().await.expect("start");
    }

    /// The next event that is not about channels, acknowledged.
    async fn event(&self) -> LightningEvent {
        loop {
            let event = self.peek().await;
            self.node.acknowledge().await.expect("acknowledge");
            if !matches!(event, LightningEvent::ChannelChanged { .. }) {
                return event;
            }
        }
    }

    async fn peek(&self) -> LightningEvent {
        let event = timeout(PATIENCE, self.node.next_event());
        event.await.expect("an event in time").expect("event")
    }

    async fn invoice(&self, secret: u8, amount_msat: Option<i64>) -> (String, PaymentHash) {
        let payment_hash = preimage(secret).payment_hash();
        let request = InvoiceRequest {
            payment_hash,
            amount_msat,
            description: "two coffees".into(),
            description_hash: None,
            expiry_seconds: 3_600,
        };
        let bolt11 = self.node.create_invoice(request).await.expect("invoice");
        (bolt11, payment_hash)
    }

    async fn ours_msat(&self) -> i64 {
        self.node.balances().await.expect("balances").channels_msat
    }
}

fn build(config: &LdkConfig, state: &FaultyKeyValue) -> LdkNode {
    let state: Arc<dyn KeyValue> = Arc::new(state.clone());
    let clock = Arc::new(SystemClock);
    LdkNode::new(config.clone(), state, clock, Handle::current()).expect("node")
}

fn preimage(secret: u8) -> Preimage {
    Preimage::new([secret; 32])
}

fn pay(bolt11: &str) -> PaymentRequest {
    PaymentRequest {
        bolt11: bolt11.into(),
        amount_msat: None,
        max_fee_msat: 5_000,
        max_lock_blocks: None,
    }
}

struct Net {
    chain: Arc<dyn TestChain>,
    alice: Party,
    bob: Party,
}

impl Net {
    /// Alice opens a channel to Bob and gives him some of it.
    async fn open() -> Self {
        let chain = chain::from_env().await.expect("chain");
        chain.mine(101).await.expect("mine");
        let (alice, bob) = (Party::new(1, &*chain), Party::new(2, &*chain));
        let net = Self { chain, alice, bob };
        for party in [&net.alice, &net.bob] {
            party.node.start().await.expect("start");
            let address = party.node.new_onchain_address().await.expect("address");
            let funded = net.chain.fund(&address, 2_000_000);
            funded.await.expect("fund");
        }
        net.mine(6).await;
        let onchain = net.alice.node.balances().await.expect("balances");
        assert_eq!(onchain.onchain_msat, 2_000_000_000);
        let bob_address = net.bob.node.listening_addresses().remove(0);
        let bob_id = net.bob.node.node_id();
        let opened =
            net.alice
                .node
                .open_channel(&bob_id, &bob_address, CHANNEL_SATS, Some(PUSH_MSAT));
        opened.await.expect("open");
        net.until_broadcast().await;
        net.mine(6).await;
        net.until_usable().await;
        net
    }

    async fn until_broadcast(&self) {
        self.until("a transaction is in the mempool", async || {
            let waiting = self.chain.mempool_txids();
            !waiting.await.expect("mempool").is_empty()
        })
        .await;
    }

    async fn until_usable(&self) {
        self.until("the channel is usable", async || {
            let (a, b) = (self.alice.node.channels(), self.bob.node.channels());
            let (a, b) = (a.await.expect("a"), b.await.expect("b"));
            a.iter().chain(&b).filter(|c| c.is_usable).count() == 2
        })
        .await;
    }

    async fn until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !done().await {
            assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn mine(&self, blocks: u32) {
        self.chain.mine(blocks).await.expect("mine");
        self.alice.node.sync().await.expect("sync");
        self.bob.node.sync().await.expect("sync");
    }

    /// One payment from Alice to Bob, claimed, with all its events.
    async fn pays(&self, secret: u8, amount_msat: i64) {
        settle(&self.alice, &self.bob, secret, amount_msat).await;
    }
}

/// A payment waits, and can be claimed for some blocks yet.
fn waits(event: &LightningEvent, hash: PaymentHash, msat: i64) -> bool {
    matches!(
        event,
        LightningEvent::Claimable { payment_hash, amount_msat, blocks_left: Some(6..) }
            if *payment_hash == hash && *amount_msat == msat
    )
}

async fn settle(payer: &Party, payee: &Party, secret: u8, amount_msat: i64) {
    let (bolt11, payment_hash) = payee.invoice(secret, Some(amount_msat)).await;
    let sent = payer.node.pay(pay(&bolt11)).await;
    assert_eq!(sent, Ok(Dispatch::Accepted));
    let event = payee.event().await;
    assert!(waits(&event, payment_hash, amount_msat), "{event:?}");
    let claimed = payee
        .node
        .claim(payment_hash, preimage(secret), amount_msat);
    claimed.await.expect("claim");
    let received = LightningEvent::Received {
        payment_hash,
        amount_msat,
    };
    assert_eq!(payee.event().await, received);
    let fee_msat = Some(0);
    let sent = LightningEvent::Sent {
        payment_hash,
        fee_msat,
    };
    assert_eq!(payer.event().await, sent);
}

/// On one thread: nothing of a node may stand in the way of its host.
fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("runtime");
    runtime.block_on(test);
}

#[test]
fn payments_claims_and_refusals() {
    run(async {
        let net = Net::open().await;
        let (alice, bob) = (&net.alice, &net.bob);

        // Balances are exact: the push had 123 msat, and nothing was lost to rounding.
        assert_eq!(bob.ours_msat().await, PUSH_MSAT);
        assert_eq!(alice.ours_msat().await, CHANNEL_SATS * 1_000 - PUSH_MSAT);

        // Claimable, claimed, received; and a repeated claim is nothing.
        net.pays(10, 1_234_567).await;
        let hash = preimage(10).payment_hash();
        bob.node
            .claim(hash, preimage(10), 1_234_567)
            .await
            .expect("a repeated claim");
        bob.node.fail(hash).await.expect("fail after the claim");
        let record = bob.node.payment(hash).await.expect("payment");
        let record = record.expect("a record");
        assert_eq!(record.state, PaymentState::Succeeded);
        assert_eq!(record.direction, PaymentDirection::Inbound);
        let record = alice.node.payment(hash).await.expect("payment");
        let record = record.expect("a record");
        assert_eq!(
            (record.direction, record.amount_msat, record.fee_msat),
            (PaymentDirection::Outbound, Some(1_234_567), Some(0))
        );

        // The same invoice again: known, and nothing is sent.
        let (bolt11, again) = {
            let (bolt11, hash) = bob.invoice(11, Some(5_001)).await;
            assert_eq!(alice.node.pay(pay(&bolt11)).await, Ok(Dispatch::Accepted));
            assert_eq!(
                alice.node.pay(pay(&bolt11)).await,
                Ok(Dispatch::AlreadyKnown)
            );
            (bolt11, hash)
        };

        // Claimable, failed back: the sender hears it, and may try again.
        assert!(matches!(
            bob.event().await,
            LightningEvent::Claimable { .. }
        ));
        bob.node.fail(again).await.expect("fail");
        bob.node.fail(again).await.expect("a repeated fail");
        let failed = alice.event().await;
        assert!(
            matches!(failed, LightningEvent::SendFailed { payment_hash, .. } if payment_hash == again),
            "{failed:?}"
        );
        assert_eq!(alice.node.pay(pay(&bolt11)).await, Ok(Dispatch::Accepted));
        assert!(matches!(
            bob.event().await,
            LightningEvent::Claimable { .. }
        ));
        let claimed = bob.node.claim(again, preimage(11), 5_001);
        claimed.await.expect("claim");
        assert!(matches!(bob.event().await, LightningEvent::Received { .. }));
        assert!(matches!(alice.event().await, LightningEvent::Sent { .. }));
        assert_eq!(
            alice.node.pay(pay(&bolt11)).await,
            Ok(Dispatch::AlreadyKnown)
        );

        // What nobody knows is refused, and a wrong preimage is.
        let stranger = preimage(99).payment_hash();
        let unknown = bob.node.claim(stranger, preimage(99), 1).await;
        assert!(matches!(unknown, Err(LightningError::Refused { .. })));
        let unknown = bob.node.fail(stranger).await;
        assert!(matches!(unknown, Err(LightningError::Refused { .. })));
        assert_eq!(bob.node.payment(stranger).await, Ok(None));

        // Refusals of pay: own invoice, no amount, more than there is, another network.
        let (own, _) = alice.invoice(12, Some(1_000)).await;
        let refused = alice.node.pay(pay(&own)).await;
        assert!(
            matches!(refused, Ok(Dispatch::Refused { .. })),
            "{refused:?}"
        );
        let (open, _) = bob.invoice(13, None).await;
        let refused = alice.node.pay(pay(&open)).await;
        assert!(matches!(refused, Ok(Dispatch::Refused { .. })));
        let (large, hash) = bob.invoice(14, Some(900_000_000)).await;
        let refused = alice.node.pay(pay(&large)).await;
        assert!(
            matches!(refused, Ok(Dispatch::Refused { .. })),
            "{refused:?}"
        );
        let record = alice.node.payment(hash).await.expect("payment");
        assert_eq!(record.map(|r| r.state), Some(PaymentState::Failed));

        // Odd amounts both ways, and every msat is where it belongs.
        settle(bob, alice, 15, 777).await;
        net.pays(16, 100_003).await;
        settle(bob, alice, 17, 20_000_001).await;
        let bob_has = PUSH_MSAT + 1_234_567 + 5_001 - 777 + 100_003 - 20_000_001;
        net.until("the last HTLC is gone", async || {
            alice.ours_msat().await == CHANNEL_SATS * 1_000 - bob_has
                && bob.ours_msat().await == bob_has
        })
        .await;
        let all = alice.node.list_payments().await.expect("payments");
        assert!(all.iter().any(|record| record.payment_hash == hash));

        alice.node.stop().await.expect("stop");
        alice.node.stop().await.expect("a repeated stop");
        assert_eq!(alice.node.balances().await, Err(LightningError::NotRunning));
        bob.node.stop().await.expect("stop");
    });
}

/// The peer's money may be below its reserve: then LDK's capacity says 0 of it.
#[test]
fn balances_below_the_reserve_are_exact() {
    run(async {
        let net = Net::open().await;
        // Bob keeps less than the reserve of 1 % he would have to keep to send.
        net.alice.node.stop().await.expect("stop");
        net.alice
            .node
            .start()
            .await
            .expect("start on the same object");
        let address = net.bob.node.listening_addresses().remove(0);
        let bob_id = net.bob.node.node_id();
        let connected = net.alice.node.connect(&bob_id, &address);
        connected.await.expect("connect");
        let opened = net
            .alice
            .node
            .open_channel(&bob_id, &address, 400_000, Some(1_234_567));
        opened.await.expect("open");
        net.until_broadcast().await;
        net.mine(6).await;
        net.until("both channels are usable", async || {
            let channels = net.bob.node.channels().await.expect("channels");
            channels.iter().filter(|c| c.is_usable).count() == 2
        })
        .await;
        let channels = net.bob.node.channels().await.expect("channels");
        let small = channels.iter().find(|c| c.capacity_sats == 400_000);
        let small = small.expect("the second channel");
        assert_eq!(small.outbound_capacity_msat, 0);
        assert_eq!(small.ours_msat, 1_234_567);
        assert_eq!(net.bob.ours_msat().await, PUSH_MSAT + 1_234_567);
        let alice = CHANNEL_SATS * 1_000 - PUSH_MSAT + 400_000_000 - 1_234_567;
        assert_eq!(net.alice.ours_msat().await, alice);
    });
}

/// Whoever closes shop takes all of it along: first what no channel needs, and the rest once they
/// are closed.
#[test]
fn everything_on_chain_goes_to_ones_own_wallet_but_what_channels_need() {
    run(async {
        let net = Net::open().await;
        let node = &net.alice.node;
        let (home, fee) = (chain::nobodys_address("home"), Some(2_000));
        for address in ["nothing", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"] {
            let refused = node.send_all_onchain(address, fee).await;
            assert!(
                matches!(refused, Err(LightningError::Refused { .. })),
                "{refused:?}"
            );
        }
        for fee in [0, 999, 1_000_001, u64::MAX] {
            let refused = node.send_all_onchain(&home, Some(fee)).await;
            assert!(
                matches!(refused, Err(LightningError::Refused { .. })),
                "{refused:?}"
            );
        }
        let txid = node.send_all_onchain(&home, fee).await.expect("send");
        net.until("it is in the mempool", async || {
            let waiting = net.chain.mempool_txids().await.expect("mempool");
            waiting.contains(&txid)
        })
        .await;
        net.mine(6).await;
        let has = node.balances().await.expect("balances");
        // LDK keeps 25,000 sats for a channel that has anchors.
        assert_eq!(has.onchain_msat, 25_000_000);
        assert_eq!(has.channels_msat, CHANNEL_SATS * 1_000 - PUSH_MSAT);
        let nothing = node.send_all_onchain(&home, fee).await;
        assert!(
            matches!(nothing, Err(LightningError::Refused { .. })),
            "{nothing:?}"
        );
        let channel = node.channels().await.expect("channels").remove(0);
        let (id, peer) = (channel.user_channel_id, channel.peer_node_id);
        let closed = node.close_channel(&id, &peer, false).await;
        closed.expect("close");
        net.until_broadcast().await;
        net.mine(6).await;
        let has = node.balances().await.expect("balances");
        assert_eq!((has.channels_msat, has.closing_msat), (0, 0));
        assert!(has.onchain_msat > 25_000_000);
        node.send_all_onchain(&home, fee).await.expect("send");
        net.until_broadcast().await;
        net.mine(6).await;
        let has = node.balances().await.expect("balances");
        assert_eq!((has.onchain_msat, has.closing_msat), (0, 0));
    });
}

#[test]
fn an_event_stays_until_it_is_acknowledged() {
    run(async {
        let mut net = Net::open().await;
        let (bolt11, payment_hash) = net.bob.invoice(20, Some(7_001)).await;
        let sent = net.alice.node.pay(pay(&bolt11)).await;
        assert_eq!(sent, Ok(Dispatch::Accepted));
        // Everything before it away, itself only looked at.
        loop {
            let event = net.bob.peek().await;
            if waits(&event, payment_hash, 7_001) {
                break;
            }
            net.bob.node.acknowledge().await.expect("acknowledge");
        }
        assert!(waits(&net.bob.peek().await, payment_hash, 7_001));
        net.bob.restart().await;
        let early = net.bob.node.acknowledge().await;
        assert!(matches!(early, Err(LightningError::Refused { .. })));
        assert!(waits(&net.bob.peek().await, payment_hash, 7_001));
        net.bob.node.acknowledge().await.expect("acknowledge");

        // Acknowledged and not claimed: a restart does not bring the event back...
        net.bob.restart().await;
        let silent = timeout(Duration::from_millis(1_500), net.bob.node.next_event()).await;
        assert!(silent.is_err(), "{silent:?}");
        // ...but the payment is still there to be claimed.
        let alice = net.alice.node.node_id();
        let address = net.alice.node.listening_addresses().remove(0);
        let connected = net.bob.node.connect(&alice, &address);
        connected.await.expect("connect");
        let claimed = net.bob.node.claim(payment_hash, preimage(20), 7_001);
        claimed.await.expect("claim");
        assert!(matches!(
            net.bob.event().await,
            LightningEvent::Received { .. }
        ));
        assert!(matches!(
            net.alice.event().await,
            LightningEvent::Sent { .. }
        ));
    });
}

#[test]
fn a_store_that_fails_for_a_while_only_delays() {
    run(async {
        let net = Net::open().await;
        let health = net.bob.node.health();
        let (bolt11, payment_hash) = net.bob.invoice(30, Some(9_009)).await;
        net.bob.state.fail_writes(usize::MAX, StoreError::Full);
        let sent = net.alice.node.pay(pay(&bolt11)).await;
        assert_eq!(sent, Ok(Dispatch::Accepted));
        net.until("the health shows it", async || {
            health.report().store_trouble.is_some()
        })
        .await;
        sleep(Duration::from_secs(1)).await;
        let trouble = health.report().store_trouble.expect("trouble");
        assert_eq!(trouble.error, StoreError::Full);
        net.bob.state.heal();
        assert!(matches!(
            net.bob.event().await,
            LightningEvent::Claimable { .. }
        ));
        assert!(health.report().is_good());

        // And of the payer, in the middle of its payment.
        net.alice.state.fail_writes(25, StoreError::OutcomeUnknown);
        let claimed = net.bob.node.claim(payment_hash, preimage(30), 9_009);
        claimed.await.expect("claim");
        assert!(matches!(
            net.bob.event().await,
            LightningEvent::Received { .. }
        ));
        assert!(matches!(
            net.alice.event().await,
            LightningEvent::Sent { .. }
        ));
        net.until("all is well", async || {
            net.alice.node.health().report().is_good()
        })
        .await;
        assert_eq!(
            net.alice.ours_msat().await,
            CHANNEL_SATS * 1_000 - PUSH_MSAT - 9_009
        );
    });
}

#[test]
fn a_fenced_node_stops() {
    run(async {
        let net = Net::open().await;
        let health = net.bob.node.health();
        let (bolt11, _) = net.bob.invoice(40, Some(9_009)).await;
        let written = net.bob.state.applied().len();
        net.bob.state.begin_epoch().await.expect("another epoch");
        let sent = net.alice.node.pay(pay(&bolt11)).await;
        assert_eq!(sent, Ok(Dispatch::Accepted));
        let waiting = timeout(PATIENCE, async {
            while net.bob.node.next_event().await.is_ok() {
                let _ = net.bob.node.acknowledge().await;
            }
        });
        waiting.await.expect("the consumer is told");
        assert!(matches!(
            health.report().fenced,
            Some(StoreError::Fenced { .. })
        ));
        let balances = net.bob.node.balances().await;
        assert_eq!(balances, Err(LightningError::NotRunning));
        let event = net.bob.node.next_event().await;
        assert!(matches!(event, Err(LightningError::Displaced { .. })));
        assert_eq!(net.bob.state.applied().len(), written, "it wrote");
        // Once it has the lease again it runs, on all that the store has.
        net.bob.node.start().await.expect("start again");
        assert_eq!(health.report().fenced, None);
        assert_eq!(net.bob.node.channels().await.expect("channels").len(), 1);
        net.bob.node.stop().await.expect("stop");
    });
}
