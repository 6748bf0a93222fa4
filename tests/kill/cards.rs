//! A card pays somebody else's invoice by LNURL-withdraw, and the process is killed in the middle:
//! what its till is told, before and afterwards, agrees with what became of the money.

use std::time::Duration;

use flashkit::cards::{CardPayment, CardPaymentState};
use flashkit::ledger::Account;
use flashkit::lightning::{Bolt11Details, InvoiceRequest, LightningNode, PaymentHash, Preimage};
use flashkit::testkit::virtual_card::VirtualCard;
use serde_json::{Value, json};

use crate::support::shop::SAT;
use crate::support::until;
use crate::{World, rounds};

/// How a payment ends that is not known yet when the process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Arrives,
    ComesBack,
}

fn ok() -> Value {
    json!({"status": "OK"})
}

fn pending() -> Value {
    json!({"status": "OK", "state": "pending"})
}

/// The second call of LUD-03.
fn withdraw(chip: &mut VirtualCard, bolt11: &str) -> String {
    let tap = chip.tap();
    let parameters = tap.split_once('?').unwrap().1;
    format!("lnurl https://pay.example.com/boltcard?{parameters}&k1=0&pr={bolt11}")
}

impl World {
    fn told(&mut self, order: &str) -> Value {
        serde_json::from_str(&self.ask(order)).unwrap()
    }

    /// An invoice of the world's node; of one that comes back nobody has the preimage.
    async fn bill(&self, name: &str, sats: i64, end: End) -> String {
        if end == End::Arrives {
            return self.wallet.invoice(sats * SAT, name).await.unwrap();
        }
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&sats.to_be_bytes());
        let request = InvoiceRequest {
            payment_hash: Preimage::new(bytes).payment_hash(),
            amount_msat: Some(sats * SAT),
            description: name.to_owned(),
            description_hash: None,
            expiry_seconds: 3_600,
        };
        self.node.create_invoice(request).await.unwrap()
    }

    fn payments(&mut self, hash: PaymentHash) -> Vec<CardPayment> {
        let order = format!("card-payments {}", self.card.id);
        let payments: Vec<CardPayment> = serde_json::from_str(&self.ask(&order)).unwrap();
        let of_hash = payments.into_iter();
        of_hash
            .filter(|payment| payment.payment_hash == hash)
            .collect()
    }

    /// Waits until the engine stands at the boundary; whatever it has answered meanwhile.
    fn reach_by(&mut self, boundary: &str) -> Vec<Value> {
        let (at, mut told) = (format!("at {boundary}"), Vec::new());
        loop {
            let answer = self.engine.as_mut().unwrap().answer();
            if answer == at {
                return told;
            }
            told.push(serde_json::from_str(&answer).unwrap());
        }
    }

    /// Waits until the engine has asked about the payment anew, and has made of it what it makes of one
    /// that is on its way: when it asks a second time, it is done with what it heard the first time.
    async fn asked_again(&mut self, hash: PaymentHash) {
        for _ in 0..15_000 {
            let state = self.payments(hash)[0].state;
            assert!(!state.is_final(), "nobody has taken it: {state:?}");
            if self.ask("times-on-its-way").parse::<usize>().unwrap() >= 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the engine does not ask about what is on its way");
    }

    async fn card_payment_killed_at(&mut self, boundary: &str, end: End, sats: i64) {
        println!("{boundary}, {end:?}");
        let account = Account::card_balance(self.card.id);
        let before = self.balance(account);
        let bolt11 = self.bill(boundary, sats, end).await;
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        let waits = ["sent-not-recorded", "on-its-way"].contains(&boundary);
        if waits {
            self.pause_wallet().await;
        }
        assert_eq!(self.ask(&format!("arm {boundary}")), "armed");
        let order = withdraw(&mut self.card.chip, &bolt11);
        self.engine.as_mut().unwrap().order(&order);
        for told in self.reach_by(boundary) {
            // Nothing else could be known by then.
            assert!([ok(), pending()].contains(&told), "{boundary}: {told}");
        }
        self.kill();
        self.connect();
        if waits {
            // The till asks again, with the same tap and with another one: it is on its way, and
            // what it may cost is set aside once.
            let again = withdraw(&mut self.card.chip, &bolt11);
            for order in [&order, &again] {
                assert_eq!(self.told(order), pending(), "{boundary}");
            }
            let line = self.line(account);
            let most = sats * SAT + sats * SAT * 50 / 10_000 + 10_000;
            assert_eq!((line.balance, line.totals.debits_pending), (before, most));
            if boundary == "on-its-way" {
                self.asked_again(hash).await;
            }
            self.resume_wallet();
        }
        let state = match end {
            End::Arrives => CardPaymentState::Succeeded,
            End::ComesBack => CardPaymentState::Failed,
        };
        let begun = std::time::Instant::now();
        let payment = loop {
            let payments = self.payments(hash);
            assert_eq!(payments.len(), 1, "{boundary}: one tap, one payment");
            if payments[0].state.is_final() {
                break payments[0].clone();
            }
            assert!(begun.elapsed().as_secs() < 300, "{boundary}: {payments:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(payment.state, state, "{boundary}");
        // With whatever tap of this card a till asks, it is told of the one payment.
        let again = withdraw(&mut self.card.chip, &bolt11);
        let told = self.told(&order);
        assert_eq!(self.told(&again), told, "{boundary}: by another tap");
        let spent = if end == End::Arrives { sats * SAT } else { 0 };
        match end {
            End::Arrives => assert_eq!(told, ok(), "{boundary}"),
            End::ComesBack => assert_eq!(told["status"], "ERROR", "{boundary}: {told}"),
        }
        let wallet = self.wallet.clone();
        until("the other wallet has it", || async {
            wallet.received_msat(hash) == spent
        })
        .await;
        let line = self.line(account);
        assert_eq!(before - line.balance, i128::from(spent), "{boundary}");
        assert_eq!(line.totals.debits_pending, 0, "{boundary}");
        self.until_answer("agrees", "true").await;
        assert_eq!(self.wallet.received_msat(hash), spent, "{boundary}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn card_payments_killed_at_every_boundary_are_paid_once_and_said_to_be_what_they_are() {
    let mut world = World::open().await;
    let mut sats = 100;
    for _ in 0..rounds(1) {
        for (boundary, end) in [
            ("intended-not-sent", End::Arrives),
            ("sent-not-recorded", End::Arrives),
            ("sent-not-recorded", End::ComesBack),
            ("on-its-way", End::Arrives),
            ("received-not-booked", End::Arrives),
            ("paid-out-not-acknowledged", End::Arrives),
        ] {
            sats += 1;
            world.card_payment_killed_at(boundary, end, sats).await;
        }
    }
    world.engine.take().unwrap().stop();
    world.node.stop().await.unwrap();
}
