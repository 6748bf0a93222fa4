//! Amounts worked out by hand, as fractions, for currencies of two, none and three digits.

use crate::world::{Terms, World, fiat, msat};

/// The currency, what a bitcoin costs in it, a price in it and what that is in msat, a price in
/// msat and what a card pays for that.
const BY_HAND: &[(&str, &str, i64, i64, i64, i64)] = &[
    // J$1,500.00 is 0.0001 bitcoin exactly; 185,185.17 cents go up.
    ("JMD", "15000000", 150_000, 10_000_000, 12_345_678, 185_186),
    // 12,000,000.48 msat; 83.33333 cents.
    ("KYD", "83333.33", 1_000, 12_000_001, 1_000_000, 84),
    // 36,824,207.8… msat; 6,789.01… cents.
    ("TTD", "678901.23", 25_000, 36_824_208, 9_999_999, 6_790),
    // A dollar is 0.00001 bitcoin; the smallest amount there is costs a whole cent.
    ("USD", "100000", 100, 1_000_000, 1, 1),
    // No digits: 6,666,666.2… msat; 1,500.0001 yen.
    ("JPY", "15000001", 1_000, 6_666_667, 10_000_000, 1_501),
    // Three digits: 4,019,527.6… msat; 1,233.9998… fils.
    ("KWD", "30700.125", 1_234, 4_019_528, 4_019_527, 1_234),
];

#[tokio::test]
async fn known_by_hand() {
    for &(code, rate, price, is_msat, price_msat, is_minor) in BY_HAND {
        let mut world = World::new(false, code, rate, Terms::default()).await;
        world.fund(10_000_000, 100_000_000_000).await;
        let charge = world.charge("own", fiat(code, price)).await.unwrap();
        let paid = charge.conversion.clone().unwrap();
        assert_eq!(
            (paid.amount, charge.amount_msat),
            (price, is_msat),
            "{code}"
        );
        assert_eq!(paid.quote.rate.to_string(), rate, "{code}");
        let charge = world.charge("bitcoin", msat(price_msat)).await.unwrap();
        let paid = charge.conversion.clone().unwrap();
        assert_eq!(
            (paid.amount, charge.amount_msat),
            (is_minor, price_msat),
            "{code}"
        );
        let gone = price + is_minor;
        let books = [
            10_000_000 - gone,
            is_msat + price_msat,
            gone - 10_000_000,
            100_000_000_000 - is_msat - price_msat,
            0,
        ];
        assert_eq!(world.books().await, books, "{code}");
        world.stop(code).await;
    }
}

#[tokio::test]
async fn a_third_currency_is_crossed_and_every_leg_kept() {
    let mut world = World::new(false, "JMD", "15712345.67", Terms::default()).await;
    world.rate("USD", "100000");
    world.fund(10_000_000, 100_000_000_000).await;
    let charge = world.charge("dollars", fiat("USD", 1_000)).await.unwrap();
    // US$10.00 is 10,000,000 msat, and that is 157,123.4567 Jamaican cents.
    let paid = charge.conversion.clone().unwrap();
    assert_eq!((charge.amount_msat, paid.amount), (10_000_000, 157_124));
    let price = charge.quote.clone().unwrap();
    assert_eq!((price.currency.code(), price.legs.len()), ("USD", 1));
    assert_eq!(
        (paid.quote.currency.code(), paid.quote.legs.len()),
        ("JMD", 1)
    );
    assert_eq!(world.books().await[..2], [10_000_000 - 157_124, 10_000_000]);
    world.stop("crossed").await;
}
