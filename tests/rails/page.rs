//! The page with the balance, read as the shipped apps read it.

use flashkit::cards::CardLimits;
use regex::Regex;

use crate::set::{ON_CARD, Set};
use crate::support::scripted::Pay;
use crate::support::shop::{self, SAT};
use crate::support::{key, until};

/// The three patterns of the apps.
struct App {
    top_up: Regex,
    balance: Regex,
    history: Regex,
}

/// What an app makes of a page.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    top_up: String,
    sats: i64,
    history: Vec<(String, String)>,
}

impl App {
    fn new() -> Self {
        let row = r#"<time datetime="(.*?)".*?>.*?</time>\s*</td>\s*<td.*?>\s*<span.*?>(-?\d{1,3}(,\d{3})*) SATS</span>"#;
        Self {
            top_up: Regex::new(r#"href="lightning:(lnurl\w+)""#).unwrap(),
            balance: Regex::new(r"(\d{1,3}(?:,\d{3})*)\s*SATS</dt>").unwrap(),
            history: Regex::new(row).unwrap(),
        }
    }

    fn read(&self, page: &str) -> Read {
        let sats = self.balance.captures(page).unwrap()[1].replace(',', "");
        let rows = self.history.captures_iter(page);
        Read {
            top_up: self.top_up.captures(page).unwrap()[1].to_owned(),
            sats: sats.parse().unwrap(),
            history: rows
                .map(|row| (row[1].to_owned(), row[2].to_owned()))
                .collect(),
        }
    }
}

fn page_url(tap: &str) -> String {
    // As the apps make it of what the chip gave.
    tap.replace("lnurlw://", "https://")
        .replace("/boltcard", "/boltcards/balance")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_apps_find_balance_history_and_the_address_at_every_size() {
    let app = App::new();
    for (sats, row) in [(999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
        let mut set = Set::new(CardLimits::default()).await;
        // Down to nothing, and up to the size that is looked at.
        let tap = set.card.chip.tap();
        let sale = shop::sale(&set.engine, &set.merchant, "all", shop::sat(ON_CARD)).await;
        set.pay_tap("all", &tap, &sale.bolt11).await.unwrap();
        let tap = set.card.chip.tap();
        let empty = set.ask(&page_url(&tap)).await;
        assert_eq!(
            (empty.status, empty.content_type.as_str()),
            (200, "text/html; charset=utf-8")
        );
        assert_eq!(app.read(&empty.body).sats, 0);
        shop::top_up(
            &set.engine,
            &set.customer,
            &set.card,
            "more",
            shop::sat(sats),
        )
        .await;
        let page = set.ask(&page_url(&tap)).await.body;
        let read = app.read(&page);
        let amounts: Vec<_> = read
            .history
            .iter()
            .map(|(_, amount)| amount.as_str())
            .collect();
        assert_eq!((read.sats, amounts), (sats, vec![row, "-50,000", "50,000"]));
        for (at, _) in &read.history {
            let at: jiff::Timestamp = at.parse().unwrap();
            assert!(at.as_millisecond() > 1_700_000_000_000, "{at}");
        }
        let address = set
            .engine
            .cards()
            .top_up_address(&set.card.holder, set.card.id)
            .await;
        assert_eq!(read.top_up, address.unwrap().value.lnurl);
        assert_eq!(read.top_up, read.top_up.to_lowercase());
        // As often as one likes; and then it pays.
        assert_eq!(set.ask(&page_url(&tap)).await.body, page);
        let bill = set.payee.wallet_invoice(100 * SAT, "small").unwrap();
        set.pay_tap("small", &tap, &bill).await.unwrap();
        set.engine.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_key_on_it_nor_the_tap_and_a_forged_tap_sees_nothing() {
    let mut set = Set::new(CardLimits::default()).await;
    let chip = "04cccccccccccc";
    let issue = flashkit::cards::IssueCard {
        key: key("issue"),
        uid: chip.to_owned(),
        existing_chip: None,
        program: None,
        limits: CardLimits::default(),
    };
    let issuer = set.engine.issuer();
    let card = set.engine.cards().issue(&issuer, issue).await.unwrap().id;
    let keys = set
        .engine
        .cards()
        .programming_keys(&issuer, chip)
        .await
        .unwrap();
    let mut virtual_card =
        flashkit::testkit::virtual_card::VirtualCard::program(chip, &keys).unwrap();
    let tap = virtual_card.tap();
    let page = set.ask(&page_url(&tap)).await.body.to_lowercase();
    let parameters = tap.split_once('?').unwrap().1.to_lowercase();
    let (p, c) = parameters.split_once('&').unwrap();
    for secret in [&keys.k0, &keys.k1, &keys.k2, &keys.k3, &keys.k4] {
        assert!(!page.contains(&secret.to_lowercase()));
    }
    for secret in [&p[2..], &c[2..], chip, &card.to_string()] {
        assert!(!page.contains(secret), "{secret}");
    }
    // Another signature: nothing of the card.
    let tap = set.card.chip.tap();
    let last = tap.chars().last().unwrap();
    let other = if last == '0' { '1' } else { '0' };
    let forged = format!("{}{other}", &tap[..tap.len() - 1]);
    let reply = set.ask(&page_url(&forged)).await;
    assert_eq!(reply.status, 400);
    assert!(
        !reply.body.contains("SATS") && !reply.body.contains("lnurl"),
        "{}",
        reply.body
    );
    set.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_aside_is_not_shown_as_there() {
    let mut set = Set::new(CardLimits::default()).await;
    set.node.script([Pay::SendAndDoubt]);
    let bill = set.bill(10_000).await;
    set.pay("p", &bill).await.unwrap();
    let tap = set.card.chip.tap();
    let read = App::new().read(&set.ask(&page_url(&tap)).await.body);
    assert_eq!(read.sats, 50_000 - 10_060);
    set.take(&bill).await;
    until("it is booked", || async {
        set.balance().await == (ON_CARD - 10_000) * SAT
    })
    .await;
    let read = App::new().read(&set.ask(&page_url(&tap)).await.body);
    let amounts: Vec<_> = read
        .history
        .iter()
        .map(|(_, amount)| amount.as_str())
        .collect();
    assert_eq!((read.sats, amounts), (40_000, vec!["-10,000", "50,000"]));
    set.engine.stop().await.unwrap();
}
