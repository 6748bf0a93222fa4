//! The record that ldk-node keeps of an invoice is durable before anybody has the invoice.

use std::sync::Arc;
use std::time::Duration;

use flashkit::lightning::{InvoiceRequest, LightningNode};
use flashkit::store::StoreError;
use flashkit::testkit::chain;
use tokio::task::JoinSet;

use super::{FaultyKeyValue, Instant, PATIENCE, Party, build, preimage, run, sleep};

const CALLERS: u8 = 8;

fn request(secret: u8) -> InvoiceRequest {
    InvoiceRequest {
        payment_hash: preimage(secret).payment_hash(),
        amount_msat: Some(9_009),
        description: "two coffees".to_owned(),
        description_hash: None,
        expiry_seconds: 3_600,
    }
}

fn has_record(state: &FaultyKeyValue, secret: u8) -> bool {
    let hash = preimage(secret).payment_hash().to_string();
    state.value("payments", "", &hash).is_some()
}

/// The disk is full between the moment when the records are queued and the flush: whoever pulls the
/// plug now leaves nobody with an invoice that the node does not know.
#[test]
fn no_invoice_is_given_out_before_its_record_is_durable() {
    run(async {
        let chain = chain::from_env().await.expect("chain");
        let Party { config, state, .. } = Party::new(7, &*chain);
        let node = Arc::new(build(&config, &state));
        node.start().await.expect("start");

        state.fail_writes(usize::MAX, StoreError::Full);
        let mut asked = JoinSet::new();
        for secret in 1..=CALLERS {
            let node = node.clone();
            asked.spawn(async move { node.create_invoice(request(secret)).await });
        }
        // All of them wait for the disk, and none for another: ldk-node's lock is free.
        let (health, begun) = (node.health(), Instant::now());
        let waiting = || {
            let trouble = health.report().store_trouble;
            trouble.map_or(0, |trouble| trouble.writes_waiting)
        };
        while waiting() < usize::from(CALLERS) {
            assert!(begun.elapsed() < PATIENCE, "{} wait", waiting());
            sleep(Duration::from_millis(5)).await;
        }
        assert!(asked.try_join_next().is_none(), "one was given out");
        let killed = state.snapshot();
        assert!((1..=CALLERS).all(|secret| !has_record(&killed, secret)));

        state.heal();
        let mut made = 0;
        while let Some(bolt11) = asked.join_next().await {
            bolt11.expect("task").expect("invoice");
            made += 1;
        }
        assert_eq!(made, CALLERS);
        assert!((1..=CALLERS).all(|secret| has_record(&state, secret)));

        // A process that was killed then makes them anew, and one killed now knows them.
        for (state, is_known) in [(killed, false), (state.snapshot(), true)] {
            node.stop().await.expect("stop");
            let next = build(&config, &state);
            next.start().await.expect("start");
            let hash = preimage(1).payment_hash();
            let known = next.payment(hash).await.expect("asked");
            assert_eq!(known.is_some(), is_known);
            next.create_invoice(request(1)).await.expect("made");
            next.stop().await.expect("stop");
        }
    });
}
