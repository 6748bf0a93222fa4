//! Taps that are replayed, forged, truncated, in another case, reordered or doubled, among valid
//! ones: no charge, no counter and no panic comes of any but a valid new one, whether it is charged,
//! authorised, looked at or asked about by LNURL. `just taps` tries a million.

mod support;

use std::sync::Arc;
use std::time::Instant;

use flashkit::cards::lnurl::LnurlRequest;
use flashkit::cards::{AuthorizeCard, CardLimits, Cards, ChargeCard};
use flashkit::ids::CardId;
use flashkit::invoices::Invoice;
use flashkit::ledger::Account;
use flashkit::store::{MemoryStore, Store};
use flashkit::testkit::clock::ManualClock;
use support::books::expect_sound;
use support::key;
use support::scene::NOON;
use support::shop::{self, HeldCard, Merchant, SAT, Simulated, sat};

const CARDS: usize = 4;

/// Knuth's MMIX generator: its upper bits are random enough here.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// How a tap was changed, and how often it was tried.
const KINDS: [&str; 13] = [
    "valid",
    "replayed",
    "doubled",
    "reordered",
    "other case",
    "a digit of c",
    "a digit of p",
    "truncated",
    "another card's c",
    "parts in other order",
    "spelled otherwise",
    "a byte of it",
    "random",
];

struct Fuzz {
    chance: Chance,
    cards: Vec<HeldCard>,
    /// Taps that were made, by card, with their counters; and the last that was charged.
    made: Vec<Vec<(u32, String)>>,
    last: Vec<u32>,
    /// The last that was looked at.
    looked: Vec<u32>,
    tried: [usize; KINDS.len()],
    refused: std::collections::BTreeMap<&'static str, usize>,
}

/// A tap to try, and the card and counter that it is right for.
type Tried = (usize, String, Option<(usize, u32)>);

impl Fuzz {
    fn new_tap(&mut self) -> (usize, u32, String) {
        let at = self.chance.below(CARDS);
        let tap = self.cards[at].chip.tap();
        let counter = self.cards[at].chip.counter();
        self.made[at].push((counter, tap.clone()));
        if self.made[at].len() > 64 {
            self.made[at].remove(0);
        }
        (at, counter, tap)
    }

    fn old_tap(&mut self) -> (usize, u32, String) {
        let at = self.chance.below(CARDS);
        if self.made[at].is_empty() {
            return self.new_tap();
        }
        let which = self.chance.below(self.made[at].len());
        let (counter, tap) = self.made[at][which].clone();
        (at, counter, tap)
    }

    /// With one hex digit another one.
    fn other_digit(&mut self, tap: &str, after: &str, length: usize) -> String {
        let at = tap.find(after).unwrap() + after.len() + self.chance.below(length);
        let old = char::from(tap.as_bytes()[at]).to_digit(16).unwrap();
        let more = u32::try_from(self.chance.below(15)).unwrap() + 1;
        let new = char::from_digit((old + more) % 16, 16).unwrap();
        format!("{}{new}{}", &tap[..at], &tap[at + 1..])
    }

