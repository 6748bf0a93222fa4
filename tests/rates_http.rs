//! Rates over HTTP, against a server of the test that answers what the providers document.

use std::sync::Arc;
use std::time::Duration;

use flashkit::money::{Asset, Currency, QuoteSide, Rate};
use flashkit::rates::http::{
    AnswerShape, Direction, HttpGet, HttpLimits, HttpRates, PricePlace, ReqwestGet, exact_rate,
};
use flashkit::rates::{RateError, RatePair, RateSource};
use flashkit::testkit::clock::ManualClock;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const NOW: i64 = 1_700_000_000_000;

/// Answers every request with `status` and `body`.
#[derive(Clone)]
struct Reply {
    status: &'static str,
    body: String,
    then: Then,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// The answer ends.
    Close,
    /// It never does.
    Hang,
    /// The body comes again and again.
    Repeat,
}

/// A server for one reply; gives its origin, and the paths it was asked for.
async fn serve(reply: Reply) -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (paths, here) = (asked.clone(), origin.clone());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 4_096];
            let read = socket.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            paths.lock().unwrap().push(path);
            let head = format!(
                "HTTP/1.1 {}\r\nlocation: {here}/elsewhere\r\nconnection: close\r\n\r\n",
                reply.status
            );
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.write_all(reply.body.as_bytes()).await;
            if reply.then == Then::Repeat {
                while socket.write_all(reply.body.as_bytes()).await.is_ok() {}
            }
            if reply.then == Then::Hang {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        }
    });
    (origin, asked)
}

fn ok(body: &str) -> Reply {
    Reply {
        status: "200 OK",
        body: body.to_owned(),
        then: Then::Close,
    }
}

fn currency(code: &str) -> Currency {
    Currency::from_code(code).unwrap()
}

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn http() -> Arc<dyn HttpGet> {
    Arc::new(ReqwestGet::allowing_plain_http().unwrap())
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(NOW))
}

const KRAKEN: &str = r#"{"error":[],"result":{"XXBTZUSD":{"a":["30300.10000","1","1.000"],
    "b":["30300.00000","1","1.000"],"c":["30303.20000","0.00067643"],
    "v":["4083.67001100","4412.73601799"],"p":["30706.77771","30689.13205"],"t":[34619,38907],
    "l":["29868.30000","29868.30000"],"h":["31631.00000","31631.00000"],"o":"30502.80000"}}}"#;
const COINBASE: &str = r#"{"ask":"6267.71","bid":"6265.15","volume":"53602.03940154",
    "trade_id":86326522,"price":"6268.48","size":"0.00698254",
    "time":"2023-11-14T22:13:19.833897Z"}"#;
const BITSTAMP: &str = r#"{"timestamp":"1699999990","open":"2211.00","high":"2811.00",
    "low":"2188.97","last":"2211.00","volume":"213.26801100","vwap":"2189.80","bid":"2188.97",
    "ask":"2211.00","side":"0","open_24":"2211.00","percent_change_24":"13.57"}"#;
const YADIO_BTC: &str = r#"{"BTC":{"JMD":15532170.123456789012,"TTD":659001.5,"USD":97123.45},
    "base":"BTC","timestamp":1699999995123}"#;
const YADIO_USD: &str = r#"{"USD":{"JMD":159.9217,"TTD":6.7852},"BTC":97123.45,"base":"USD",
    "timestamp":1699999995123}"#;

