//! What a seller shows to be paid by: links, buttons, and addresses that answer by LNURL.

use flashkit::checkout::{
    ButtonStyle, ButtonTheme, ErasePayerNote, PayAddressTerms, PayerDataWanted, PayerField,
    PaymentButton, PaymentLink, PaymentLinkState, SetPayAddress, payment_button,
};
use flashkit::invoices::{
    CreateInvoice, Custody, GivenAddress, Invoice, InvoiceOptions, InvoicePurpose, InvoiceState,
    MarkedAs, PaymentRules, Rail,
};
use flashkit::lightning::Bolt11Details;
use flashkit::money::Price;
use flashkit::receipts::{Label, Language};
use html5gum::{Token, Tokenizer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::receipts::{NOW_MS, Shop, fiat};
use crate::support::key;
use crate::support::scene::told;
use crate::support::shop::{self, SAT, sat, settled};

const ADDRESS: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";

impl Shop {
    async fn link(&self, invoice: &Invoice) -> PaymentLink {
        let checkout = self.engine.checkout();
        let link = checkout.link(&self.merchant.till, invoice.id).await;
        link.unwrap().value
    }

    /// By Lightning and on chain, at an address of the host's.
    async fn by_both(&self, name: &str, price: Option<Price>, address: &str) -> Invoice {
        let command = CreateInvoice {
            key: key(name),
            purpose: InvoicePurpose::Sale {
                merchant: self.merchant.id,
            },
            price,
            description: name.to_owned(),
            expiry_seconds: 600,
            options: InvoiceOptions {
                rails: vec![Rail::Lightning, Rail::OnChain],
                address: Some(GivenAddress {
                    address: address.to_owned(),
                    custody: Custody::Merchant,
                }),
                rules: Some(PaymentRules {
                    ask_for_rest: true,
                    ..PaymentRules::NONE
                }),
                ..InvoiceOptions::default()
            },
        };
        let (invoices, issuer) = (self.engine.invoices(), self.engine.issuer());
        invoices.create(&issuer, command).await.unwrap().value
    }

    async fn json(&self, url: &str) -> (u16, String) {
        let reply = self.engine.checkout().answer(url).await;
        assert_eq!(reply.content_type, "application/json; charset=utf-8");
        (reply.status, reply.body)
    }

    async fn open_address(&self, name: &str, terms: PayAddressTerms) -> Result<u32, &'static str> {
        let digest = hex::encode(Sha256::digest(format!("{name}/{terms:?}")));
        let command = SetPayAddress {
            key: key(&digest),
            name: name.to_owned(),
            merchant: Some(self.merchant.id),
            terms,
        };
        let (checkout, issuer) = (self.engine.checkout(), self.engine.issuer());
        told(checkout.set_address(&issuer, command).await).map(|address| address.revision)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_offers_every_rail_while_it_can_be_paid() {
    let shop = Shop::open().await;
    let invoice = shop.by_both("lunch", Some(sat(21_000)), ADDRESS).await;
    let link = shop.link(&invoice).await;
    assert_eq!(
        (link.state, link.due_msat),
        (PaymentLinkState::Payable, Some(21_000 * SAT))
    );
    let uri = format!(
        "bitcoin:{ADDRESS}?amount=0.00021000&lightning={}",
        invoice.bolt11
    );
    assert_eq!(link.uri, Some(uri.clone()));
    assert_eq!(
        link.lightning_uri,
        Some(format!("lightning:{}", invoice.bolt11))
    );
    assert_eq!(link.qr_text(), Some(uri));
    let only = shop
        .ask("coffee", sat(1_000), InvoiceOptions::default())
        .await;
    let link = shop.link(&only).await;
    assert_eq!(link.uri, link.lightning_uri);
    assert_eq!(
        link.qr_text().unwrap(),
        format!("LIGHTNING:{}", only.bolt11.to_uppercase())
    );
    // Whoever pays chooses.
    let open = shop
        .by_both(
            "tip",
            None,
            "bcrt1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qzf4jry",
        )
        .await;
    let link = shop.link(&open).await;
    assert_eq!((link.price, link.due_msat), (None, None));
    assert!(!link.uri.unwrap().contains("amount="));
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_paid_says_so_and_offers_nothing() {
    let shop = Shop::open().await;
    let paid = shop
        .sell("paid", sat(1_000), InvoiceOptions::default())
        .await;
    let cancelled = shop
        .ask("cancelled", sat(1_000), InvoiceOptions::default())
        .await;
    shop.mark(&cancelled, MarkedAs::Cancelled).await;
    let late = shop
        .ask("late", sat(1_000), InvoiceOptions::default())
        .await;
    let hold = InvoiceOptions {
        hold: true,
        ..InvoiceOptions::default()
    };
    let held = shop.ask("held", sat(1_000), hold).await;
    let (customer, bolt11) = (shop.customer.clone(), held.bolt11.clone());
    let paying = tokio::spawn(async move { customer.pay(&bolt11).await });
    crate::support::until("it is set aside", || async {
        shop.link(&held).await.state == PaymentLinkState::Processing
    })
    .await;
    // A part was paid, and its text asks for too much until there is one for the rest.
    let mut part = shop.by_both("part", Some(sat(2_000)), ADDRESS).await;
    part.amount_msat += SAT;
    let link = PaymentLink::of(&part, NOW_MS);
    assert_eq!(link.lightning_uri, None);
    assert_eq!(
        link.uri,
        Some(format!("bitcoin:{ADDRESS}?amount=0.00002001"))
    );

    for (invoice, state) in [
        (&paid, PaymentLinkState::Paid),
        (&cancelled, PaymentLinkState::NotPayable),
        (&held, PaymentLinkState::Processing),
    ] {
        says(&shop.link(invoice).await, state);
    }
    // The clock alone says it, before the job does.
    assert_eq!(
        PaymentLink::of(&late, late.expires_at_ms - 1).state,
        PaymentLinkState::Payable
    );
    assert_eq!(late.state, InvoiceState::New);
    says(
        &PaymentLink::of(&late, late.expires_at_ms),
        PaymentLinkState::Expired,
    );
    // So does the job, whatever the clock of whoever asks shows.
    let mut expired = late.clone();
    expired.state = InvoiceState::Expired;
    says(
        &PaymentLink::of(&expired, late.expires_at_ms - 1),
        PaymentLinkState::Expired,
    );
    paying.abort();
    shop.engine.stop().await.unwrap();
}

fn says(link: &PaymentLink, state: PaymentLinkState) {
    assert_eq!(link.state, state);
    assert_eq!(
        (&link.uri, &link.lightning_uri, link.qr_text()),
        (&None, &None, None)
    );
    let label = match state {
        PaymentLinkState::Paid => Label::Paid,
        PaymentLinkState::Processing => Label::Processing,
        PaymentLinkState::Expired => Label::Expired,
        _ => Label::NotPayable,
    };
    for language in Language::ALL {
        let style = ButtonStyle {
            language,
            ..ButtonStyle::default()
        };
        let PaymentButton { html, svg } = payment_button(link, &style).unwrap();
        for text in [html, svg] {
            assert!(text.contains(label.text(language)), "{text}");
            assert!(!text.contains("<a ") && !text.contains("<path"), "{text}");
            assert!(!text.contains("lightning:") && !text.contains("bitcoin:"));
        }
    }
}

/// The elements and attributes that a button has, and no others: nothing loads, nothing runs.
const ELEMENTS: &[&str] = &[
    "div", "p", "bdi", "svg", "rect", "path", "a", "title", "desc", "text", "tspan",
];
const ATTRIBUTES: &[&str] = &[
    "lang",
    "role",
    "aria-label",
    "style",
    "xmlns",
    "viewbox",
    "width",
    "height",
    "fill",
    "d",
    "href",
    "rel",
    "x",
    "y",
    "rx",
    "font-size",
    "font-family",
    "text-anchor",
    "shape-rendering",
    "textlength",
    "lengthadjust",
];

/// What a browser makes of it: the texts, and the one address.
fn read_html(html: &str) -> (String, Vec<String>) {
    let (mut text, mut links, mut open) = (String::new(), Vec::new(), Vec::new());
    for token in Tokenizer::new(html).flatten() {
        match token {
            Token::StartTag(tag) => {
                let name = String::from_utf8(tag.name.to_vec()).unwrap();
                assert!(ELEMENTS.contains(&name.to_lowercase().as_str()), "<{name}>");
                for (attribute, value) in &tag.attributes {
                    let attribute = String::from_utf8(attribute.to_vec())
                        .unwrap()
                        .to_lowercase();
                    let value = String::from_utf8(value.to_vec()).unwrap();
                    assert!(ATTRIBUTES.contains(&attribute.as_str()), "{attribute}");
                    assert!(!value.contains("url("), "{value}");
                    if attribute == "href" {
                        links.push(value);
                    }
                }
                if !tag.self_closing {
                    open.push(name);
                }
            }
            Token::EndTag(tag) => {
                let name = String::from_utf8(tag.name.to_vec()).unwrap();
                assert_eq!(open.pop(), Some(name));
            }
            Token::String(found) => text.push_str(std::str::from_utf8(&found).unwrap()),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => panic!("{html}"),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    (text, links)
}

/// The picture of a QR code, drawn from its path, and what a camera reads in it.
fn read_code(svg: &roxmltree::Node<'_, '_>) -> String {
    const SCALE: usize = 4;
    let size: usize = svg
        .attribute("viewBox")
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let path = svg.children().find(|node| node.has_tag_name("path"));
    let path = path.or_else(|| {
        svg.descendants()
            .find(|node| node.tag_name().name() == "path")
    });
    let mut dark = vec![false; size * size];
    for run in path.unwrap().attribute("d").unwrap().split('M').skip(1) {
        let (at, rest) = run.split_once('h').unwrap();
        let (x, y) = at.split_once(' ').unwrap();
        let (x, y): (usize, usize) = (x.parse().unwrap(), y.parse().unwrap());
        let length: usize = rest.split_once('v').unwrap().0.parse().unwrap();
        for x in x..x + length {
            dark[y * size + x] = true;
        }
    }
    let side = size * SCALE;
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(side, side, |x, y| {
        if dark[y / SCALE * size + x / SCALE] {
            0
        } else {
            255
        }
    });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1);
    grids[0].decode().unwrap().1
}

fn codes(text: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(text).unwrap();
    let pictures = document.descendants().filter(|node| {
        let has = |name| node.children().any(|child| child.tag_name().name() == name);
        node.tag_name().name() == "svg" && has("path")
    });
    pictures.map(|node| read_code(&node)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_button_is_read_back_by_parsers_and_by_a_camera() {
    let shop = Shop::open().await;
    let invoice = shop
        .by_both(
            "Two patties & a coco bread",
            Some(fiat("JMD", 125_000)),
            ADDRESS,
        )
        .await;
    let only = shop
        .ask("coffee", sat(1_000), InvoiceOptions::default())
        .await;
    for invoice in [&invoice, &only] {
        let link = shop.link(invoice).await;
        for language in Language::ALL {
            let style = ButtonStyle {
                language,
                title: "Miss Ivy's".to_owned(),
                theme: ButtonTheme {
                    accent: "#00ff7f".to_owned(),
                    radius_px: 40,
                    ..ButtonTheme::default()
                },
            };
            let button = payment_button(&link, &style).unwrap();
            let (text, links) = read_html(&button.html);
            assert_eq!(links, [link.uri.clone().unwrap()]);
            assert!(
                text.contains("Miss Ivy's") && text.contains(&link.description),
                "{text}"
            );
            assert!(text.contains(Label::Pay.text(language)), "{text}");
            assert!(button.html.contains("#00ff7f") && button.svg.contains("#00ff7f"));
            for text in [&button.html, &button.svg] {
                assert_eq!(codes(text), [link.qr_text().unwrap()]);
                let document = roxmltree::Document::parse(text).unwrap();
                let root = document.root_element();
                assert_eq!(root.attribute("lang"), Some(language.code()));
                let name = root.attribute("aria-label").unwrap();
                assert!(
                    name.contains(Label::Pay.text(language)) && name.contains("Miss Ivy's"),
                    "{name}"
                );
                let hrefs = document
                    .descendants()
                    .filter_map(|node| node.attribute("href"));
                assert_eq!(hrefs.collect::<Vec<_>>(), [link.uri.as_deref().unwrap()]);
            }
            assert!(button.html.contains(Label::QrCode.text(language)));
        }
    }
    let style = ButtonStyle::default();
    let button = payment_button(&shop.link(&invoice).await, &style).unwrap();
    assert!(
        read_html(&button.html).0.contains(
            "Pay J$1,250.00 (8,116.884 sat)"
                .replace("4 sat", "4\u{a0}sat")
                .as_str()
        )
    );
    // An address stays: whoever pays chooses, and pays again.
    let link = PaymentLink::of_address("https://pay.example.com/.well-known/lnurlp/ivy", "Tips");
    let button = payment_button(&link, &style).unwrap();
    assert!(read_html(&button.html).0.contains("Any amount"));
    assert!(codes(&button.svg)[0].starts_with("LIGHTNING:LNURL1"));
    shop.engine.stop().await.unwrap();
}

#[test]
fn names_of_others_stay_texts() {
    let link = |description: &str| PaymentLink {
        description: description.to_owned(),
        price: Some(sat(1_000)),
        due_msat: Some(1_000_000),
        ..PaymentLink::of_address("https://pay.example.com", "")
    };
    for evil in [
        "<script>alert(1)</script>",
        "</title></svg><script>alert(1)</script>",
        "\" onload=\"alert(1)",
        "' onmouseover='alert(1)",
        "]]><![CDATA[<script>",
        "<!-- --><img src=x onerror=alert(1)>",
        "&lt;script&gt; &#x3c;script&#x3e; &quot;",
        "`${alert(1)}`",
        "javascript:alert(1)",
        "</p></div><iframe src=https://evil.example>",
        "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>&e;",
        "\u{202e}00.01$J\u{202c} \u{2066}x\u{2069}\u{200f}",
        "\u{0}\u{b}\u{1b}[31m\u{85}\u{fffe}\u{ffff}",
        "שלום <b>&amp; مرحبا",
        "𝕏\u{1f600}",
    ] {
        let style = ButtonStyle {
            title: evil.chars().take(100).collect(),
            ..ButtonStyle::default()
        };
        let button = payment_button(&link(evil), &style).unwrap();
        let (text, links) = read_html(&button.html);
        assert_eq!(links.len(), 1);
        // What can be shown is shown as it is, and nothing turns the amount around.
        let turns = |c: char| matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}');
        let shown: String = evil
            .chars()
            .filter(|c| !c.is_control() && !turns(*c))
            .collect();
        assert!(text.contains(&shown), "{text} for {evil}");
        assert!(!button.html.chars().any(turns) && !button.svg.chars().any(turns));
        for text in [&button.html, &button.svg] {
            let document = roxmltree::Document::parse(text).unwrap();
            for node in document.descendants().filter(roxmltree::Node::is_element) {
                let name = node.tag_name().name();
                assert!(ELEMENTS.contains(&name), "<{name}> of {evil}");
                for attribute in node.attributes() {
                    let name = attribute.name().to_lowercase();
                    assert!(ATTRIBUTES.contains(&name.as_str()), "{name} of {evil}");
                }
            }
            let texts: String = document
                .descendants()
                .filter_map(|node| node.text().filter(|_| node.is_text()))
                .collect();
            assert!(texts.contains(&shown), "{texts} for {evil}");
            assert_eq!(codes(text).len(), 1);
        }
    }
}

#[test]
fn a_theme_is_colours_and_nothing_else() {
    let link = PaymentLink::of_address("https://pay.example.com", "");
    let with = |change: &dyn Fn(&mut ButtonStyle)| {
        let mut style = ButtonStyle::default();
        change(&mut style);
        payment_button(&link, &style).map_or_else(|error| error.code(), |_| "made")
    };
    assert_eq!(with(&|_| {}), "made");
    for bad in [
        "",
        "#fff",
        "red",
        "#ff00zz",
        "#ff00ff;background:url(//evil)",
        "#ff00ff\"",
        "#ff00f\u{e9}",
    ] {
        assert_eq!(
            with(&|style| bad.clone_into(&mut style.theme.accent)),
            "checkout.bad_style",
            "{bad}"
        );
        assert_eq!(
            with(&|style| bad.clone_into(&mut style.theme.ground)),
            "checkout.bad_style",
            "{bad}"
        );
        assert_eq!(
            with(&|style| bad.clone_into(&mut style.theme.text)),
            "checkout.bad_style",
            "{bad}"
        );
        assert_eq!(
            with(&|style| bad.clone_into(&mut style.theme.on_accent)),
            "checkout.bad_style",
            "{bad}"
        );
    }
    assert_eq!(
        with(&|style| style.theme.radius_px = 41),
        "checkout.bad_style"
    );
    assert_eq!(
        with(&|style| style.title = "x".repeat(101)),
        "checkout.bad_style"
    );
    // What no code has room for is still a link.
    let mut long = link.clone();
    long.uri = Some(format!("bitcoin:{}", "x".repeat(5_000)));
    let button = payment_button(&long, &ButtonStyle::default()).unwrap();
    assert!(button.html.contains("<a ") && !button.html.contains("<path"));
}

fn terms() -> PayAddressTerms {
    PayAddressTerms {
        min_sendable_msat: 1_000,
        max_sendable_msat: 5_000_000,
        description: "Miss Ivy \"the\" cook".to_owned(),
        long_description: "Patties\nand more".to_owned(),
        comment_allowed: 10,
        payer_data: PayerDataWanted {
            name: Some(PayerField { mandatory: false }),
            email: Some(PayerField { mandatory: true }),
            ..PayerDataWanted::default()
        },
        invoices_per_hour: 100,
        closed: false,
    }
}

fn plain_terms() -> PayAddressTerms {
    PayAddressTerms {
        long_description: String::new(),
        comment_allowed: 0,
        payer_data: PayerDataWanted::default(),
        ..terms()
    }
}

const URL: &str = "https://pay.example.com/.well-known/lnurlp/ivy";

/// What an invoice of a reply commits to, read from its text.
fn hashed(pr: &str) -> String {
    let invoice: lightning_invoice::Bolt11Invoice = pr.parse().unwrap();
    match invoice.description() {
        lightning_invoice::Bolt11InvoiceDescriptionRef::Hash(hash) => hash.0.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_answers_byte_for_byte() {
    let shop = Shop::open().await;
    assert_eq!(shop.open_address("ivy", plain_terms()).await, Ok(1));
    let metadata =
        r#"[["text/plain","Miss Ivy \"the\" cook"],["text/identifier","ivy@pay.example.com"]]"#;
    let quoted = serde_json::to_string(metadata).unwrap();
    let wanted = format!(
        r#"{{"tag":"payRequest","minSendable":1000,"maxSendable":5000000,"metadata":{quoted},"callback":"{URL}/pay?revision=1","commentAllowed":0}}"#
    );
    assert_eq!(shop.json(URL).await, (200, wanted));
    // With everything that an address can ask for.
    assert_eq!(shop.open_address("ivy", terms()).await, Ok(2));
    let metadata = r#"[["text/plain","Miss Ivy \"the\" cook"],["text/identifier","ivy@pay.example.com"],["text/long-desc","Patties\nand more"]]"#;
    let quoted = serde_json::to_string(metadata).unwrap();
    let wanted = format!(
        r#"{{"tag":"payRequest","minSendable":1000,"maxSendable":5000000,"metadata":{quoted},"callback":"{URL}/pay?revision=2","commentAllowed":10,"payerData":{{"name":{{"mandatory":false}},"email":{{"mandatory":true}}}}}}"#
    );
    assert_eq!(shop.json("/.well-known/lnurlp/ivy").await, (200, wanted));

    let payer = r#"{"email":"a@b.example","name":"Ann"}"#;
    let encoded: String = form_urlencoded::byte_serialize(payer.as_bytes()).collect();
    let callback =
        format!("{URL}/pay?revision=2&amount=21000&comment=hi+there&payerdata={encoded}");
    let (status, body) = shop.json(&callback).await;
    assert_eq!(status, 200, "{body}");
    let reply: Value = serde_json::from_str(&body).unwrap();
    let (pr, verify) = (
        reply["pr"].as_str().unwrap(),
        reply["verify"].as_str().unwrap(),
    );
    assert_eq!(
        body,
        format!(r#"{{"pr":"{pr}","routes":[],"verify":"{verify}"}}"#)
    );
    assert_eq!(
        hashed(pr),
        hex::encode(Sha256::digest(format!("{metadata}{payer}")))
    );
    let details: Bolt11Details = pr.parse().unwrap();
    assert_eq!(details.amount_msat, Some(21_000));

    // Not settled: the secret stays one. Settled: it is told.
    let wanted = format!(r#"{{"status":"OK","settled":false,"preimage":null,"pr":"{pr}"}}"#);
    assert_eq!(shop.json(verify).await, (200, wanted));
    let id = verify.rsplit('/').next().unwrap().parse().unwrap();
    let invoice = shop
        .engine
        .invoices()
        .get(&shop.merchant.till, id)
        .await
        .unwrap()
        .value;
    assert_eq!(
        invoice.purpose,
        InvoicePurpose::Sale {
            merchant: shop.merchant.id
        }
    );
    // That a person says it is paid lets nothing out.
    shop.mark(&invoice, MarkedAs::Settled).await;
    assert!(shop.json(verify).await.1.contains("\"settled\":false"));
    shop.mark(&invoice, MarkedAs::Invalid).await;

    let (_, body) = shop.json(&callback).await;
    let reply: Value = serde_json::from_str(&body).unwrap();
    let (pr, verify) = (
        reply["pr"].as_str().unwrap(),
        reply["verify"].as_str().unwrap(),
    );
    shop.customer.pay(pr).await.unwrap();
    let id = verify.rsplit('/').next().unwrap().parse().unwrap();
    let invoice = shop
        .engine
        .invoices()
        .get(&shop.merchant.till, id)
        .await
        .unwrap()
        .value;
    settled(&shop.engine, &invoice).await;
    let (_, body) = shop.json(verify).await;
    let reply: Value = serde_json::from_str(&body).unwrap();
    let preimage = reply["preimage"].as_str().unwrap();
    assert_eq!(
        body,
        format!(r#"{{"status":"OK","settled":true,"preimage":"{preimage}","pr":"{pr}"}}"#)
    );
    let hash = hex::encode(Sha256::digest(hex::decode(preimage).unwrap()));
    assert_eq!(hash, invoice.payment_hash.to_string());

    // What the payer said is kept for the seller, and can be erased.
    let (checkout, issuer) = (shop.engine.checkout(), shop.engine.issuer());
    let note = checkout
        .payer_note(&shop.merchant.till, id)
        .await
        .unwrap()
        .value
        .unwrap();
    assert_eq!(
        (note.comment.as_str(), note.data["email"].as_str()),
        ("hi there", "a@b.example")
    );
    let command = ErasePayerNote {
        key: key("erase"),
        invoice: id,
    };
    checkout.erase_payer_note(&issuer, command).await.unwrap();
    assert_eq!(checkout.payer_note(&issuer, id).await.unwrap().value, None);
    for event in shop.store.events(0, 1_000).await.unwrap() {
        let body = event.body.to_string();
        assert!(
            !body.contains("a@b.example") && !body.contains("hi there"),
            "{body}"
        );
    }
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_address_does_not_take_it_says_in_its_own_form() {
    let shop = Shop::open().await;
    shop.open_address("ivy", terms()).await.unwrap();
    let email: String = form_urlencoded::byte_serialize(br#"{"email":"a@b.example"}"#).collect();
    let good = format!("revision=1&amount=21000&payerdata={email}");
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    assert_eq!(shop.json(&format!("{URL}/pay?{good}")).await.0, 200);
    for (query, reason) in [
        (format!("revision=1&payerdata={email}"), "not within bounds"),
        (good.replace("21000", "999"), "not within bounds"),
        (good.replace("21000", "5000001"), "not within bounds"),
        (good.replace("21000", "-21000"), "not within bounds"),
        (good.replace("21000", "21000.5"), "not within bounds"),
        (
            good.replace("21000", "99999999999999999999"),
            "not within bounds",
        ),
        (format!("{good}&amount=22000"), "not within bounds"),
        (
            good.replace("revision=1", "revision=2"),
            "terms of the address have changed",
        ),
        (
            good.replace("revision=1&", ""),
            "terms of the address have changed",
        ),
        (
            format!("{good}&comment=12345678901"),
            "at most 10 characters",
        ),
        ("revision=1&amount=21000".to_owned(), "must be said"),
        (
            format!("revision=1&amount=21000&payerdata={}", encoded("[]")),
            "no JSON object",
        ),
        (
            format!(
                "revision=1&amount=21000&payerdata={}",
                encoded(r#"{"email":"a"}"#)
            ),
            "not what it is called",
        ),
        (
            format!(
                "revision=1&amount=21000&payerdata={}",
                encoded(r#"{"email":1}"#)
            ),
            "not what it is called",
        ),
        (
            format!(
                "revision=1&amount=21000&payerdata={}",
                encoded(r#"{"email":"a@b.c","auth":{}}"#)
            ),
            "not asked for",
        ),
        (
            format!(
                "revision=1&amount=21000&payerdata={}",
                encoded(&format!(r#"{{"email":"{}@b"}}"#, "x".repeat(3_000)))
            ),
            "too long",
        ),
    ] {
        let (status, body) = shop.json(&format!("{URL}/pay?{query}")).await;
        let reply: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &reply["status"]),
            (400, &json!("ERROR")),
            "{query}"
        );
        assert!(
            reply["reason"].as_str().unwrap().contains(reason),
            "{query}: {body}"
        );
        assert_eq!(reply.as_object().unwrap().len(), 2);
    }
    let other = shop
        .ask("not by address", sat(1_000), InvoiceOptions::default())
        .await;
    for url in [
        "/.well-known/lnurlp/nobody".to_owned(),
        "/.well-known/lnurlp/".to_owned(),
        "/.well-known/lnurlp/ivy/pay/more".to_owned(),
        "/.well-known/lnurlp/ivy/verify/x".to_owned(),
        // The number of any other invoice opens nothing.
        format!("/.well-known/lnurlp/ivy/verify/{}", other.id),
        "/".to_owned(),
    ] {
        let (status, body) = shop.json(&url).await;
        assert_eq!(
            (status, body.as_str()),
            (
                404,
                r#"{"status":"ERROR","reason":"there is nothing here"}"#
            ),
            "{url}"
        );
    }
    shop.open_address(
        "ivy",
        PayAddressTerms {
            closed: true,
            ..terms()
        },
    )
    .await
    .unwrap();
    let (status, body) = shop.json(URL).await;
    assert_eq!(
        (status, body.as_str()),
        (
            400,
            r#"{"status":"ERROR","reason":"the address takes no payments now"}"#
        )
    );
    shop.engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_one_sellers_and_asks_for_no_more_than_it_may() {
    let shop = Shop::open().await;
    let few = PayAddressTerms {
        invoices_per_hour: 3,
        ..plain_terms()
    };
    shop.open_address("ivy", few).await.unwrap();
    let callback = format!("{URL}/pay?revision=1&amount=21000");
    for _ in 0..3 {
        assert_eq!(shop.json(&callback).await.0, 200);
    }
    let (status, body) = shop.json(&callback).await;
    assert!(
        status == 400 && body.contains("too many invoices"),
        "{body}"
    );
    shop.clock.set(NOW_MS + 3_600_000);
    assert_eq!(shop.json(&callback).await.0, 200);

    let (checkout, issuer) = (shop.engine.checkout(), shop.engine.issuer());
    let other = shop::merchant(&shop.engine, "Mr Chin").await;
    let theirs = SetPayAddress {
        key: key("theirs"),
        name: "ivy".to_owned(),
        merchant: Some(other.id),
        terms: plain_terms(),
    };
    let refused = told(checkout.set_address(&issuer, theirs.clone()).await);
    assert_eq!(refused.unwrap_err(), "checkout.name_taken");
    let refused = told(checkout.set_address(&other.till, theirs).await);
    assert_eq!(refused.unwrap_err(), "access.not_allowed");
    for name in ["", "Ivy", "ivy@x", "a/b", "ivy+tips", "é", &"x".repeat(65)] {
        assert_eq!(
            shop.open_address(name, plain_terms()).await.unwrap_err(),
            "command.out_of_bounds",
            "{name}"
        );
    }
    let bad: [&dyn Fn(&mut PayAddressTerms); 7] = [
        &|terms| terms.min_sendable_msat = 999,
        &|terms| terms.max_sendable_msat = 999,
        &|terms| terms.max_sendable_msat = i64::MAX,
        &|terms| terms.description.clear(),
        &|terms| terms.long_description = "x".repeat(1_001),
        &|terms| terms.comment_allowed = 501,
        &|terms| terms.invoices_per_hour = 0,
    ];
    for change in bad {
        let mut terms = plain_terms();
        change(&mut terms);
        let refused = shop.open_address("ivy", terms).await;
        assert_eq!(refused.unwrap_err(), "command.out_of_bounds");
    }
    let all = checkout
        .addresses(&shop.merchant.till, Some(shop.merchant.id), None, 10)
        .await;
    let all = all.unwrap().value;
    assert_eq!(all.len(), 1);
    assert_eq!(
        (all[0].lightning_address.as_str(), all[0].url.as_str()),
        ("ivy@pay.example.com", URL)
    );
    assert!(all[0].lnurl.starts_with("lnurl1"));
    // The operator's own money, at an address of its own.
    let own = SetPayAddress {
        key: key("own"),
        name: "flash".to_owned(),
        merchant: None,
        terms: plain_terms(),
    };
    checkout.set_address(&issuer, own).await.unwrap();
    let (_, body) = shop
        .json("/.well-known/lnurlp/flash/pay?revision=1&amount=5000")
        .await;
    let reply: Value = serde_json::from_str(&body).unwrap();
    let id = reply["verify"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let invoice = shop.engine.invoices().get(&issuer, id).await.unwrap();
    assert_eq!(invoice.purpose, InvoicePurpose::Plain);
    shop.engine.stop().await.unwrap();
}