    fn next(&mut self) -> Tried {
        let kind = self.chance.below(KINDS.len());
        self.tried[kind] += 1;
        let right = |(at, counter, tap): (usize, u32, String)| (kind, tap, Some((at, counter)));
        match KINDS[kind] {
            "valid" | "doubled" => right(self.new_tap()),
            // The chip was tapped, and an older tap comes after it.
            "reordered" => {
                self.new_tap();
                right(self.old_tap())
            }
            "replayed" => right(self.old_tap()),
            "other case" => {
                let (at, counter, tap) = self.new_tap();
                let changed = match self.chance.below(2) {
                    0 => tap.to_uppercase(),
                    _ => tap.to_lowercase(),
                };
                right((at, counter, changed))
            }
            "parts in other order" => {
                let (at, counter, tap) = self.new_tap();
                let (host, query) = tap.split_once('?').unwrap();
                let (p, c) = query.split_once('&').unwrap();
                let k1 = format!("k1={}-{}", &p[2..], &c[2..]);
                let changed = match self.chance.below(3) {
                    0 => format!("{host}?{c}&x=1&{p}"),
                    1 => format!("{host}?{k1}&pr=lnbc1"),
                    _ => format!("{host}?{p}&{c}&{k1}#end"),
                };
                right((at, counter, changed))
            }
            "spelled otherwise" => {
                let (at, counter, tap) = match self.chance.below(2) {
                    0 => self.new_tap(),
                    _ => self.old_tap(),
                };
                let (host, query) = tap.split_once('?').unwrap();
                let some_escaped: String = query
                    .chars()
                    .map(|one| match self.chance.below(4) {
                        0 if one.is_ascii_alphanumeric() => format!("%{:02x}", u32::from(one)),
                        _ => one.to_string(),
                    })
                    .collect();
                let escaped = format!("{host}?{some_escaped}");
                let bech32 = |text: &str| {
                    let text = text.replace("lnurlw://", "https://");
                    flashkit::cards::lnurl::encode(&text)
                };
                let changed = match self.chance.below(4) {
                    0 => escaped,
                    1 => bech32(&tap).to_uppercase(),
                    2 => format!("lightning:{}", bech32(&tap)),
                    _ => bech32(&escaped),
                };
                right((at, counter, changed))
            }
            "a digit of c" => {
                let (_, _, tap) = self.new_tap();
                (kind, self.other_digit(&tap, "&c=", 16), None)
            }
            "a digit of p" => {
                let (_, _, tap) = self.new_tap();
                (kind, self.other_digit(&tap, "?p=", 32), None)
            }
            "truncated" => {
                let (_, _, tap) = self.new_tap();
                let length = self.chance.below(tap.len());
                (kind, tap[..length].to_owned(), None)
            }
            "another card's c" => {
                let (one, other) = (self.new_tap().2, self.new_tap().2);
                let (head, _) = one.split_once("&c=").unwrap();
                let (_, c) = other.split_once("&c=").unwrap();
                (kind, format!("{head}&c={c}"), None)
            }
            "a byte of it" => {
                let (at, counter, tap) = self.new_tap();
                let mut bytes = tap.clone().into_bytes();
                let place = self.chance.below(bytes.len());
                bytes[place] = u8::try_from(self.chance.below(128)).unwrap();
                let changed = String::from_utf8(bytes).unwrap();
                // The host and the path say nothing; of the rest, only another case is the same.
                let query =
                    |text: &str| text.split_once('?').map(|(_, query)| query.to_lowercase());
                let is_same = query(&changed) == query(&tap);
                (kind, changed, is_same.then_some((at, counter)))
            }
            _ => {
                let length = self.chance.below(200);
                let text: String = (0..length)
                    .map(|_| char::from(u8::try_from(self.chance.below(256)).unwrap()))
                    .collect();
                (kind, format!("lnurlw://h?p={text}"), None)
            }
        }
    }
}

fn has_scheme(tap: &str) -> bool {
    let tap = tap.to_lowercase();
    let schemes = ["lnurlw://", "https://", "http://"];
    schemes.iter().any(|scheme| tap.starts_with(scheme))
}

/// Not every text that says so is: with one byte `lnurlw://` becomes `lnurl1://`.
fn is_bech32(tap: &str) -> bool {
    let tap = tap.to_lowercase();
    let says_so = tap.starts_with("lnurl1") || tap.starts_with("lightning:lnurl1");
    says_so && !tap.contains("://")
}

fn taps() -> usize {
    let wanted = std::env::var("FLASHKIT_TAPS").map(|text| text.parse().unwrap());
    wanted.unwrap_or(if cfg!(debug_assertions) {
        3_000
    } else {
        20_000
    })
}

/// Where a tap is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Charge,
    Authorize,
    Peek,
    Lnurl,
}

