//! Points of a sale that is paid back on chain, while the block of the refund comes and goes.

use std::sync::Arc;

use flashkit::Engine;
use flashkit::cards::{CardLimits, PayWithCard};
use flashkit::invoices::{CreateInvoice, InvoiceOptions, InvoicePurpose};
use flashkit::ledger::{Account, Side};
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::refunds::{RefundFeeBearer, RefundState};
use flashkit::wallets::{CancelSpend, XpubKind};

use crate::refunds::{World, signed};
use crate::scene::Signer;
use crate::spending::everything;
use crate::support::key;
use crate::support::shop::{self, SAT, sat};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_go_back_once_and_come_again_only_when_the_refund_failed() {
    let signer = Signer::new(82);
    let mut world = World::new(signer.xpub(XpubKind::SegwitV0)).await;
    let network = SimulatedNetwork::new(world.clock.clone());
    let with_node = Engine::builder(world.scene.store.clone(), shop::master())
        .network("regtest")
        .clock(world.clock.clone())
        .lightning(Arc::new(network.node(0)))
        .open()
        .await
        .unwrap();
    with_node.start().await.unwrap();
    let (merchant, issuer) = (world.merchant, with_node.issuer());
    let program = shop::program(&with_node, merchant).await;
    let mut card = shop::card(&with_node, shop::UID, CardLimits::default()).await;
    shop::fund(&*world.scene.store, 1, card.id, 50_000 * SAT).await;
    let command = CreateInvoice {
        key: key("points"),
        purpose: InvoicePurpose::Sale { merchant },
        price: Some(sat(10_000)),
        description: "points".to_owned(),
        expiry_seconds: 600,
        options: InvoiceOptions::default(),
    };
    let sale = with_node.invoices().create(&issuer, command).await.unwrap();
    let command = PayWithCard {
        key: key("pay"),
        tap: card.chip.tap(),
        bolt11: sale.bolt11.clone(),
        pin: None,
    };
    let paid = with_node.cards().pay(&issuer, command).await.unwrap();
    assert_eq!(paid.points, 200);
    world.sale = sale.id;
    // Of the same coins, signed and given up: the refund loses to it later.
    let rival = world
        .scene
        .prepare("rival", world.wallet, everything())
        .await;
    let rival = rival.unwrap();
    let command = CancelSpend {
        key: key("cancel"),
        spend: rival.id,
    };
    let wallets = world.scene.engine.wallets();
    wallets
        .cancel_spend(&world.scene.issuer, command)
        .await
        .unwrap();
    let points = Account::points_balance(card.id, program);
    let had = world.payable().await;
    let bearer = RefundFeeBearer::Operator;
    let refund = world.refund("refund", 5_000, bearer).await.unwrap();
    let spend = world.spend_of(&refund).await;
    let ours = Some(signer.sign(&spend.psbt));
    world.scene.submit("ours", spend.id, ours).await.unwrap();
    world.mine().await;
    // 5,000 have left, and the 100 that were set aside for the points are the merchant's.
    let left = had.0 - 4_900;
    for _ in 0..2 {
        assert_eq!(world.now(&refund).await.state, RefundState::Succeeded);
        assert_eq!(world.payable().await, (left, left));
        assert_eq!(world.scene.posted(points, Side::Credit).await, 100);
        world.servers.chain.reorg(1).unwrap();
        world.scene.look().await;
        assert_eq!(world.now(&refund).await.state, RefundState::Sending);
        assert_eq!(world.payable().await, (left + 5_000, left));
        assert_eq!(world.scene.posted(points, Side::Credit).await, 100);
        world.mine().await;
    }
    let depth = 2;
    world.blocks(depth, &[signed(&signer, &rival)], 6);
    world.scene.look().await;
    world.later().await;
    assert_eq!(world.now(&refund).await.state, RefundState::Failed);
    assert_eq!(world.payable().await, had);
    assert_eq!(world.scene.posted(points, Side::Credit).await, 200);
    with_node.stop().await.unwrap();
}
