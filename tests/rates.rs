//! Rates: cross rates, the median of several sources, the cache, spreads, and old quotes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flashkit::money::{Asset, Currency, Quote, QuoteSide, Rate, Rounding, Verdict};
use flashkit::ports::{Clock, TokioExecutor};
use flashkit::rates::{
    CachePolicy, CachedRates, CrossRates, FixedRates, MedianPolicy, MedianRates, RateError,
    RateObservation, RatePair, RatePolicy, RateSource, cross, median,
};
use flashkit::testkit::clock::ManualClock;
use proptest::prelude::*;
use rust_decimal::Decimal;

const NOW: i64 = 1_700_000_000_000;

fn currency(code: &str) -> Currency {
    Currency::from_code(code).unwrap()
}

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn seen(text: &str, at_ms: i64) -> RateObservation {
    RateObservation {
        rate: rate(text),
        source: "test".to_owned(),
        observed_at_ms: at_ms,
        side: QuoteSide::Mid,
        legs: Vec::new(),
    }
}

fn policy(quorum: usize, max_distance_bps: u32, side: QuoteSide) -> MedianPolicy {
    MedianPolicy {
        quorum,
        max_distance_bps,
        timeout_ms: 50,
        side,
    }
}

fn executor() -> Arc<TokioExecutor> {
    Arc::new(TokioExecutor::current().unwrap())
}

/// Answers what it is told to, counts how often, and can take its time or all of it.
struct Scripted {
    answer: std::sync::Mutex<Result<RateObservation, RateError>>,
    delay: Option<Duration>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(answer: Result<RateObservation, RateError>, delay: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            answer: std::sync::Mutex::new(answer),
            delay,
            asked: AtomicUsize::new(0),
        })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl RateSource for Scripted {
    async fn rate(&self, _: Currency) -> Result<RateObservation, RateError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(delay) = self.delay {
            tokio::time::sleep(delay).await;
        }
        self.answer.lock().unwrap().clone()
    }
}

fn down() -> RateError {
    RateError::Unavailable {
        reason: "down".to_owned(),
    }
}

#[tokio::test]
async fn a_cross_rate_is_exact_and_as_old_as_its_oldest_leg() {
    let (usd, jmd) = (currency("USD"), currency("JMD"));
    let table = Arc::new(FixedRates::new());
    table.set(usd, rate("97123.45"), "kraken", NOW);
    let pair = RatePair {
        base: Asset::Fiat(jmd),
        currency: usd,
    };
    // Set the other way round: 3 dollars for 7 Jamaican, which no decimal can turn exactly.
    table.set_pair(pair, Rate::from_ratio(3, 7).unwrap(), "boj", NOW - 90_000);
    let crossed = CrossRates::new(table.clone(), table, usd);
    let got = crossed.rate(jmd).await.unwrap();
    assert_eq!(got.rate, Rate::from_ratio(9_712_345 * 7, 300).unwrap());
    assert_eq!(got.observed_at_ms, NOW - 90_000);
    let legs: Vec<_> = got.legs.iter().map(|leg| leg.source.as_str()).collect();
    assert_eq!(legs, ["kraken", "boj"]);
    assert_eq!(got.legs[1].base, Asset::Fiat(usd));
    // What has no second leg has no rate.
    let unknown = crossed.rate(currency("KYD")).await.unwrap_err();
    assert_eq!(unknown.code(), "rate.unknown_pair");
    // Written and read again it is the same, ratio and all.
    let text = serde_json::to_string(&got).unwrap();
    assert!(text.contains("22662138.33") || text.contains('/'), "{text}");
    assert_eq!(serde_json::from_str::<RateObservation>(&text).unwrap(), got);
}

