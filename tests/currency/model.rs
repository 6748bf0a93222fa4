//! Any charges, tabs and refunds at rates that move, beside a model of their own arithmetic.
//!
//! The model takes nothing of the engine but ids: it has whole numbers alone, and says of each step
//! what card, merchant, position and spread must come to.

use flashkit::exchange::{ConversionRules, DriftBearer, RefundRate};
use flashkit::ids::ChargeId;
use flashkit::money::{Price, Spread, SpreadSide};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::world::{Terms, World, fiat, msat};

const FUNDS: i64 = 400_000;
const CAP: i64 = 380_000;

#[derive(Debug, Clone)]
enum Act {
    /// A bitcoin costs so many cents of the card's currency, and of another one.
    Rate(i64, i64),
    Charge(Ask),
    Authorize(Ask),
    /// Of an open tab, so many thousandths.
    Capture(usize, i64),
    Release(usize),
    Refund(usize, i64),
}

#[derive(Debug, Clone, Copy)]
enum Ask {
    Own(i64),
    Bitcoin(i64),
    Third(i64),
}

impl Ask {
    fn price(self) -> Price {
        match self {
            Self::Own(minor) => fiat("JMD", minor),
            Self::Bitcoin(amount) => msat(amount),
            Self::Third(minor) => fiat("USD", minor),
        }
    }
}

fn asks() -> impl Strategy<Value = Ask> {
    prop_oneof![
        (1_i64..90_000).prop_map(Ask::Own),
        (1_i64..6_000_000).prop_map(Ask::Bitcoin),
        (1_i64..600).prop_map(Ask::Third),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => (1_000_000_000_i64..2_500_000_000, 6_000_000_i64..14_000_000)
            .prop_map(|(own, third)| Act::Rate(own, third)),
        4 => asks().prop_map(Act::Charge),
        3 => asks().prop_map(Act::Authorize),
        3 => (0_usize..8, 1_i64..=1_000).prop_map(|(tab, part)| Act::Capture(tab, part)),
        1 => (0_usize..8).prop_map(Act::Release),
        3 => (0_usize..8, 1_i64..=1_000).prop_map(|(sale, part)| Act::Refund(sale, part)),
    ];
    prop::collection::vec(act, 12..24)
}

fn terms() -> impl Strategy<Value = ConversionRules> {
    let drift = prop_oneof![
        Just(DriftBearer::Operator),
        Just(DriftBearer::Merchant),
        Just(DriftBearer::Card)
    ];
    let refund_at = prop_oneof![Just(RefundRate::Charge), Just(RefundRate::Now)];
    (drift, refund_at, 0_u32..3_000).prop_map(|(drift, refund_at, hold_margin_bps)| {
        ConversionRules {
            drift,
            refund_at,
            hold_margin_bps,
            ..ConversionRules::default()
        }
    })
}

fn spreads() -> impl Strategy<Value = Option<Spread>> {
    let side = prop_oneof![
        Just(SpreadSide::CustomerPays),
        Just(SpreadSide::MerchantReceives)
    ];
    prop::option::of((1_u32..500, side).prop_map(|(bps, side)| Spread { bps, side }))
}

fn up(numerator: i128, denominator: i128) -> i128 {
    (numerator + denominator - 1) / denominator
}

/// A bitcoin, in msat.
const BITCOIN: i128 = 100_000_000_000;

/// A charge as the model has it.
#[derive(Debug, Clone)]
struct Sale {
    id: ChargeId,
    ask: Ask,
    card: i128,
    held: i128,
    msat: i128,
    spread: Option<Spread>,
    kept: i128,
    refunded: i128,
}

struct Model {
    rules: ConversionRules,
    spread: Option<Spread>,
    own: i128,
    third: i128,
    /// Card, merchant, position, bitcoin, spread: what is posted.
    books: [i128; 5],
    tabs: Vec<Sale>,
    sales: Vec<Sale>,
}

impl Model {
    fn due(&self, ask: Ask) -> (i128, i128, Option<Spread>) {
        let spread = self.spread;
        let customer = spread.filter(|spread| spread.side == SpreadSide::CustomerPays);
        let bps = customer.map_or(0, |spread| i128::from(spread.bps));
        match ask {
            Ask::Own(minor) => {
                let minor = i128::from(minor);
                let kept = spread.filter(|_| customer.is_none());
                (minor, up(minor * BITCOIN, self.own), kept)
            }
            Ask::Bitcoin(amount) => {
                let amount = i128::from(amount);
                let whole = amount + amount * bps / 10_000;
                (up(whole * self.own, BITCOIN), whole, spread)
            }
            Ask::Third(minor) => {
                let exact = i128::from(minor) * BITCOIN * (10_000 + bps);
                let whole = up(exact, self.third * 10_000);
                (up(whole * self.own, BITCOIN), whole, spread)
            }
        }
    }