#[tokio::test]
async fn each_provider_is_read_as_it_documents() {
    let usd = [currency("USD")];
    let (origin, asked) = serve(ok(KRAKEN)).await;
    let of = |side| HttpRates::kraken(side, &usd, http(), clock()).unwrap();
    for (side, expected) in [
        (QuoteSide::Bid, "30300"),
        (QuoteSide::Ask, "30300.1"),
        (QuoteSide::Mid, "30300.05"),
    ] {
        let got = of(side)
            .at_origin(&origin)
            .unwrap()
            .rate(usd[0])
            .await
            .unwrap();
        assert_eq!((got.rate, got.side), (rate(expected), side));
        assert_eq!((got.observed_at_ms, got.source.as_str()), (NOW, "kraken"));
    }
    assert_eq!(asked.lock().unwrap()[0], "/0/public/Ticker?pair=XBTUSD");

    let (origin, asked) = serve(ok(COINBASE)).await;
    let source = HttpRates::coinbase(QuoteSide::Bid, &usd, http(), clock()).unwrap();
    let got = source
        .at_origin(&origin)
        .unwrap()
        .rate(usd[0])
        .await
        .unwrap();
    assert_eq!((got.rate, got.observed_at_ms), (rate("6265.15"), NOW - 167));
    assert_eq!(asked.lock().unwrap()[0], "/products/BTC-USD/ticker");

    let (origin, asked) = serve(ok(BITSTAMP)).await;
    let source = HttpRates::bitstamp(QuoteSide::Ask, &usd, http(), clock()).unwrap();
    let got = source
        .at_origin(&origin)
        .unwrap()
        .rate(usd[0])
        .await
        .unwrap();
    assert_eq!(
        (got.rate, got.observed_at_ms),
        (rate("2211.00"), NOW - 10_000)
    );
    assert_eq!(asked.lock().unwrap()[0], "/api/v2/ticker/btcusd/");
}

#[tokio::test]
async fn yadio_prices_bitcoin_and_currencies() {
    let jmd = currency("JMD");
    let dollars = Asset::Fiat(currency("USD"));
    let of = || HttpRates::yadio(&[(Asset::Btc, jmd), (dollars, jmd)], http(), clock()).unwrap();
    let (origin, asked) = serve(ok(YADIO_BTC)).await;
    let source = of().at_origin(&origin).unwrap();
    let got = source.rate(jmd).await.unwrap();
    // Every digit of the number is there; a float would have lost the last ones.
    assert_eq!(got.rate, rate("15532170.123456789012"));
    assert_eq!(got.observed_at_ms, 1_699_999_995_123);
    assert_eq!(asked.lock().unwrap()[0], "/exrates/BTC");
    // The answer about bitcoin is none about dollars.
    let pair = RatePair {
        base: dollars,
        currency: jmd,
    };
    assert_eq!(
        source.pair(pair).await.unwrap_err().code(),
        "rate.malformed_answer"
    );
    let (origin, _) = serve(ok(YADIO_USD)).await;
    let got = of().at_origin(&origin).unwrap().pair(pair).await.unwrap();
    assert_eq!(got.rate, rate("159.9217"));
    // What it was not set up for is not asked for.
    let unknown = source.rate(currency("HTG")).await.unwrap_err();
    assert_eq!(unknown.code(), "rate.unknown_currency");
    assert_eq!(asked.lock().unwrap().len(), 2);
}

fn generic(pointer: &str, direction: Direction) -> HttpRates {
    let shape = AnswerShape {
        price: vec![PricePlace::At(pointer.to_owned())],
        direction,
        time: None,
        must_say: Vec::new(),
        no_errors_at: None,
    };
    let pairs = [RatePair::bitcoin(currency("JMD"))];
    let url = "http://host/price/{currency_lower}?of={base}";
    HttpRates::json("shop", url, shape, QuoteSide::Mid, pairs, http(), clock()).unwrap()
}

async fn ask(source: HttpRates, reply: Reply) -> Result<Rate, RateError> {
    let (origin, _) = serve(reply).await;
    let source = source.at_origin(&origin).unwrap();
    Ok(source.rate(currency("JMD")).await?.rate)
}