#[test]
fn a_quote_stored_before_there_were_legs_still_reads() {
    let old = r#"{"rate":"14500000.00","currency":"JMD","source":"host","observed_at_ms":1,
        "quoted_at_ms":2,"valid_until_ms":3,"rounding":"up","side":"mid"}"#;
    let quote: Quote = serde_json::from_str(old).unwrap();
    assert!(quote.legs.is_empty() && quote.spread.is_none());
    let again = serde_json::to_string(&quote).unwrap();
    assert_eq!(serde_json::from_str::<Quote>(&again).unwrap(), quote);
    assert!(!again.contains("legs"), "what is not there is not written");
    for bad in ["1/0", "0/1", "1/2/3", "-1/2", "1/", "1e3", "+1/2"] {
        assert!(
            serde_json::from_str::<Quote>(&old.replace("14500000.00", bad)).is_err(),
            "{bad}"
        );
    }
    assert!(
        "1/3".parse::<Rate>().is_err(),
        "what a person types is a decimal"
    );
}

#[test]
fn a_product_that_does_not_fit_is_refused() {
    let huge = seen("9999999999999999999999999999", NOW);
    let (usd, jmd) = (currency("USD"), currency("JMD"));
    let refused = cross(jmd, usd, huge.clone(), huge).unwrap_err();
    assert_eq!(refused.code(), "rate.inexact");
}

fn answers(texts: &[&str]) -> Vec<(String, Result<RateObservation, RateError>)> {
    let named = texts.iter().enumerate();
    named
        .map(|(place, text)| (format!("s{place}"), Ok(seen(text, NOW - place as i64))))
        .collect()
}

#[test]
fn an_outlier_is_rejected_and_recorded() {
    let pair = RatePair::bitcoin(currency("USD"));
    let ages = RatePolicy::default();
    let mut all = answers(&["100", "101", "150", "100.5"]);
    all.push(("late".to_owned(), Ok(seen("100", NOW - 120_001))));
    all.push(("down".to_owned(), Err(down())));
    let got = median(pair, all, policy(3, 200, QuoteSide::Mid), ages, NOW).unwrap();
    assert_eq!(got.rate, rate("100.5"));
    assert_eq!(got.observed_at_ms, NOW - 3, "the oldest that counted");
    let verdicts: Vec<_> = got.legs[0]
        .considered
        .iter()
        .map(|c| c.verdict.clone())
        .collect();
    let failed = Verdict::Failed {
        code: "rate.unavailable".to_owned(),
    };
    let outlier = Verdict::Outlier {
        max_distance_bps: 200,
    };
    let expected = [
        Verdict::Used,
        Verdict::Used,
        outlier,
        Verdict::Chosen,
        Verdict::Stale,
        failed,
    ];
    assert_eq!(verdicts, expected);
    assert_eq!(got.legs[0].considered[2].rate, Some(rate("150")));
}

#[test]
fn an_even_number_is_decided_by_the_side_and_never_averaged() {
    let pair = RatePair::bitcoin(currency("USD"));
    let of = |side| {
        let all = answers(&["100", "101", "102", "103"]);
        median(
            pair,
            all,
            policy(3, 1_000, side),
            RatePolicy::default(),
            NOW,
        )
        .unwrap()
        .rate
    };
    assert_eq!(of(QuoteSide::Bid), rate("101"));
    assert_eq!(of(QuoteSide::Mid), rate("101"));
    assert_eq!(of(QuoteSide::Ask), rate("102"));
}

#[test]
fn two_that_disagree_and_a_last_one_left_are_no_quorum() {
    let pair = RatePair::bitcoin(currency("USD"));
    let ages = RatePolicy::default();
    let two = median(
        pair,
        answers(&["100", "200"]),
        policy(2, 100, QuoteSide::Mid),
        ages,
        NOW,
    );
    let Err(RateError::NoQuorum {
        answered,
        agreed,
        quorum,
        ..
    }) = two
    else {
        panic!("{two:?}")
    };
    assert_eq!((answered, agreed, quorum), (2, 1, 2));
    let mut one = answers(&["100"]);
    one.extend([("b".to_owned(), Err(down())), ("c".to_owned(), Err(down()))]);
    let one = median(pair, one, policy(2, 100, QuoteSide::Mid), ages, NOW);
    let error = one.unwrap_err();
    assert_eq!(
        (error.code(), error.is_retryable()),
        ("rate.no_quorum", true)
    );
}