    fn kept(spread: Option<Spread>, msat: i128) -> i128 {
        match spread {
            None => 0,
            Some(Spread {
                bps,
                side: SpreadSide::CustomerPays,
            }) => msat * i128::from(bps) / (10_000 + i128::from(bps)),
            Some(Spread { bps, .. }) => msat * i128::from(bps) / 10_000,
        }
    }

    fn pay(&mut self, sale: &mut Sale) {
        sale.kept = Self::kept(sale.spread, sale.msat);
        self.books[0] -= sale.card;
        self.books[1] += sale.msat - sale.kept;
        self.books[2] += sale.card;
        self.books[3] -= sale.msat;
        self.books[4] += sale.kept;
    }

    fn on_hold(&self) -> i128 {
        self.tabs.iter().map(|tab| tab.held).sum()
    }

    fn hold(&self, ask: Ask, card: i128) -> i128 {
        let margin = match (self.rules.drift, ask) {
            (DriftBearer::Card, Ask::Bitcoin(_) | Ask::Third(_)) => self.rules.hold_margin_bps,
            _ => 0,
        };
        up(card * (10_000 + i128::from(margin)), 10_000)
    }
}

/// One run of acts on the engine and on the model.
struct Run {
    world: World,
    model: Model,
    made: usize,
}

impl Run {
    async fn act(&mut self, act: &Act) -> &'static str {
        self.made += 1;
        let name = format!("act/{}", self.made);
        match *act {
            Act::Rate(own, third) => {
                let text = |cents: i64| format!("{}.{:02}", cents / 100, cents % 100);
                self.world.rate("JMD", &text(own));
                self.world.rate("USD", &text(third));
                (self.model.own, self.model.third) = (own.into(), third.into());
                "rate"
            }
            Act::Charge(ask) => self.charge(&name, ask).await,
            Act::Authorize(ask) => self.authorize(&name, ask).await,
            Act::Capture(tab, part) => self.capture(&name, tab, part).await,
            Act::Release(_) if self.model.tabs.is_empty() => "nothing",
            Act::Release(tab) => {
                let tab = self.model.tabs.remove(tab % self.model.tabs.len());
                self.world.release(&name, tab.id).await.unwrap();
                "released"
            }
            Act::Refund(sale, part) => self.refund(&name, sale, part).await,
        }
    }

    async fn charge(&mut self, name: &str, ask: Ask) -> &'static str {
        let (card, msat, spread) = self.model.due(ask);
        let tap = self.world.card.chip.tap();
        let told = self.world.charge_tap(name, tap.clone(), ask.price()).await;
        if card > self.model.books[0] - self.model.on_hold() {
            assert_eq!(told.map(drop), Err("card.insufficient_funds"));
            return "refused";
        }
        let charge = told.unwrap();
        let again = self.world.charge_tap(name, tap, ask.price()).await;
        assert_eq!(again.as_ref(), Ok(&charge), "a replay has the same answer");
        let mut sale = Sale {
            id: charge.id,
            ask,
            card,
            held: card,
            msat,
            spread,
            kept: 0,
            refunded: 0,
        };
        self.model.pay(&mut sale);
        self.model.sales.push(sale);
        "charged"
    }

    async fn authorize(&mut self, name: &str, ask: Ask) -> &'static str {
        let (card, msat, spread) = self.model.due(ask);
        let held = self.model.hold(ask, card);
        let told = self.world.authorize(name, ask.price()).await;
        if held > self.model.books[0] - self.model.on_hold() {
            assert_eq!(told.map(drop), Err("card.insufficient_funds"));
            return "refused";
        }
        self.model.tabs.push(Sale {
            id: told.unwrap().id,
            ask,
            card,
            held,
            msat,
            spread,
            kept: 0,
            refunded: 0,
        });
        "authorized"
    }

    async fn capture(&mut self, name: &str, tab: usize, part: i64) -> &'static str {
        if self.model.tabs.is_empty() {
            return "nothing";
        }
        let place = tab % self.model.tabs.len();
        let mut tab = self.model.tabs.remove(place);
        let asked = up(tab.card * i128::from(part), 1_000);
        let amount = fiat("JMD", i64::try_from(asked).unwrap());
        let charge = self.world.capture(name, tab.id, amount).await.unwrap();
        let again = self.world.capture(name, tab.id, amount).await;
        assert_eq!(again.as_ref(), Ok(&charge), "a replay has the same answer");
        let whole = tab.card;
        tab.msat = up(tab.msat * asked, whole);
        tab.card = asked;
        match (self.model.rules.drift, tab.ask) {
            (DriftBearer::Operator, _) => {}
            (DriftBearer::Card, Ask::Bitcoin(_) | Ask::Third(_)) => {
                tab.card = up(tab.msat * self.model.own, BITCOIN).min(tab.held);
            }
            _ => tab.msat = up(tab.card * BITCOIN, self.model.own),
        }
        self.model.pay(&mut tab);
        self.model.sales.push(tab);
        "captured"
    }

    async fn refund(&mut self, name: &str, sale: usize, part: i64) -> &'static str {
        if self.model.sales.is_empty() {
            return "nothing";
        }
        let place = sale % self.model.sales.len();
        let model = &mut self.model;
        let (own, now) = (model.own, model.rules.refund_at == RefundRate::Now);
        let sale = &mut model.sales[place];
        let asked = up((sale.card - sale.refunded) * i128::from(part), 1_000);
        if asked == 0 {
            return "nothing";
        }
        let (before, after) = (sale.refunded, sale.refunded + asked);
        let grown = |whole: i128| up(whole * after, sale.card) - up(whole * before, sale.card);
        let gives = if now {
            up(asked * BITCOIN, own)
        } else {
            grown(sale.msat)
        };
        let kept = sale.kept * after / sale.card - sale.kept * before / sale.card;
        let amount = fiat("JMD", i64::try_from(asked).unwrap());
        let told = self.world.refund(name, sale.id, amount).await;
        if model.books[1] + kept < gives {
            assert_eq!(told.map(drop), Err("card.refund_not_covered"));
            return "not covered";
        }
        if model.books[2] - asked < -i128::from(CAP) {
            assert_eq!(told.map(drop), Err("rate.position_cap_reached"));
            return "capped";
        }
        told.unwrap();
        sale.refunded = after;
        model.books[0] += asked;
        model.books[1] += kept - gives;
        model.books[2] -= asked;
        model.books[3] += gives;
        model.books[4] -= kept;
        "refunded"
    }

    async fn check(&self, step: &str) {
        let mut books = self.model.books;
        books[0] -= self.model.on_hold();
        let found = self.world.books().await.map(i128::from);
        assert_eq!(found, books, "{step}");
        // What is in the currency is on the card or owed, to the last cent; nothing of bitcoin is
        // made or lost.
        assert_eq!(self.model.books[0] + self.model.books[2], 0, "{step}");
        let bitcoin = self.model.books[1] + self.model.books[3] + self.model.books[4];
        assert_eq!(bitcoin, 70_000_000, "{step}");
        let issuer = self.world.engine.issuer();
        let reports = self.world.engine.reports();
        assert!(reports.trial_balance(&issuer).await.unwrap().is_balanced());
    }
}