const DOORS: [Door; 4] = [Door::Charge, Door::Authorize, Door::Peek, Door::Lnurl];

/// What came of it.
#[derive(Debug)]
enum Outcome {
    /// A card paid a sat.
    Paid(Option<CardId>),
    Looked(Option<CardId>),
    Refused(&'static str, String),
}

/// Those who bring taps.
struct Doors {
    shop: Simulated,
    merchant: Merchant,
    /// An invoice of this engine that nobody has paid.
    unpaid: Option<Invoice>,
    made: u32,
}

impl Doors {
    async fn bring(&mut self, door: Door, from: &Cards, name: &str, tap: &str) -> Outcome {
        let (key, tap, till) = (key(name), tap.to_owned(), &self.merchant.till);
        let (price, reference, pin) = (sat(1), String::new(), None);
        let outcome = match door {
            Door::Charge => {
                let command = ChargeCard {
                    key,
                    tap,
                    price,
                    reference,
                    pin,
                };
                let charged = from.charge(till, command).await;
                charged.map(|charge| Outcome::Paid(Some(charge.card)))
            }
            Door::Authorize => {
                let command = AuthorizeCard {
                    key,
                    tap,
                    price,
                    reference,
                    pin,
                };
                let held = from.authorize(till, command).await;
                held.map(|charge| Outcome::Paid(Some(charge.card)))
            }
            Door::Peek => {
                let seen = from.peek(&tap).await;
                seen.map(|seen| Outcome::Looked(Some(seen.card)))
            }
            Door::Lnurl => return self.ask(from, &tap).await,
        };
        outcome.unwrap_or_else(|error| Outcome::Refused(error.code(), error.to_string()))
    }

