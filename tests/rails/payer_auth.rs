//! A payer that proves to have a key (LUD-18's `auth`).

use bitcoin::secp256k1::{Message, Secp256k1, SecretKey};
use flashkit::checkout::{PayAddressTerms, PayerDataWanted, PayerField, SetPayAddress};
use flashkit::invoices::{InvoiceFilter, InvoiceOwner};
use serde_json::{Value, json};

use crate::receipts::Shop;
use crate::support::key;

const URL: &str = "https://pay.example.com/.well-known/lnurlp/ivy";

async fn get(shop: &Shop, url: &str) -> (u16, Value) {
    let reply = shop.engine.checkout().answer(url).await;
    (reply.status, serde_json::from_str(&reply.body).unwrap())
}

fn signed(k1: &str) -> Value {
    let key = SecretKey::from_slice(&[5; 32]).unwrap();
    let mut digest = [0; 32];
    hex::decode_to_slice(k1, &mut digest).unwrap();
    let signature = Secp256k1::new().sign_ecdsa(&Message::from_digest(digest), &key);
    json!({
        "key": key.public_key(&Secp256k1::new()).to_string(),
        "k1": k1,
        "sig": hex::encode(signature.serialize_der()),
    })
}

async fn pay(shop: &Shop, auth: Value) -> (u16, Value) {
    let said = json!({ "auth": auth }).to_string();
    let said: String = form_urlencoded::byte_serialize(said.as_bytes()).collect();
    let url = format!("{URL}/pay?revision=1&amount=21000&payerdata={said}");
    get(shop, &url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_proves_a_key_by_a_challenge_that_is_good_once() {
    let shop = Shop::open().await;
    let command = SetPayAddress {
        key: key("address"),
        name: "ivy".to_owned(),
        merchant: Some(shop.merchant.id),
        terms: PayAddressTerms {
            min_sendable_msat: 1_000,
            max_sendable_msat: 5_000_000,
            description: "Miss Ivy".to_owned(),
            long_description: String::new(),
            comment_allowed: 0,
            payer_data: PayerDataWanted {
                auth: Some(PayerField { mandatory: true }),
                ..PayerDataWanted::default()
            },
            invoices_per_hour: 100,
            closed: false,
        },
    };
    let (checkout, issuer) = (shop.engine.checkout(), shop.engine.issuer());
    checkout.set_address(&issuer, command).await.unwrap();

    let (_, terms) = get(&shop, URL).await;
    let asked = &terms["payerData"]["auth"];
    assert_eq!(asked["mandatory"], json!(true));
    assert_eq!(terms["payerData"].as_object().unwrap().len(), 1);
    let k1 = asked["k1"].as_str().unwrap();
    let (_, again) = get(&shop, URL).await;
    assert_ne!(again["payerData"]["auth"]["k1"].as_str(), Some(k1));

    let mut unsigned = signed(k1);
    unsigned["sig"] = signed(&"07".repeat(32))["sig"].clone();
    for (auth, reason) in [
        (Value::Null, "must be said"),
        (json!("me"), "not what it is called"),
        (signed(&"07".repeat(32)), "not ours"),
        (unsigned, "not signed with the key"),
    ] {
        let (status, reply) = pay(&shop, auth).await;
        let said = reply["reason"].as_str().unwrap();
        assert!(status == 400 && said.contains(reason), "{said}");
    }
    let (status, reply) = pay(&shop, signed(k1)).await;
    assert_eq!(status, 200, "{reply}");
    let (status, reply) = pay(&shop, signed(k1)).await;
    let said = reply["reason"].as_str().unwrap();
    assert!(status == 400 && said.contains("signed before"), "{said}");

    // One invoice was made, and the seller sees whose it is.
    let merchants = InvoiceFilter {
        owner: InvoiceOwner::Merchant {
            merchant: shop.merchant.id,
        },
        ..InvoiceFilter::default()
    };
    let invoices = shop.engine.invoices();
    let found = invoices.search(&issuer, &merchants, None, 10).await;
    let [invoice] = &found.unwrap().value.invoices[..] else {
        panic!("not one invoice");
    };
    let note = checkout.payer_note(&shop.merchant.till, invoice.id).await;
    let note = note.unwrap().value.unwrap();
    assert_eq!(json!(note.data["auth"]), signed(k1)["key"]);
    shop.engine.stop().await.unwrap();
}
