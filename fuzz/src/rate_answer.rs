//! Whatever a server sends as a rate is read or refused: no panic, and what was read is above zero
//! and reads the same again.

use flashkit::money::{Currency, Rate};
use flashkit::rates::RatePair;
use flashkit::rates::http::{
    AnswerShape, Direction, PricePlace, TimeForm, TimePlace, exact_rate, member, read_answer,
};

pub fn run(data: &[u8]) -> bool {
    let mut decoded = false;
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(rate) = exact_rate(text) {
            assert_eq!(exact_rate(&rate.to_string()), Ok(rate));
        }
        // The first line is a pointer, the rest what it points into.
        if let Some((pointer, json)) = text.split_once('\n') {
            let _ = member(json.as_bytes(), pointer);
        }
    }
    let Ok(usd) = Currency::from_code("USD") else {
        return false;
    };
    for shape in shapes() {
        let read = read_answer("fuzz", &shape, RatePair::bitcoin(usd), data);
        let Ok((rate, _)) = read else { continue };
        let text = serde_json::to_string(&rate).expect("a rate has a text");
        assert_eq!(
            serde_json::from_str::<Rate>(&text).expect("its own text"),
            rate
        );
        decoded = true;
    }
    decoded
}

/// Those of Kraken, Coinbase, Bitstamp and Yadio, and one turned round.
fn shapes() -> Vec<AnswerShape> {
    let between = |bid: &str, ask: &str| PricePlace::Between(bid.to_owned(), ask.to_owned());
    let shape = |price, time: Option<(&str, TimeForm)>| AnswerShape {
        price: vec![price],
        direction: Direction::CurrencyPerBase,
        time: time.map(|(pointer, form)| TimePlace {
            pointer: pointer.to_owned(),
            form,
        }),
        must_say: Vec::new(),
        no_errors_at: None,
    };
    let mut kraken = shape(
        between("/result/XXBTZUSD/b/0", "/result/XXBTZUSD/a/0"),
        None,
    );
    kraken.no_errors_at = Some("/error".to_owned());
    let mut yadio = shape(
        PricePlace::At("/BTC/USD".to_owned()),
        Some(("/timestamp", TimeForm::Milliseconds)),
    );
    yadio.must_say = vec![("/base".to_owned(), "BTC".to_owned())];
    let mut turned = shape(PricePlace::At("/BTC/USD".to_owned()), None);
    turned.direction = Direction::BasePerCurrency;
    vec![
        kraken,
        shape(between("/bid", "/ask"), Some(("/time", TimeForm::Rfc3339))),
        shape(
            between("/bid", "/ask"),
            Some(("/timestamp", TimeForm::Seconds)),
        ),
        yadio,
        turned,
    ]
}