    /// A wallet that asks has an invoice of this engine paid: in the books, at once.
    async fn ask(&mut self, from: &Cards, tap: &str) -> Outcome {
        let unpaid = match self.unpaid.take() {
            Some(unpaid) => unpaid,
            None => {
                self.made += 1;
                let name = format!("sale/{}", self.made);
                shop::sale(&self.shop.engine, &self.merchant, &name, sat(1)).await
            }
        };
        let request = LnurlRequest {
            url: tap.replacen('?', &format!("?pr={}&", unpaid.bolt11), 1),
            till: None,
            source: None,
        };
        let reply = from.answer(&request).await;
        match reply.body.as_str() {
            r#"{"status":"OK"}"# => Outcome::Paid(None),
            body => {
                self.unpaid = Some(unpaid);
                match body.contains("withdrawRequest") {
                    true => Outcome::Looked(None),
                    false => {
                        // Nothing is in doubt: it is no tap, or one that pays nothing.
                        assert!(!body.contains(r#""OK""#), "{body}: {tap}");
                        Outcome::Refused("lnurl", body.to_owned())
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fuzzed_taps_only_new_valid_ones_pay() {
    // No tap grows old.
    let clock = Arc::new(ManualClock::at(NOON));
    let store = MemoryStore::new(clock.clone());
    let shop = shop::simulated_at(Arc::new(store.clone()), clock).await;
    let merchant = shop::merchant(&shop.engine, "Cookshop").await;
    let mut cards = Vec::new();
    for number in 0..CARDS {
        let uid = format!("040000000000{number:02}");
        let card = shop::card(&shop.engine, &uid, CardLimits::default()).await;
        shop::top_up(&shop.engine, &shop.customer, &card, &uid, sat(2_000_000)).await;
        cards.push(card);
    }
    let mut fuzz = Fuzz {
        chance: Chance(0x5eed),
        made: vec![Vec::new(); CARDS],
        last: vec![0; CARDS],
        looked: vec![0; CARDS],
        cards,
        tried: [0; KINDS.len()],
        refused: Default::default(),
    };
    let (mut charged, mut spent, mut done) = (0, [0_i64; CARDS], [(0, 0); DOORS.len()]);
    let mut doors = Doors {
        shop,
        merchant,
        unpaid: None,
        made: 0,
    };
    let (begun, all) = (Instant::now(), taps());
    for number in 0..all {
        let (kind, tap, right) = fuzz.next();
        // A source each: forged taps from one are not looked at after the tenth.
        let from = doors.shop.engine.cards().from_source(&format!("{number}"));
        let which = fuzz.chance.below(DOORS.len());
        let door = DOORS[which];
        // Of what a host was asked for, the path and the query count, and of a text its scheme.
        let right = right.filter(|_| door == Door::Lnurl || has_scheme(&tap) || is_bech32(&tap));
        let times = if KINDS[kind] == "doubled" { 2 } else { 1 };
        for time in 0..times {
            let is_new = right
                .filter(|(at, counter)| *counter > fuzz.last[*at] && *counter >= fuzz.looked[*at]);
            let name = format!("{number}/{time}");
            match (doors.bring(door, &from, &name, &tap).await, is_new) {
                (Outcome::Paid(card), Some((at, counter))) => {
                    assert!(card.is_none_or(|card| card == fuzz.cards[at].id));
                    fuzz.last[at] = counter;
                    spent[at] += SAT;
                    charged += 1;
                    done[which].0 += 1;
                }
                (Outcome::Looked(card), Some((at, counter))) => {
                    assert!(card.is_none_or(|card| card == fuzz.cards[at].id));
                    fuzz.looked[at] = counter;
                    done[which].0 += 1;
                }
                (Outcome::Refused(code, error), None) => {
                    *fuzz.refused.entry(code).or_default() += 1;
                    done[which].1 += 1;
                    // One in 256 garbled numbers looks like that of a card.
                    let is_known = code.starts_with("card.tap_") || door == Door::Lnurl;
                    let is_lawful = is_known || code == "card.not_found";
                    assert!(is_lawful, "{error}: {tap}");
                }
                // A host asks for a URL as it was sent: not every spelling of a tap is one.
                (Outcome::Refused(..), Some(_))
                    if door == Door::Lnurl && KINDS[kind] != "valid" => {}
                (outcome, right) => {
                    panic!("{} at {door:?}: {outcome:?}, {right:?}: {tap}", KINDS[kind])
                }
            }
        }
        if number % 250 == 0 || number + 1 == all {
            for (at, card) in fuzz.cards.iter().enumerate() {
                let account = Account::card_balance(card.id);
                let balance = store.balance(&account).await.unwrap();
                let left = balance.available(account.kind().side());
                assert_eq!(left, i128::from(2_000_000 * SAT - spent[at]));
                let counter = store.counter(&format!("{}/v1", card.id)).await.unwrap();
                assert_eq!(counter.unwrap_or(0), i64::from(fuzz.last[at]));
                let id = format!("{}/v1", card.id);
                let seen = store.document("tap_seen", &id).await.unwrap();
                let seen: Option<serde_json::Value> = seen.map(|seen| seen.body.read().unwrap());
                let looked = seen.map_or(0, |seen| seen["counter"].as_i64().unwrap());
                assert_eq!(looked, i64::from(fuzz.looked[at]));
            }
        }
    }
    println!(
        "{all} taps in {:?}: {charged} charged, {:?}, {done:?}",
        begun.elapsed(),
        fuzz.refused
    );
    for (kind, tried) in KINDS.iter().zip(fuzz.tried) {
        assert!(tried > 0, "{kind} was never tried");
    }
    let wanted = [
        "card.tap_malformed",
        "card.tap_not_ours",
        "card.tap_replayed",
        "card.tap_superseded",
        "card.tap_wrong_mac",
    ];
    for code in wanted {
        assert!(
            fuzz.refused.contains_key(code),
            "{code} was never the answer"
        );
    }
    for (door, (taken, refused)) in DOORS.iter().zip(done) {
        assert!(taken > 0 && refused > 0, "{door:?}: {taken}, {refused}");
    }
    expect_sound(&doors.shop.engine, "fuzzed").await;
    doors.shop.engine.stop().await.unwrap();
}
