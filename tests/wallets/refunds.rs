//! Refunds to an address on chain: set aside with the spend, ended by its transaction.

use std::sync::Arc;
use std::time::Duration;

use flashkit::chain::ChainSource;
use flashkit::chain::bitcoin::Transaction;
use flashkit::chain::bitcoin::consensus::encode::deserialize_hex;
use flashkit::ids::{InvoiceId, MerchantId, WalletId};
use flashkit::ledger::{Account, Side};
use flashkit::ports::{Clock, SystemClock};
use flashkit::refunds::{
    CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundOutcome, RefundState, RefundTo,
    ResolveRefund,
};
use flashkit::store::MemoryStore;
use flashkit::testkit::clock::ManualClock;
use flashkit::wallets::{
    BumpSpend, CancelSpend, Spend, SpendState, SubmitSpend, WalletOwner, WalletSource, XpubKind,
};

use crate::racing::Slow;
use crate::scene::{Scene, Signer};
use crate::sources::{Servers, script, servers};
use crate::spending::everything;
use crate::support::key;

pub(crate) struct World {
    pub(crate) scene: Scene,
    pub(crate) servers: Servers,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) merchant: MerchantId,
    pub(crate) wallet: WalletId,
    pub(crate) sale: InvoiceId,
    more: InvoiceId,
}

impl World {
    /// A sale of 60,000 sats that came to the operator's wallet, and one of 40,000.
    pub(crate) async fn new(source: WalletSource) -> Self {
        Self::over(source, |chain| chain).await
    }

    /// The same over what is made of its source of the chain.
    async fn over(
        source: WalletSource,
        made_of: impl FnOnce(Arc<dyn ChainSource>) -> Arc<dyn ChainSource>,
    ) -> Self {
        let servers = servers().await;
        servers.chain.mine(110).unwrap();
        let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let chain = made_of(servers.sources[0].1.clone());
        let scene = Scene::at(store, chain, clock.clone()).await;
        let merchant = scene.merchant().await;
        let wallet = scene.wallet(WalletOwner::Operator, source).await.id;
        let sale = scene.invoice("sale", merchant, 60_000, 1).await;
        let more = scene.invoice("more", merchant, 40_000, 1).await;
        for (invoice, sats) in [(&sale, 60_000), (&more, 40_000)] {
            let address = &invoice.on_chain.as_ref().unwrap().address;
            servers.chain.fund(address, sats).unwrap();
        }
        let (sale, more) = (sale.id, more.id);
        let world = Self {
            scene,
            servers,
            clock,
            merchant,
            wallet,
            sale,
            more,
        };
        world.mine().await;
        assert_eq!(world.payable().await, (100_000, 100_000));
        world
    }

    pub(crate) async fn mine(&self) {
        self.servers.chain.mine(1).unwrap();
        self.scene.look().await;
    }