#[tokio::test]
async fn sources_are_asked_together_and_none_is_waited_for_too_long() {
    let never = Scripted::new(Ok(seen("1", NOW)), Some(Duration::from_secs(3_600)));
    let slow = || Scripted::new(Ok(seen("100", NOW)), Some(Duration::from_millis(30)));
    let sources: Vec<(String, Arc<dyn RateSource>)> = vec![
        ("never".to_owned(), never),
        ("a".to_owned(), slow()),
        ("b".to_owned(), slow()),
    ];
    let clock = Arc::new(ManualClock::at(NOW));
    let mut policy = policy(2, 100, QuoteSide::Mid);
    policy.timeout_ms = 500;
    let ages = RatePolicy::default();
    let source = MedianRates::new(sources, policy, ages, clock.clone(), executor()).unwrap();
    let begun = std::time::Instant::now();
    let got = source.rate(currency("USD")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let failed = Verdict::Failed {
        code: "rate.timed_out".to_owned(),
    };
    assert_eq!(got.legs[0].considered[0].verdict, failed);

    for (count, quorum) in [(3, 1), (2, 3), (4, 2), (17, 9)] {
        let sources = (0..count)
            .map(|n| {
                (
                    format!("s{n}"),
                    Arc::new(FixedRates::new()) as Arc<dyn RateSource>,
                )
            })
            .collect();
        let policy = self::policy(quorum, 100, QuoteSide::Mid);
        let made = MedianRates::new(sources, policy, ages, clock.clone(), executor());
        let code = made.err().map(|error| error.code());
        assert_eq!(code, Some("rate.misconfigured"), "{quorum} of {count}");
    }
}

fn cached(source: Arc<Scripted>, clock: Arc<ManualClock>) -> CachedRates {
    let policy = CachePolicy {
        refresh_ms: 10_000,
        timeout_ms: 200,
    };
    CachedRates::new(source, policy, RatePolicy::default(), clock, executor())
}

#[tokio::test]
async fn callers_share_one_fetch_and_the_source_is_asked_no_more_often_than_set() {
    let source = Scripted::new(Ok(seen("100", NOW)), Some(Duration::from_millis(20)));
    let clock = Arc::new(ManualClock::at(NOW));
    let rates = cached(source.clone(), clock.clone());
    let usd = currency("USD");
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let rates = rates.clone();
            tokio::spawn(async move { rates.rate(usd).await })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().rate, rate("100"));
    }
    assert_eq!(source.asked(), 1);

    // A fresh one is served at once, and fetched anew beside the caller when it is due.
    *source.answer.lock().unwrap() = Ok(seen("200", NOW + 10_000));
    clock.advance(Duration::from_millis(9_999));
    assert_eq!(rates.rate(usd).await.unwrap().rate, rate("100"));
    assert_eq!(source.asked(), 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(rates.rate(usd).await.unwrap().rate, rate("100"));
    let begun = std::time::Instant::now();
    while rates.rate(usd).await.unwrap().rate != rate("200") {
        assert!(begun.elapsed() < Duration::from_secs(30), "never fetched");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(source.asked(), 2);
}

#[tokio::test]
async fn nothing_is_served_beyond_its_age_whatever_the_source_does() {
    let source = Scripted::new(Ok(seen("100", NOW)), None);
    let clock = Arc::new(ManualClock::at(NOW));
    let rates = cached(source.clone(), clock.clone());
    let usd = currency("USD");
    assert!(rates.rate(usd).await.is_ok());
    *source.answer.lock().unwrap() = Err(down());
    clock.set(NOW + 120_000);
    assert!(rates.rate(usd).await.is_ok(), "as old as it may be");
    tokio::time::sleep(Duration::from_millis(50)).await;
    clock.set(NOW + 120_001);
    let asked = source.asked();
    assert_eq!(
        rates.rate(usd).await.unwrap_err().code(),
        "rate.unavailable"
    );
    assert_eq!(source.asked(), asked, "a failing source is not hammered");
    // An answer that is itself too old is refused too.
    *source.answer.lock().unwrap() = Ok(seen("100", NOW));
    clock.set(NOW + 140_000);
    assert_eq!(rates.rate(usd).await.unwrap_err().code(), "rate.stale");
    // One that never comes ends in time, and the next caller is not stuck behind it.
    let stuck = Scripted::new(Ok(seen("1", NOW)), Some(Duration::from_secs(3_600)));
    let rates = cached(stuck, clock.clone());
    assert_eq!(rates.rate(usd).await.unwrap_err().code(), "rate.timed_out");
    assert!(clock.now_ms() > NOW);
}

/// The exact fraction of a decimal of few digits.
fn fraction(value: Decimal) -> (u128, u128) {
    (value.mantissa().unsigned_abs(), 10_u128.pow(value.scale()))
}

proptest! {
    /// The product equals rust_decimal's own where that is exact, and a turned leg equals the
    /// cross-multiplied fraction.
    #[test]
    fn cross_rates_are_exact(
        a in 1_i64..1_000_000_000_000, a_scale in 0_u32..9,
        b in 1_i64..1_000_000_000, b_scale in 0_u32..9, minor in 1_i64..1_000_000_000,
    ) {
        let (left, right) = (Decimal::new(a, a_scale), Decimal::new(b, b_scale));
        let first = rate(&left.to_string());
        let second = rate(&right.to_string());
        let product = first.times(second).unwrap();
        let decimal = (left * right).to_string();
        prop_assert_eq!(product, rate(&decimal));
        let text = serde_json::to_string(&product).unwrap();
        prop_assert_eq!(serde_json::from_str::<Rate>(&text).unwrap(), product);

        let turned = first.times(second.inverse().unwrap()).unwrap();
        let ((an, ad), (bn, bd)) = (fraction(left), fraction(right));
        prop_assert_eq!(turned, Rate::from_ratio(an * bd, ad * bn).unwrap());
        let text = serde_json::to_string(&turned).unwrap();
        prop_assert_eq!(serde_json::from_str::<Rate>(&text).unwrap(), turned);
        prop_assert_eq!(turned.times(second).unwrap(), first, "there and back");
        prop_assert_eq!(first.cmp(&second), left.cmp(&right));

        // minor / 100 / (n / d) bitcoin, rounded down, by plain integers where they are enough.
        let (n, d) = (an * bd, ad * bn);
        let jmd = currency("JMD");
        let whole = (minor as u128).checked_mul(d).and_then(|x| x.checked_mul(1_000_000_000));
        if let (Some(above), Ok(msat)) = (whole, turned.fiat_to_msat(jmd, minor, Rounding::Down)) {
            prop_assert_eq!(msat as u128, above / n);
        }
    }

    /// The median is one of the rates, half lie on either side, and outliers are what lies beyond
    /// the distance, by rust_decimal.
    #[test]
    fn the_median_is_a_rate_that_somebody_gave(
        values in prop::collection::vec(9_000_i64..11_000, 1..9), bps in 0_u32..1_500,
        ask in any::<bool>(),
    ) {
        let side = if ask { QuoteSide::Ask } else { QuoteSide::Bid };
        let texts: Vec<String> = values.iter().map(|v| Decimal::new(*v, 2).to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let pair = RatePair::bitcoin(currency("USD"));
        let quorum = values.len() / 2 + 1;
        let middle = |mut of: Vec<i64>| {
            of.sort_unstable();
            let place = if ask { of.len() / 2 } else { (of.len() - 1) / 2 };
            of[place]
        };
        let center = middle(values.clone());
        let near: Vec<i64> = values.iter().copied()
            .filter(|v| (v - center).abs() * 10_000 <= i64::from(bps) * center)
            .collect();
        let ages = RatePolicy::default();
        let got = median(pair, answers(&texts), policy(quorum, bps, side), ages, NOW);
        if near.len() < quorum {
            prop_assert_eq!(got.unwrap_err().code(), "rate.no_quorum");
        } else {
            let got = got.unwrap();
            let expected = Decimal::new(middle(near.clone()), 2).to_string();
            prop_assert_eq!(got.rate, rate(&expected));
            let considered = &got.legs[0].considered;
            prop_assert_eq!(considered.len(), values.len());
            let chosen = considered.iter().filter(|c| c.verdict == Verdict::Chosen).count();
            let used = considered.iter().filter(|c| c.verdict == Verdict::Used).count();
            prop_assert_eq!((chosen, chosen + used), (1, near.len()));
        }
    }
}
