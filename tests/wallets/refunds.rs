//! Refunds to an address on chain: set aside with the spend, ended by its transaction.

use flashkit::ids::{InvoiceId, MerchantId};
use flashkit::ledger::{Account, Side};
use flashkit::refunds::{
    CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundState, RefundTo,
};
use flashkit::wallets::{
    BumpSpend, CancelSpend, SpendState, SubmitSpend, WalletOwner, WalletSource, XpubKind,
};

use crate::scene::{Scene, Signer};
use crate::sources::{Servers, script, servers};
use crate::support::key;

struct World {
    scene: Scene,
    servers: Servers,
    merchant: MerchantId,
    sale: InvoiceId,
}

impl World {
    /// A sale of 60,000 sats that came to the operator's wallet, and one of 40,000.
    async fn new(source: WalletSource) -> Self {
        let servers = servers().await;
        servers.chain.mine(110).unwrap();
        let scene = Scene::open(servers.sources[0].1.clone()).await;
        let merchant = scene.merchant().await;
        scene.wallet(WalletOwner::Operator, source).await;
        let sale = scene.invoice("sale", merchant, 60_000, 1).await;
        let more = scene.invoice("more", merchant, 40_000, 1).await;
        for (invoice, sats) in [(&sale, 60_000), (&more, 40_000)] {
            let address = &invoice.on_chain.as_ref().unwrap().address;
            servers.chain.fund(address, sats).unwrap();
        }
        let sale = sale.id;
        let world = Self {
            scene,
            servers,
            merchant,
            sale,
        };
        world.mine().await;
        assert_eq!(world.payable().await, (100_000, 100_000));
        world
    }

    async fn mine(&self) {
        self.servers.chain.mine(1).unwrap();
        self.scene.look().await;
    }

    async fn refund(
        &self,
        name: &str,
        sats: i64,
        bearer: RefundFeeBearer,
    ) -> Result<Refund, &'static str> {
        let command = CreateRefund {
            key: key(name),
            invoice: self.sale,
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

    async fn now(&self, refund: &Refund) -> Refund {
        let refunds = self.scene.engine.refunds();
        refunds
            .get(&self.scene.issuer, refund.id)
            .await
            .unwrap()
            .value
    }

    /// What the merchant is owed, and what of it is not set aside, in sats.
    async fn payable(&self) -> (i128, i128) {
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
    assert_eq!(world.now(&refund).await.state, RefundState::Failed);
    assert_eq!(
        (world.payable().await, world.flags().await),
        ((100_000, 100_000), (0, 0))
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