async fn run(rules: ConversionRules, spread: Option<Spread>, acts: &[Act]) -> Vec<&'static str> {
    let terms = Terms {
        rules,
        spread,
        ..Terms::default()
    };
    let mut world = World::new(false, "JMD", "15000000", terms).await;
    world.rate("USD", "100000");
    world.fund(FUNDS, 70_000_000).await;
    world.cap("cap", CAP).await;
    let model = Model {
        rules,
        spread,
        own: 1_500_000_000,
        third: 10_000_000,
        books: [FUNDS.into(), 0, i128::from(-FUNDS), 70_000_000, 0],
        tabs: Vec::new(),
        sales: Vec::new(),
    };
    let mut run = Run {
        world,
        model,
        made: 0,
    };
    let mut seen = Vec::new();
    for act in acts {
        seen.push(run.act(act).await);
        run.check(&format!("{act:?}")).await;
    }
    run.world.stop("model").await;
    seen
}

#[test]
fn any_conversions_come_to_what_the_model_says() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 40,
        ..Config::default()
    });
    let seen = std::cell::RefCell::new(std::collections::BTreeMap::new());
    runner
        .run(&(terms(), spreads(), acts()), |(rules, spread, acts)| {
            for what in runtime.block_on(run(rules, spread, &acts)) {
                *seen.borrow_mut().entry(what).or_insert(0_u32) += 1;
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    println!("{seen:?}");
    for what in [
        "charged",
        "authorized",
        "captured",
        "refunded",
        "released",
        "refused",
        "capped",
    ] {
        assert!(
            seen.get(what).is_some_and(|times| *times > 0),
            "{what}: {seen:?}"
        );
    }
}
