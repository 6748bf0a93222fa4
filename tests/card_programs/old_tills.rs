//! Cards that came over, as the tills in the field ask for them: by LNURL, compared byte by byte.

use std::sync::Arc;

use flashkit::access::{HostKey, HostKeys};
use flashkit::cards::lnurl::{LnurlReply, LnurlRequest};
use flashkit::lightning::simulated::SimulatedNetwork;
use flashkit::ports::SystemClock;
use flashkit::store::{MemoryStore, Store};

use flashkit::testkit::wallet::Wallet;
use flashkit::{CardPaymentSettings, Engine, Settings};

use crate::imports::{old_base, rows, world_on};
use crate::support::shop::{self, SAT, sat};

/// What is on each card, in sats.
const ON_CARD: i64 = 10_000;
/// Where the old server answered, as the chips still say.
const HOST: &str = "btcpay.example.com/boltcard";

/// The parameters of a tap, and what a till sends as `k1` for it.
fn parameters(tap: &str) -> (&str, String) {
    let parameters = tap.split_once('?').unwrap().1;
    let (p, c) = parameters.split_once('&').unwrap();
    let (p, c) = (p.strip_prefix("p="), c.strip_prefix("c="));
    (parameters, format!("{}-{}", p.unwrap(), c.unwrap()))
}

fn pays(tap: &str, bolt11: &str) -> String {
    let (parameters, k1) = parameters(tap);
    format!("https://{HOST}?{parameters}&k1={k1}&pr={bolt11}")
}

async fn ask(engine: &Engine, url: String) -> LnurlReply {
    engine
        .cards()
        .answer(&LnurlRequest {
            url,
            till: None,
            source: None,
        })
        .await
}

/// Both calls of each tap, for a till of this engine and for one elsewhere; the second call again, and
/// the tap again for something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_cards_pay_at_the_tills_in_the_field() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let network = SimulatedNetwork::new(Arc::new(SystemClock));
    let node = network.node(100_000_000 * SAT);
    let settings = Settings {
        tap_url: HOST.to_owned(),
        // A payment is over when the till is answered, however slow the machine is.
        card_payments: CardPaymentSettings {
            wait_ms: 60_000,
            ..CardPaymentSettings::default()
        },
        ..Settings::default()
    };
    let builder = Engine::builder(store.clone(), shop::master()).network("regtest");
    let builder = builder.lightning(Arc::new(node)).settings(settings);
    let keys = HostKeys::new(HostKey::new([3; 32]));
    let engine = builder
        .host_keys(keys)
        .rates(shop::rates())
        .open()
        .await
        .unwrap();
    engine.start().await.unwrap();
    let elsewhere = network.node(0);
    flashkit::lightning::LightningNode::start(&elsewhere)
        .await
        .unwrap();
    let elsewhere = Arc::new(Wallet::new(Arc::new(elsewhere), None));
    tokio::spawn(elsewhere.clone().run());

    let world = world_on(store, engine.clone(), None).await;
    let mut base = old_base(48);
    for card in &mut base {
        card.row.balance_msat = ON_CARD * SAT;
    }
    world.take_over("base", &rows(&base)).await;
    let exported = world.export().await;
    let issuer = engine.issuer();
    for (number, old) in base.iter_mut().enumerate() {
        let card = exported[old.row.id.as_ref().unwrap()].card;
        let tap = old.chip.tap();
        assert!(tap.starts_with(&format!("lnurlw://{HOST}?p=")), "{tap}");
        let address = engine.cards().top_up_address(&issuer, card).await.unwrap();
        let pay_link = address.url.replace("https://", "lnurlp://");
        let (query, k1) = parameters(&tap);
        // 5,000 sats a tap, less what their route may cost: 0.5 % and 10 sats.
        let offer = format!(
            "{{\"tag\":\"withdrawRequest\",\"callback\":\"https://{HOST}?{query}\",\
             \"k1\":\"{k1}\",\"minWithdrawable\":1000,\"maxWithdrawable\":4965000,\
             \"currentBalance\":10000000,\"balanceCheck\":\"https://{HOST}?{query}\",\
             \"payLink\":\"{pay_link}\",\"defaultDescription\":\"Card payment\"}}"
        );
        for url in [tap.clone(), format!("https://{HOST}?{query}")] {
            let reply = ask(&engine, url).await;
            assert_eq!((reply.status, reply.body), (200, offer.clone()), "{number}");
        }
        let bill = match number % 2 {
            0 => {
                let name = format!("sale/{number}");
                shop::sale(&engine, &world.merchant, &name, sat(1_000))
                    .await
                    .bolt11
            }
            _ => elsewhere.invoice(1_000 * SAT, "lunch").await.unwrap(),
        };
        // The till on a bad network asks again: it is told the same, and nothing is paid twice.
        for _ in 0..2 {
            let reply = ask(&engine, pays(&tap, &bill)).await;
            let told = (reply.status, reply.body.as_str());
            assert_eq!(told, (200, "{\"status\":\"OK\"}"), "{number}");
            let left = engine
                .cards()
                .get(&issuer, card)
                .await
                .unwrap()
                .balance_msat;
            assert_eq!(left, (ON_CARD - 1_000) * SAT, "{number}");
        }
        let other = elsewhere.invoice(SAT, "other").await.unwrap();
        let reply = ask(&engine, pays(&tap, &other)).await;
        let used = old.row.counter + 1;
        let refused = format!(
            "{{\"status\":\"ERROR\",\"reason\":\"this tap was used before: its counter is {used}, \
             the last one was {used}\"}}"
        );
        assert_eq!((reply.status, reply.body), (400, refused), "{number}");
    }
    world.stop("old tills").await;
}