    pub(crate) async fn refund(
        &self,
        name: &str,
        sats: i64,
        bearer: RefundFeeBearer,
    ) -> Result<Refund, &'static str> {
        self.refund_of(self.sale, name, sats, bearer).await
    }

    async fn refund_of(
        &self,
        invoice: InvoiceId,
        name: &str,
        sats: i64,
        bearer: RefundFeeBearer,
    ) -> Result<Refund, &'static str> {
        let command = CreateRefund {
            key: key(name),
            invoice,
            to: RefundTo::OnChain {
                address: script(9).1,
                fee_sat_per_kvb: Some(2_000),
            },
            amount: RefundAmount::Bitcoin {
                amount_msat: sats * 1_000,
            },
            fee_bearer: bearer,
            reason: String::new(),
        };
        let refunds = self.scene.engine.refunds();
        let made = refunds.create(&self.scene.issuer, command).await;
        made.map(|made| made.value).map_err(|error| error.code())
    }

    pub(crate) async fn now(&self, refund: &Refund) -> Refund {
        let refunds = self.scene.engine.refunds();
        refunds
            .get(&self.scene.issuer, refund.id)
            .await
            .unwrap()
            .value
    }

    /// A person says that a refund failed.
    async fn nobody_signed(&self, refund: &Refund) -> Result<(), &'static str> {
        let command = ResolveRefund {
            key: key(&format!(
                "resolve-{}-{:?}",
                refund.id,
                self.now(refund).await.state
            )),
            refund: refund.id,
            outcome: RefundOutcome::Failed,
            reason: "never signed".to_owned(),
            despite_record: false,
        };
        let refunds = self.scene.engine.refunds();
        let resolved = refunds.resolve(&self.scene.issuer, command).await;
        resolved.map(drop).map_err(|error| error.code())
    }

    pub(crate) async fn spend_of(&self, refund: &Refund) -> Spend {
        let wallets = self.scene.engine.wallets();
        let spend = refund.spend.unwrap();
        wallets
            .spend(&self.scene.issuer, spend)
            .await
            .unwrap()
            .value
    }

    async fn cancel(&self, refund: &Refund) {
        let command = CancelSpend {
            key: key(&format!("cancel-{}", refund.id)),
            spend: refund.spend.unwrap(),
        };
        let wallets = self.scene.engine.wallets();
        let cancelled = wallets.cancel_spend(&self.scene.issuer, command).await;
        cancelled.unwrap();
    }

    /// As after a day, with the jobs that are due then.
    pub(crate) async fn later(&self) {
        self.clock.advance(Duration::from_secs(86_400));
        let run = self.scene.engine.run_due_jobs().await.unwrap();
        assert_eq!(run.failed, []);
    }

    /// Everything that the wallet has goes elsewhere.
    async fn empty(&self, name: &str, signer: &Signer) -> Spend {
        let spend = self.scene.prepare(name, self.wallet, everything()).await;
        let spend = spend.unwrap();
        let signed = Some(signer.sign(&spend.psbt));
        self.scene.submit(name, spend.id, signed).await.unwrap();
        spend
    }

    /// The last `depth` blocks make room for so many more, the first of which has these.
    pub(crate) fn blocks(&self, depth: u32, first: &[Transaction], more: usize) {
        let mut contents = vec![first.to_vec()];
        contents.resize(usize::try_from(depth).unwrap() + 1 + more, Vec::new());
        self.servers.chain.replace(depth, contents).unwrap();
    }

    async fn owed(&self) -> i128 {
        let account = Account::merchant_receivable(self.merchant);
        self.scene.posted(account, Side::Debit).await / 1_000
    }

    /// The kinds of a refund's events, and that every one has the refund as it stood.
    async fn told(&self, refund: &Refund) -> Vec<String> {
        let events = self.scene.store.events(0, 1_000).await.unwrap();
        let its = events
            .into_iter()
            .filter(|event| event.object == refund.id.to_string());
        its.map(|event| event.kind).collect()
    }

    /// What stands in the books on chain is what the wallet has in blocks.
    async fn tied(&self) {
        let wallets = self.scene.engine.wallets();
        let has = wallets.balance(&self.scene.issuer, self.wallet).await;
        let has = i128::from(has.unwrap().value.confirmed_sat) * 1_000;
        let booked = self
            .scene
            .posted(Account::node_onchain(), Side::Debit)
            .await;
        assert_eq!(booked, has);
    }

    /// What the merchant is owed, and what of it is not set aside, in sats.
    pub(crate) async fn payable(&self) -> (i128, i128) {
        let account = Account::merchant_payable(self.merchant);
        let balance = self.scene.store.balance(&account).await.unwrap();
        (
            balance.posted(Side::Credit) / 1_000,
            balance.available(Side::Credit) / 1_000,
        )
    }

    async fn flags(&self) -> (i64, i64) {
        let flags = self.scene.now(self.sale).await.flags;
        (flags.refunding_msat / 1_000, flags.refunded_msat / 1_000)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_on_chain_is_signed_sent_and_done_with_its_block() {
    let world = World::new(WalletSource::Node).await;
    let too_much = world
        .refund("more", 60_001, RefundFeeBearer::Merchant)
        .await;
    assert_eq!(too_much, Err("refund.exceeds_paid"));
    let dust = world.refund("dust", 100, RefundFeeBearer::Merchant).await;
    assert_eq!(dust, Err("chain.dust"));
    let refund = world
        .refund("refund", 20_000, RefundFeeBearer::Merchant)
        .await
        .unwrap();
    let fee = i128::from(refund.max_fee_msat / 1_000);
    assert!(fee > 0 && refund.state == RefundState::Sending);
    assert_eq!(world.payable().await, (100_000, 80_000 - fee));
    assert_eq!(world.flags().await, (20_000, 0));
    let wallets = world.scene.engine.wallets();
    let spend = wallets
        .spend(&world.scene.issuer, refund.spend.unwrap())
        .await
        .unwrap();
    assert_eq!(spend.state, SpendState::Broadcast);
    let again = world
        .refund("refund", 20_000, RefundFeeBearer::Merchant)
        .await
        .unwrap();
    assert_eq!(again.id, refund.id);
    world.mine().await;
    let done = world.now(&refund).await;
    assert_eq!(
        (done.state, done.fee_msat),
        (RefundState::Succeeded, Some(done.max_fee_msat))
    );
    assert_eq!(world.payable().await, (80_000 - fee, 80_000 - fee));
    assert_eq!(world.flags().await, (0, 20_000));
    // Whoever is paid back bears the fee: it comes off what arrives.
    let borne = world
        .refund("borne", 30_000, RefundFeeBearer::Customer)
        .await
        .unwrap();
    assert_eq!(borne.sent_msat + borne.max_fee_msat, 30_000_000);
    world.mine().await;
    assert_eq!(world.payable().await.0, 50_000 - fee);
    assert_eq!(world.flags().await, (0, 50_000));
    let on_chain = world
        .scene
        .posted(Account::node_onchain(), Side::Debit)
        .await;
    assert_eq!(on_chain, (50_000 - fee) * 1_000);
}

/// What the network does not take while its mempool is full it takes another day, and nobody has to
/// come for that. One that was given up is left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_the_network_refuses_is_broadcast_again() {
    let mut refusing = None;
    let world = World::over(WalletSource::Node, |chain| {
        refusing.insert(Arc::new(Slow::new(chain))).clone()
    })
    .await;
    let refusing = refusing.unwrap();
    let bearer = RefundFeeBearer::Operator;
    refusing.set_refuses(true);
    let refund = world.refund("refund", 20_000, bearer).await.unwrap();
    let given_up = world.refund("given up", 10_000, bearer).await.unwrap();
    for _ in 0..2 {
        let spend = world.spend_of(&refund).await;
        let why = spend.refusal.as_deref();
        assert_eq!(
            (spend.state, why),
            (SpendState::Refused, Some("too little"))
        );
        world.later().await;
    }
    world.cancel(&given_up).await;
    let (told, _) = world.scene.told(0).await;
    let refused = |kind: &&String| *kind == "wallet.spend_refused";
    assert_eq!(told.iter().filter(refused).count(), 2, "each told once");
    refusing.set_refuses(false);
    world.later().await;
    let spend = world.spend_of(&refund).await;
    assert_eq!((spend.state, spend.refusal), (SpendState::Broadcast, None));
    let left_alone = world.spend_of(&given_up).await;
    assert_eq!(left_alone.state, SpendState::Cancelled);
    world.mine().await;
    assert_eq!(world.now(&refund).await.state, RefundState::Succeeded);
    assert_eq!(world.now(&given_up).await.state, RefundState::Unknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dearer_transaction_in_its_place_costs_the_operator_the_more() {
    let world = World::new(WalletSource::Node).await;
    let refund = world
        .refund("refund", 20_000, RefundFeeBearer::Merchant)
        .await
        .unwrap();
    let fee = i128::from(refund.max_fee_msat / 1_000);
    let wallets = world.scene.engine.wallets();
    let command = BumpSpend {
        key: key("bump"),
        spend: refund.spend.unwrap(),
        fee_sat_per_kvb: 9_000,
    };
    let issuer = &world.scene.issuer;
    let better = wallets.bump_spend(issuer, command).await.unwrap();
    let command = SubmitSpend {
        key: key("submit"),
        spend: better.id,
        psbt: None,
    };
    wallets.submit_spend(issuer, command).await.unwrap();
    world.mine().await;
    assert_eq!(world.now(&refund).await.state, RefundState::Succeeded);
    assert_eq!(world.payable().await, (80_000 - fee, 80_000 - fee));
    let more = world
        .scene
        .posted(Account::routing_fees(), Side::Debit)
        .await;
    assert_eq!(more / 1_000, i128::from(better.fee_sat) - fee);
    let on_chain = world
        .scene
        .store
        .balance(&Account::node_onchain())
        .await
        .unwrap();
    assert_eq!(on_chain.credits_pending, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_waits_for_its_signers_can_be_given_up() {
    let signer = Signer::new(77);
    let world = World::new(signer.xpub(XpubKind::SegwitV0)).await;
    let refund = world
        .refund("refund", 20_000, RefundFeeBearer::Operator)
        .await
        .unwrap();
    let wallets = world.scene.engine.wallets();
    let issuer = &world.scene.issuer;
    let spend = refund.spend.unwrap();
    assert_eq!(
        wallets.spend(issuer, spend).await.unwrap().state,
        SpendState::Prepared
    );
    assert_eq!(world.payable().await, (100_000, 80_000));
    let command = CancelSpend {
        key: key("cancel"),
        spend,
    };
    wallets.cancel_spend(issuer, command).await.unwrap();
    // Whoever has read it may have signed it: that nobody has is for a person to say.
    assert_eq!(world.now(&refund).await.state, RefundState::Unknown);
    assert_eq!(
        (world.payable().await, world.flags().await),
        ((100_000, 80_000), (20_000, 0))
    );
    world.nobody_signed(&refund).await.unwrap();
    assert_eq!(world.now(&refund).await.state, RefundState::Failed);
    assert_eq!(
        (world.payable().await, world.flags().await),
        ((100_000, 100_000), (0, 0))
    );
    assert_eq!(
        world.nobody_signed(&refund).await,
        Err("refund.wrong_state")
    );
    let second = world
        .refund("second", 20_000, RefundFeeBearer::Operator)
        .await
        .unwrap();
    let found = wallets.spend(issuer, second.spend.unwrap()).await.unwrap();
    let command = SubmitSpend {
        key: key("signed"),
        spend: found.id,
        psbt: Some(signer.sign(&found.psbt)),
    };
    wallets.submit_spend(issuer, command).await.unwrap();
    world.mine().await;
    assert_eq!(world.now(&second).await.state, RefundState::Succeeded);
    assert_eq!(world.payable().await, (80_000, 80_000));
    let fee = world
        .scene
        .posted(Account::routing_fees(), Side::Debit)
        .await;
    assert_eq!(fee, i128::from(found.fee_sat) * 1_000);
}

/// What a signer made of a spend.
pub(crate) fn signed(signer: &Signer, spend: &Spend) -> Transaction {
    let signed = signer.sign(&spend.psbt);
    let signed = flashkit::wallets::signed_transaction(&spend.psbt, &signed);
    deserialize_hex(&signed.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_and_arrives_all_the_same_is_the_refund() {
    for kind in [XpubKind::SegwitV0, XpubKind::NestedSegwit] {
        let signer = Signer::new(78);
        let world = World::new(signer.xpub(kind)).await;
        let bearer = RefundFeeBearer::Operator;
        let refund = world.refund("refund", 20_000, bearer).await.unwrap();
        // Signed, and never given back.
        let spend = world.spend_of(&refund).await;
        let transaction = signed(&signer, &spend);
        assert_eq!(world.nobody_signed(&refund).await, Err("refund.in_flight"));
        world.cancel(&refund).await;
        world.later().await;
        assert_eq!(world.now(&refund).await.state, RefundState::Unknown);
        assert_eq!(world.payable().await, (100_000, 80_000));
        // It counts: no more than the rest can be paid back meanwhile.
        let second = world.refund("second", 40_001, bearer).await;
        assert_eq!(second, Err("refund.exceeds_paid"));
        world.servers.chain.submit(transaction).unwrap();
        world.scene.look().await;
        assert_eq!(world.now(&refund).await.state, RefundState::Sending);
        world.mine().await;
        let done = world.now(&refund).await;
        let fee_msat = i64::try_from(spend.fee_sat).unwrap() * 1_000;
        assert_eq!(
            (done.state, done.fee_msat),
            (RefundState::Succeeded, Some(fee_msat)),
            "{kind:?}"
        );
        assert_eq!(world.payable().await, (80_000, 80_000));
        assert_eq!(world.flags().await, (0, 20_000));
        world.tied().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_has_failed_once_its_coins_are_spent_for_good() {
    let signer = Signer::new(79);
    let world = World::new(signer.xpub(XpubKind::SegwitV0)).await;
    let bearer = RefundFeeBearer::Operator;
    let height = world.servers.chain.height().unwrap();
    let refund = world.refund("refund", 20_000, bearer).await.unwrap();
    let transaction = signed(&signer, &world.spend_of(&refund).await);
    world.cancel(&refund).await;
    let rival = world.empty("conflict", &signer).await;
    let rival = signed(&signer, &rival);
    for block in 1..6 {
        world.mine().await;
        world.later().await;
        let now = world.now(&refund).await;
        assert_eq!(now.state, RefundState::Unknown, "block {block}");
        assert_eq!(world.payable().await, (100_000, 80_000));
    }
    world.mine().await;
    world.later().await;
    assert_eq!(world.now(&refund).await.state, RefundState::Failed);
    assert_eq!(world.payable().await, (100_000, 100_000));
    assert_eq!(world.flags().await, (0, 0));
    // All of it is paid back in another way, and the merchant has nothing left.
    let fund = world.scene.address(world.wallet, "fund").await.address;
    world.servers.chain.fund(&fund, 200_000).unwrap();
    world.mine().await;
    for (invoice, name, sats) in [(world.sale, "all", 60_000), (world.more, "rest", 40_000)] {
        let other = world.refund_of(invoice, name, sats, bearer).await.unwrap();
        let spend = world.spend_of(&other).await;
        let signed = Some(signer.sign(&spend.psbt));
        world.scene.submit(name, spend.id, signed).await.unwrap();
        world.mine().await;
        assert_eq!(world.now(&other).await.state, RefundState::Succeeded);
    }
    assert_eq!((world.payable().await, world.owed().await), ((0, 0), 0));
    // The blocks of the other are gone after all: it has left, and is the refund's.
    let depth = || world.servers.chain.height().unwrap() - height;
    world.blocks(depth(), std::slice::from_ref(&transaction), 0);
    world.scene.look().await;
    let late = world.now(&refund).await;
    assert_eq!(late.state, RefundState::Succeeded, "{late:?}");
    assert_eq!(world.owed().await, 20_000);
    // Its block goes and comes: it is paid once.
    for _ in 0..2 {
        world.blocks(depth(), &[], 1);
        world.scene.look().await;
        assert_eq!(world.now(&refund).await.state, RefundState::Sending);
        world.blocks(depth(), std::slice::from_ref(&transaction), 0);
        world.scene.look().await;
        assert_eq!(world.now(&refund).await.state, RefundState::Succeeded);
        assert_eq!(world.owed().await, 20_000);
    }
    // And is gone for good, for what had won before: it is owed no more, and comes back to nobody
    // beside that. The two others are on their way again.
    world.blocks(depth(), &[rival], 6);
    world.scene.look().await;
    world.later().await;
    assert_eq!(world.now(&refund).await.state, RefundState::Failed);
    assert_eq!(
        (world.payable().await, world.owed().await),
        ((100_000, 0), 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_said_had_failed_and_arrives_is_the_refund() {
    let signer = Signer::new(80);
    let world = World::new(signer.xpub(XpubKind::SegwitV0)).await;
    let bearer = RefundFeeBearer::Merchant;
    let refund = world.refund("refund", 20_000, bearer).await.unwrap();
    let spend = world.spend_of(&refund).await;
    world.cancel(&refund).await;
    world.nobody_signed(&refund).await.unwrap();
    assert_eq!(world.payable().await, (100_000, 100_000));
    world.servers.chain.submit(signed(&signer, &spend)).unwrap();
    world.mine().await;
    assert_eq!(world.now(&refund).await.state, RefundState::Succeeded);
    let left = 80_000 - i128::from(spend.fee_sat);
    assert_eq!(world.payable().await, (left, left));
    assert_eq!((world.flags().await, world.owed().await), ((0, 20_000), 0));
    world.tied().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_whose_block_is_gone_is_on_its_way_again() {
    let world = World::new(WalletSource::Node).await;
    let bearer = RefundFeeBearer::Merchant;
    let refund = world.refund("refund", 20_000, bearer).await.unwrap();
    let fee = i128::from(refund.max_fee_msat / 1_000);
    world.mine().await;
    for round in 0..2 {
        assert_eq!(world.now(&refund).await.state, RefundState::Succeeded);
        world.servers.chain.reorg(1).unwrap();
        world.scene.look().await;
        let now = world.now(&refund).await;
        assert_eq!((now.state, now.fee_msat), (RefundState::Sending, None));
        assert_eq!(world.payable().await, (100_000, 80_000 - fee));
        assert_eq!(world.flags().await, (20_000, 0));
        let name = format!("second{round}");
        let second = world.refund(&name, 40_001, bearer).await;
        assert_eq!(second, Err("refund.exceeds_paid"));
        let booked = world
            .scene
            .posted(Account::node_onchain(), Side::Debit)
            .await;
        assert_eq!(booked, 100_000_000);
        world.mine().await;
        assert_eq!(world.payable().await, (80_000 - fee, 80_000 - fee));
        assert_eq!(world.flags().await, (0, 20_000));
        world.tied().await;
    }
    let [sending, done, gone] = ["refund.sending", "refund.succeeded", "refund.reorged"];
    assert_eq!(
        world.told(&refund).await,
        [sending, done, gone, done, gone, done]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_that_lost_after_it_was_in_a_block_is_the_merchants_again() {
    let signer = Signer::new(81);
    let world = World::new(signer.xpub(XpubKind::SegwitV0)).await;
    let bearer = RefundFeeBearer::Merchant;
    // Of the same keys, and unknown to the books of the refund.
    let first = world.refund("first", 20_000, bearer).await.unwrap();
    let rival = signed(&signer, &world.spend_of(&first).await);
    world.cancel(&first).await;
    world.nobody_signed(&first).await.unwrap();
    let refund = world.refund("refund", 30_000, bearer).await.unwrap();
    let spend = world.spend_of(&refund).await;
    assert_eq!(spend.coins, world.spend_of(&first).await.coins);
    let ours = Some(signer.sign(&spend.psbt));
    world.scene.submit("ours", spend.id, ours).await.unwrap();
    world.mine().await;
    assert_eq!(world.now(&refund).await.state, RefundState::Succeeded);
    world.blocks(1, &[rival], 0);
    world.scene.look().await;
    // The one that was thought to have failed is paid, and the other may come back.
    assert_eq!(world.now(&first).await.state, RefundState::Succeeded);
    world.later().await;
    assert_eq!(world.now(&refund).await.state, RefundState::Unknown);
    assert_eq!(world.flags().await, (30_000, 20_000));
    world.tied().await;
    for _ in 1..6 {
        world.mine().await;
    }
    world.later().await;
    assert_eq!(world.now(&refund).await.state, RefundState::Failed);
    assert_eq!(world.flags().await, (0, 20_000));
    let left = 80_000 - i128::from(first.max_fee_msat / 1_000);
    assert_eq!(world.payable().await, (left, left));
    assert_eq!(world.told(&refund).await.last().unwrap(), "refund.failed");
}

/// The second spends the change of the first, which a dearer one takes the place of: that change is
/// never made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_whose_coin_is_never_made_fails_and_can_be_made_again() {
    let world = World::new(WalletSource::Node).await;
    let bearer = RefundFeeBearer::Operator;
    let first = world.refund("first", 10_000, bearer).await.unwrap();
    world.scene.look().await;
    let second = world.refund("second", 45_000, bearer).await.unwrap();
    let spend = world.spend_of(&second).await;
    let made = world.spend_of(&first).await.txid.unwrap();
    assert!(spend.coins.iter().any(|coin| coin.starts_with(&made)));
    let wallets = world.scene.engine.wallets();
    let issuer = &world.scene.issuer;
    let command = BumpSpend {
        key: key("bump"),
        spend: first.spend.unwrap(),
        fee_sat_per_kvb: 20_000,
    };
    let better = wallets.bump_spend(issuer, command).await.unwrap();
    let command = SubmitSpend {
        key: key("submit"),
        spend: better.id,
        psbt: None,
    };
    wallets.submit_spend(issuer, command).await.unwrap();
    world.mine().await;
    assert_eq!(world.now(&first).await.state, RefundState::Succeeded);
    let now = world.now(&second).await;
    assert_eq!(now.state, RefundState::Unknown, "{now:?}");
    assert_eq!(world.payable().await, (90_000, 45_000));
    for _ in 1..6 {
        world.mine().await;
    }
    world.later().await;
    assert_eq!(world.now(&second).await.state, RefundState::Failed);
    assert_eq!(world.payable().await, (90_000, 90_000));
    let again = world.refund("again", 45_000, bearer).await.unwrap();
    world.mine().await;
    assert_eq!(world.now(&again).await.state, RefundState::Succeeded);
    assert_eq!(world.payable().await, (45_000, 45_000));
    world.tied().await;
}

/// What is sent and what it costs come to no more than what was asked for, whichever coins it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_that_bears_the_fee_bears_all_of_it() {
    let world = World::new(WalletSource::Node).await;
    let bearer = RefundFeeBearer::Customer;
    // With the fee on top it takes two coins, without it one.
    // What somebody else has only sent is not spent: it may never come.
    let address = world.scene.address(world.wallet, "sent").await.address;
    world.servers.chain.fund(&address, 90_000).unwrap();
    world.scene.look().await;
    let made = world
        .scene
        .prepare("everything", world.wallet, everything());
    let made = made.await.unwrap();
    assert_eq!(made.coins.len(), 2, "the two that are in a block");
    let command = CancelSpend {
        key: key("cancel"),
        spend: made.id,
    };
    let wallets = world.scene.engine.wallets();
    let cancelled = wallets.cancel_spend(&world.scene.issuer, command).await;
    cancelled.unwrap();
    for (name, sats) in [("one", 39_900), ("two", 20_000)] {
        let refund = world.refund(name, sats, bearer).await.unwrap();
        assert!(refund.sent_msat + refund.max_fee_msat <= sats * 1_000);
        world.mine().await;
    }
    let (payable, _) = world.payable().await;
    assert!(payable >= 100_000 - 59_900, "{payable}");
}

/// A coin that fits without change is the cheapest, and fits no more once its fee comes off: what is
/// sent and the fee of the coins that are taken then are looked at together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_fee_changes_with_what_it_leaves_both_are_no_more_than_the_amount() {
    let signer = Signer::new(82);
    let world = World::new(signer.xpub(XpubKind::SegwitV0)).await;
    // One of the two coins is of 40,000 sats, and takes about 220 to spend.
    for sats in (39_400..39_900).step_by(10) {
        let name = format!("of-{sats}");
        let bearer = RefundFeeBearer::Customer;
        let refund = world.refund(&name, sats, bearer).await.unwrap();
        let spend = world.spend_of(&refund).await;
        let leaves_msat = refund.sent_msat + refund.max_fee_msat;
        assert!(leaves_msat <= sats * 1_000, "{sats}: {refund:?}");
        assert_eq!(
            i64::try_from(spend.fee_sat).unwrap() * 1_000,
            refund.max_fee_msat
        );
        world.cancel(&refund).await;
        world.nobody_signed(&refund).await.unwrap();
    }
}