#[tokio::test]
async fn any_json_can_be_read_in_either_direction() {
    let body = r#"{"a/b":[{"x":1},{"price of {}":"no","JMD":"0.0000003"}]}"#;
    let forwards = generic("/a~1b/1/{currency}", Direction::CurrencyPerBase);
    assert_eq!(ask(forwards, ok(body)).await, Ok(rate("0.0000003")));
    let turned = generic("/a~1b/1/{currency}", Direction::BasePerCurrency);
    assert_eq!(
        ask(turned, ok(body)).await,
        Rate::from_ratio(10_000_000, 3).map_err(|_| unreachable!())
    );
    let bad = |url: &str, pointer: &str| {
        let mut shape = AnswerShape {
            price: vec![PricePlace::At(pointer.to_owned())],
            direction: Direction::CurrencyPerBase,
            time: None,
            must_say: Vec::new(),
            no_errors_at: None,
        };
        if pointer.is_empty() {
            shape.price.clear();
        }
        HttpRates::json("x", url, shape, QuoteSide::Mid, [], http(), clock()).err()
    };
    for (url, pointer) in [
        ("ftp://h/", "/a"),
        ("http://h/{pair}", "/a"),
        ("http://h/", "/{x}"),
        ("http://h/", "a"),
        ("http://h/", ""),
    ] {
        let code = bad(url, pointer).map(|error| error.code());
        assert_eq!(code, Some("rate.misconfigured"), "{url} {pointer}");
    }
}

#[tokio::test]
async fn what_is_no_price_is_refused_with_a_reason() {
    for body in [
        "",
        "garbage",
        "<html>",
        "[]",
        "{}",
        "{\"p\":null}",
        "{\"p\":true}",
        "{\"p\":[1]}",
        "{\"p\":{}}",
        "{\"p\":0}",
        "{\"p\":\"0.00\"}",
        "{\"p\":-1}",
        "{\"p\":\"-1\"}",
        "{\"p\":NaN}",
        "{\"p\":\"NaN\"}",
        "{\"p\":\"inf\"}",
        "{\"p\":\"\"}",
        "{\"p\":\"1,5\"}",
        "{\"p\":\" 1\"}",
        "{\"p\":\"+1\"}",
        "{\"p\":\"0x10\"}",
        "{\"p\":1e99999999999}",
        "{\"p\":123456789012345678901234567891}",
        "{\"p\":1,\"p\":2}",
        "{\"p\":1",
        "{\"p\":1}}",
        "{\"p\":1}x",
        "{\"q\":1}",
        "{\"p\":\"1e\"}",
        "{\"p\":\"1.\"}",
        "{\"p\":\"１\"}",
    ] {
        let got = ask(generic("/p", Direction::CurrencyPerBase), ok(body)).await;
        let error = got.expect_err(body);
        assert_eq!(
            (error.code(), error.is_retryable()),
            ("rate.malformed_answer", false),
            "{body}"
        );
    }
    for (body, expected) in [
        ("{\"p\":15000000}", "15000000"),
        ("{\"p\":\"15000000.25\"}", "15000000.25"),
        ("{\"p\":1.5e7}", "15000000"),
        ("{\"p\":\"1500000025E-2\"}", "15000000.25"),
        ("{\"p\":100000000000000000000000000000e-20}", "1000000000"),
    ] {
        let got = ask(generic("/p", Direction::CurrencyPerBase), ok(body)).await;
        assert_eq!(got, Ok(rate(expected)), "{body}");
    }
}

#[tokio::test]
async fn the_wrong_pair_and_a_reported_error_are_no_rate() {
    let usd = [currency("USD")];
    for body in [
        KRAKEN.replace("XXBTZUSD", "XXBTZEUR"),
        r#"{"error":["EQuery:Unknown asset pair"]}"#.to_owned(),
        KRAKEN.replace("\"error\":[]", "\"error\":[\"EService:Busy\"]"),
        KRAKEN.replace("\"error\":[],", ""),
        KRAKEN.replace("{\"XXBTZUSD\"", "{\"XBTUSD\":{\"b\":[\"1\"]},\"XXBTZUSD\""),
    ] {
        let (origin, _) = serve(ok(&body)).await;
        let source = HttpRates::kraken(QuoteSide::Bid, &usd, http(), clock()).unwrap();
        let got = source.at_origin(&origin).unwrap().rate(usd[0]).await;
        assert_eq!(
            got.expect_err(&body).code(),
            "rate.malformed_answer",
            "{body}"
        );
    }
    for time in ["2023-11-14", "", "yesterday", "-1"] {
        let body = COINBASE.replace("2023-11-14T22:13:19.833897Z", time);
        let (origin, _) = serve(ok(&body)).await;
        let source = HttpRates::coinbase(QuoteSide::Bid, &usd, http(), clock()).unwrap();
        let got = source.at_origin(&origin).unwrap().rate(usd[0]).await;
        assert_eq!(got.expect_err(time).code(), "rate.malformed_answer");
    }
}

