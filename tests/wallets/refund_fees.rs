//! What a refund on chain may cost, and who says so.

use std::sync::Arc;

use flashkit::Error;
use flashkit::access::Credential;
use flashkit::invoices::{Invoice, InvoiceState};
use flashkit::refunds::{
    CreateRefund, Refund, RefundAmount, RefundFeeBearer, RefundState, RefundTo,
};
use flashkit::wallets::{WalletOwner, WalletSource};

use crate::racing::Slow;
use crate::scene::Scene;
use crate::sources::{script, servers};
use crate::support::{key, shop};

/// So much of a sale, at this fee.
async fn refund(
    scene: &Scene,
    by: &Credential,
    (sale, name, sats): (&Invoice, &str, i64),
    (fee_sat_per_kvb, fee_bearer): (Option<u64>, RefundFeeBearer),
) -> Result<Refund, &'static str> {
    let command = CreateRefund {
        key: key(name),
        invoice: sale.id,
        to: RefundTo::OnChain {
            address: script(9).1,
            fee_sat_per_kvb,
        },
        amount: RefundAmount::Bitcoin {
            amount_msat: sats * 1_000,
        },
        fee_bearer,
        reason: String::new(),
    };
    let made = scene.engine.refunds().create(by, command).await;
    made.map(|made| made.value)
        .map_err(|error: Error| error.code())
}

/// The operator's wallet has one large coin, so that there is much that comes back, and little that is
/// sent. A till asks for no fee above the fast one, nor lets the operator bear it; and whatever the
/// server says of fees, none out of all proportion is paid unless the issuer has said which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_till_and_no_server_makes_a_small_refund_cost_a_fortune() {
    use RefundFeeBearer::{Customer, Merchant, Operator};

    let servers = servers().await;
    let chain = &servers.chain;
    chain.mine(110).unwrap();
    let slow = Arc::new(Slow::new(servers.sources[0].1.clone()));
    slow.say_fees(100);
    let scene = Scene::open(slow.clone()).await;
    let shop::Merchant { id, till } = shop::merchant(&scene.engine, "Cookshop").await;
    scene
        .wallet(WalletOwner::Operator, WalletSource::Node)
        .await;
    let sale = scene.invoice("sale", id, 100_000_000, 1).await;
    chain
        .fund(&sale.on_chain.as_ref().unwrap().address, 100_000_000)
        .unwrap();
    chain.mine(1).unwrap();
    scene.look().await;
    assert_eq!(scene.now(sale.id).await.state, InvoiceState::Settled);
    let issuer = &scene.issuer;
    for (name, by, fee, bearer, code) in [
        ("till", &till, Some(20_001), Merchant, "access.not_allowed"),
        ("bears", &till, Some(2_000), Operator, "access.not_allowed"),
        ("usual", &till, None, Operator, "access.not_allowed"),
        // Above a million sats, and above a tenth of what is sent: nobody means that.
        (
            "nobody",
            issuer,
            Some(10_000_000),
            Merchant,
            "wallet.fee_too_high",
        ),
        (
            "borne",
            issuer,
            Some(10_000_000),
            Operator,
            "wallet.fee_too_high",
        ),
    ] {
        let refused = refund(&scene, by, (&sale, name, 1_000), (fee, bearer)).await;
        assert_eq!(refused.unwrap_err(), code, "{name}");
    }
    // The server says that the next blocks take 2,000 sat a vbyte.
    slow.set_fast(2_000_000);
    for (name, by, fee, bearer) in [
        ("lies", &till, None, Merchant),
        ("believed", &till, Some(2_000_000), Merchant),
        ("by itself", issuer, None, Operator),
        ("off it", &till, None, Customer),
    ] {
        let refused = refund(&scene, by, (&sale, name, 200_000), (fee, bearer)).await;
        assert_eq!(refused.unwrap_err(), "wallet.fee_too_high", "{name}");
    }
    // The issuer says which.
    let order = (&sale, "meant", 1_000);
    let meant = refund(&scene, issuer, order, (Some(2_000_000), Merchant)).await;
    assert!(meant.unwrap().max_fee_msat > 200_000_000);
    chain.mine(1).unwrap();
    scene.look().await;
    // What is sent is so much that a tenth of it is more.
    let order = (&sale, "large", 10_000_000);
    let large = refund(&scene, &till, order, (None, Merchant))
        .await
        .unwrap();
    assert!(large.max_fee_msat > 50_000_000);
    chain.mine(1).unwrap();
    scene.look().await;
    let done = scene.engine.refunds().get(&till, large.id).await;
    assert_eq!(done.unwrap().state, RefundState::Succeeded);
    // And at a fee as it is, any till pays back.
    slow.set_fast(20_000);
    let order = (&sale, "small", 1_000);
    refund(&scene, &till, order, (Some(20_000), Merchant))
        .await
        .unwrap();
}