#[tokio::test]
async fn statuses_are_errors_and_redirects_are_not_followed() {
    for (status, code, retryable) in [
        ("404 Not Found", 404, false),
        ("403 Forbidden", 403, false),
        ("429 Too Many Requests", 429, true),
        ("500 Oops", 500, true),
        ("503 Busy", 503, true),
        ("302 Found", 302, false),
        ("301 Moved", 301, false),
        ("204 No Content", 204, false),
    ] {
        let body = if code == 204 { "" } else { "{\"p\":1}" };
        let reply = Reply { status, ..ok(body) };
        let (origin, asked) = serve(reply).await;
        let source = generic("/p", Direction::CurrencyPerBase)
            .at_origin(&origin)
            .unwrap();
        let error = source.rate(currency("JMD")).await.unwrap_err();
        let RateError::HttpStatus { status: told, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((told, error.is_retryable()), (code, retryable));
        assert_eq!(asked.lock().unwrap().len(), 1, "{status} was followed");
    }
}

#[tokio::test]
async fn an_answer_without_end_or_too_long_is_given_up() {
    let limits = HttpLimits {
        timeout_ms: 30_000,
        max_bytes: 10_000,
    };
    let of = || generic("/p", Direction::CurrencyPerBase).limits(limits);
    let hang = Reply {
        then: Then::Hang,
        ..ok("{\"p\":1}")
    };
    let impatient = HttpLimits {
        timeout_ms: 300,
        ..limits
    };
    let error = ask(of().limits(impatient), hang).await.unwrap_err();
    assert_eq!(
        (error.code(), error.is_retryable()),
        ("rate.timed_out", true)
    );
    let repeat = Reply {
        then: Then::Repeat,
        ..ok(&" ".repeat(1_000))
    };
    assert_eq!(
        ask(of(), repeat).await.unwrap_err().code(),
        "rate.answer_too_large"
    );
    let padded = format!("{}{{\"p\":1}}", " ".repeat(10_000 - 7));
    assert_eq!(ask(of(), ok(&padded)).await, Ok(rate("1")));
    let longer = format!(" {padded}");
    assert_eq!(
        ask(of(), ok(&longer)).await.unwrap_err().code(),
        "rate.answer_too_large"
    );

    let nobody = of().at_origin("http://127.0.0.1:1").unwrap();
    let error = nobody.rate(currency("JMD")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.is_retryable()),
        ("rate.unavailable", true)
    );
    // Without TLS only where that was allowed.
    let strict = ReqwestGet::new().unwrap();
    let refused = strict.get("http://127.0.0.1:1/", limits).await.unwrap_err();
    assert_eq!(refused.code(), "rate.unavailable");
}

proptest! {
    /// Written with any exponent, a number is the same, digit for digit.
    #[test]
    fn an_exponent_changes_nothing(digits in 1_u64.., scale in 0_u32..8, shift in -8_i32..9) {
        let decimal = rust_decimal::Decimal::from_i128_with_scale(i128::from(digits), scale);
        let expected: Rate = decimal.to_string().parse().unwrap();
        prop_assert_eq!(exact_rate(&decimal.to_string()), Ok(expected));
        let exponent = shift - i32::try_from(scale).unwrap();
        let moved = rust_decimal::Decimal::from_i128_with_scale(i128::from(digits), 8);
        let text = format!("{moved}e{}", exponent + 8 - shift);
        prop_assert_eq!(exact_rate(&text), Ok(expected));
    }

    /// Whatever text there is: a rate or a reason, and no panic.
    #[test]
    fn any_text_is_read_or_refused(text in "[-+0-9eE.]{0,70}|.{0,20}") {
        if let Ok(rate) = exact_rate(&text) {
            prop_assert_eq!(exact_rate(&rate.to_string()), Ok(rate));
        }
    }
}
