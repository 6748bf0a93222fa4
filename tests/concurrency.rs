//! Many at once, and callers that go away: every command is whole, and done once.

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use flashkit::cards::{CardLimits, CardState, Charge, ChargeCard, FreezeCard};
use flashkit::ledger::Account;
use flashkit::lightning::Bolt11Details;
use flashkit::ports::SystemClock;
use flashkit::settlement::{PairTill, Payout, PayoutState, RequestPayout, RevokeTill};
use flashkit::store::sqlite::SqliteStore;
use flashkit::store::{MemoryStore, Store};
use flashkit::{Answer, Engine, Error};
use support::books::expect_sound;
use support::shop::{self, HeldCard, Merchant, SAT, Simulated, UID, sat};
use support::{key, until};

const ON_CARD: i64 = 50_000;
const PRICE: i64 = 1_000;

/// A shop with a card that has money on it, on one of the stores.
struct Scene {
    shop: Simulated,
    merchant: Merchant,
    card: HeldCard,
    _folder: Option<tempfile::TempDir>,
}

impl Scene {
    async fn on(store: Arc<dyn Store>, folder: Option<tempfile::TempDir>) -> Self {
        let shop = shop::simulated(store).await;
        let merchant = shop::merchant(&shop.engine, "Cookshop").await;
        let card = shop::card(&shop.engine, UID, CardLimits::default()).await;
        shop::top_up(&shop.engine, &shop.customer, &card, "first", sat(ON_CARD)).await;
        Self {
            shop,
            merchant,
            card,
            _folder: folder,
        }
    }

    async fn on_memory() -> Self {
        Self::on(Arc::new(MemoryStore::new(Arc::new(SystemClock))), None).await
    }

    async fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("books.db");
        let store = SqliteStore::open(file, Arc::new(SystemClock)).unwrap();
        Self::on(Arc::new(store), Some(folder)).await
    }

    fn engine(&self) -> &Engine {
        &self.shop.engine
    }

    /// A charge as work of its own, so that many can be begun before any has ended.
    fn charge(
        &self,
        name: impl AsRef<str>,
        tap: &str,
    ) -> Pin<Box<dyn Future<Output = Result<Answer<Charge>, Error>> + Send>> {
        let (cards, till) = (self.engine().cards(), self.merchant.till.clone());
        let command = ChargeCard {
            key: key(name.as_ref()),
            tap: tap.to_owned(),
            price: sat(PRICE),
            reference: "table 4".to_owned(),
            pin: None,
        };
        Box::pin(async move { cards.charge(&till, command).await })
    }

    fn payout(
        &self,
        name: &str,
        bolt11: &str,
    ) -> Pin<Box<dyn Future<Output = Result<Answer<Payout>, Error>> + Send>> {
        let (settlement, issuer) = (self.engine().settlement(), self.engine().issuer());
        let command = RequestPayout {
            key: key(name),
            merchant: self.merchant.id,
            bolt11: bolt11.to_owned(),
        };
        Box::pin(async move { settlement.request_payout(&issuer, command).await })
    }

    /// Puts money where a payout can take it from.
    async fn earn(&self, name: &str, sats: i64) {
        let invoice = shop::sale(self.engine(), &self.merchant, name, sat(sats)).await;
        self.shop.customer.pay(&invoice.bolt11).await.unwrap();
        shop::settled(self.engine(), &invoice).await;
    }

    async fn balance(&self, account: Account) -> i128 {
        let books = self
            .engine()
            .reports()
            .trial_balance(&self.engine().issuer())
            .await
            .unwrap();
        let line = books.lines.iter().find(|line| line.account == account);
        line.map_or(0, |line| line.balance)
    }

    async fn on_card(&self) -> i128 {
        self.balance(Account::card_balance(self.card.id)).await
    }

    async fn payable(&self) -> i128 {
        let account = Account::merchant_payable(self.merchant.id);
        self.balance(account).await
    }

    /// `charges` of `PRICE` were made since the card was topped up, and nothing else.
    async fn expect_charges(&self, step: &str, charges: i64) {
        let spent = i128::from(charges * PRICE * SAT);
        assert_eq!(
            self.on_card().await,
            i128::from(ON_CARD * SAT) - spent,
            "{step}"
        );
        assert_eq!(self.payable().await, spent, "{step}");
        expect_sound(self.engine(), step).await;
    }

    async fn stop(self) {
        expect_sound(self.engine(), "in the end").await;
        self.engine().stop().await.unwrap();
    }
}

/// Runs work side by side, on all threads there are.
async fn all<T: Send + 'static>(
    work: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = work.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

/// Polls once, as a caller does who then goes away. `true` if it was answered at once.
fn poll_once<T>(work: impl Future<Output = T>) -> bool {
    let mut work = std::pin::pin!(work);
    let mut context = Context::from_waker(Waker::noop());
    Pin::as_mut(&mut work).poll(&mut context).is_ready()
}

fn code<T>(result: &Result<T, Error>) -> &'static str {
    result.as_ref().err().map_or("ok", Error::code)
}

async fn one_tap_is_one_charge(mut scene: Scene) {
    let mut charged = 0;
    for callers in [2, 64] {
        let tap = scene.card.chip.tap();
        let charges =
            (0..callers).map(|caller| scene.charge(format!("tap-{callers}-{caller}"), &tap));
        let results = all(charges.collect::<Vec<_>>()).await;
        let ok = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(ok, 1, "{callers} callers");
        for result in results.iter().filter(|result| result.is_err()) {
            assert_eq!(code(result), "card.tap_replayed");
        }
        charged += 1;
        scene
            .expect_charges(&format!("{callers} callers"), charged)
            .await;
    }
    // The same command from many: one charge, and the same answer to all.
    let tap = scene.card.chip.tap();
    let results = all((0..64)
        .map(|_| scene.charge("same", &tap))
        .collect::<Vec<_>>())
    .await;
    let first = results[0].as_ref().unwrap();
    for result in &results {
        assert_eq!(result.as_ref().unwrap(), first);
    }
    scene.expect_charges("one command", charged + 1).await;
    scene.stop().await;
}

async fn many_taps_never_overspend(mut scene: Scene) {
    // Sixty taps at a thousand each; there is money for fifty.
    let taps: Vec<String> = (0..60).map(|_| scene.card.chip.tap()).collect();
    let charges = taps
        .iter()
        .enumerate()
        .map(|(index, tap)| scene.charge(format!("many-{index}"), tap));
    let results = all(charges.collect::<Vec<_>>()).await;
    let charged = results.iter().filter(|result| result.is_ok()).count();
    // A tap that comes after a later one was used is refused: the counter only rises.
    assert!((1..=50).contains(&charged), "{charged} charges");
    for result in results.iter().filter(|result| result.is_err()) {
        assert!(
            ["card.tap_replayed", "card.insufficient_funds"].contains(&code(result)),
            "{}",
            code(result)
        );
    }
    let charged = i64::try_from(charged).unwrap();
    scene.expect_charges("many taps", charged).await;
    scene.stop().await;
}

async fn one_payout_is_one_payment(scene: Scene) {
    scene.earn("earned", 20_000).await;
    let wallet = scene.shop.customer.clone();
    for callers in [1, 2, 64] {
        let name = format!("payout-{callers}");
        let bolt11 = wallet.invoice(1_000 * SAT, &name).await.unwrap();
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        let before = scene.payable().await;
        let payouts = (0..callers).map(|_| scene.payout(&name, &bolt11));
        let results = all(payouts.collect::<Vec<_>>()).await;
        let id = results[0].as_ref().unwrap().id;
        assert!(
            results
                .iter()
                .all(|result| result.as_ref().unwrap().id == id)
        );
        let settlement = scene.engine().settlement();
        until("it is paid out", || async {
            let payout = settlement.payout(&scene.engine().issuer(), id).await;
            payout.unwrap().state == PayoutState::PaidOut
        })
        .await;
        // And once more, after the end.
        let again = scene.payout(&name, &bolt11).await.unwrap();
        assert_eq!((again.id, again.state), (id, PayoutState::PaidOut));
        // Another command for the same invoice is refused.
        let other = scene.payout(&format!("{name}-other"), &bolt11).await;
        assert_eq!(code(&other), "settlement.invoice_used");
        until("it arrived", || async {
            wallet.received_msat(hash) == 1_000 * SAT
        })
        .await;
        let paid = before - scene.payable().await;
        assert_eq!(paid, i128::from(1_010 * SAT), "{callers} callers");
    }
    scene.stop().await;
}

async fn a_key_is_for_one_request(mut scene: Scene) {
    let tap = scene.card.chip.tap();
    scene.charge("once", &tap).await.unwrap();
    let command = ChargeCard {
        key: key("once"),
        tap: tap.clone(),
        price: sat(PRICE * 2),
        reference: "table 4".to_owned(),
        pin: None,
    };
    let till = scene.merchant.till.clone();
    let other = scene.engine().cards().charge(&till, command).await;
    assert_eq!(code(&other), "command.key_reused");
    scene.expect_charges("another amount", 1).await;

    // Both at once: one of them is the command, the other is refused.
    for round in 0..20 {
        let name = format!("race-{round}");
        let tap = scene.card.chip.tap();
        let dearer = ChargeCard {
            key: key(&name),
            tap: tap.clone(),
            price: sat(PRICE * 2),
            reference: "table 4".to_owned(),
            pin: None,
        };
        let before = scene.on_card().await;
        let (cards, till) = (scene.engine().cards(), till.clone());
        let (cheap, dear) = tokio::join!(
            tokio::spawn(scene.charge(&name, &tap)),
            tokio::spawn(async move { cards.charge(&till, dearer).await })
        );
        let spent = before - scene.on_card().await;
        let price = i128::from(PRICE * SAT);
        match (cheap.unwrap(), dear.unwrap()) {
            (Ok(_), Err(error)) => assert_eq!((error.code(), spent), ("command.key_reused", price)),
            (Err(error), Ok(_)) => {
                assert_eq!((error.code(), spent), ("command.key_reused", 2 * price));
            }
            both => panic!("both or neither: {both:?}"),
        }
    }
    scene.stop().await;
}

async fn a_caller_that_goes_away_leaves_all_or_nothing(mut scene: Scene) {
    for round in 0..20 {
        let before = (scene.on_card().await, scene.payable().await);
        let name = format!("gone-{round}");
        let tap = scene.card.chip.tap();
        let charge = scene.charge(&name, &tap);
        if round % 2 == 0 {
            poll_once(charge);
        } else {
            let task = tokio::spawn(charge);
            tokio::task::yield_now().await;
            task.abort();
        }
        // Whether it was carried out or not, nothing is half done at any moment.
        for _ in 0..5 {
            let spent = before.0 - scene.on_card().await;
            assert!([0, i128::from(PRICE * SAT)].contains(&spent));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Who comes back with the same key gets the one charge.
        scene.charge(&name, &tap).await.unwrap();
        let price = i128::from(PRICE * SAT);
        let after = (scene.on_card().await, scene.payable().await);
        assert_eq!(after, (before.0 - price, before.1 + price));
    }
    // A payout whose caller goes away is sent, and once.
    scene.earn("earned", 20_000).await;
    let wallet = scene.shop.customer.clone();
    for round in 0..10 {
        let name = format!("gone-payout-{round}");
        let bolt11 = wallet.invoice(1_000 * SAT, &name).await.unwrap();
        let hash = bolt11.parse::<Bolt11Details>().unwrap().payment_hash;
        let before = scene.payable().await;
        poll_once(scene.payout(&name, &bolt11));
        until("the caller's command is carried out", || async {
            wallet.received_msat(hash) == 1_000 * SAT
        })
        .await;
        until("and booked", || async {
            before - scene.payable().await == i128::from(1_010 * SAT)
        })
        .await;
        let again = scene.payout(&name, &bolt11).await.unwrap();
        assert_eq!(again.amount_msat, 1_000 * SAT);
        assert_eq!(wallet.received_msat(hash), 1_000 * SAT);
    }
    scene.stop().await;
}

async fn a_revoked_till_charges_nothing(mut scene: Scene) {
    let issuer = scene.engine().issuer();
    for round in 0..10 {
        let name = format!("Branch-{round}");
        scene.merchant = shop::merchant(scene.engine(), &name).await;
        let tills = scene.engine().settlement();
        // The command that paired it says which till it was.
        let paired = tills
            .pair_till(
                &issuer,
                PairTill {
                    key: key(&format!("till/{name}")),
                    merchant: scene.merchant.id,
                    label: "till 1".to_owned(),
                },
            )
            .await
            .unwrap();
        let command = RevokeTill {
            key: key(&format!("revoke-{round}")),
            till: paired.till.id,
        };
        let before = scene.on_card().await;
        let tap = scene.card.chip.tap();
        let charge = tokio::spawn(scene.charge(format!("revoked-{round}"), &tap));
        let revoke = {
            let (tills, issuer) = (tills.clone(), issuer.clone());
            tokio::spawn(async move { tills.revoke_till(&issuer, command).await })
        };
        let (charged, revoked) = (charge.await.unwrap(), revoke.await.unwrap());
        revoked.unwrap();
        let spent = before - scene.on_card().await;
        match &charged {
            Ok(_) => assert_eq!(spent, i128::from(PRICE * SAT)),
            Err(error) => assert_eq!((error.code(), spent), ("access.revoked", 0)),
        }
        let tap = scene.card.chip.tap();
        let late = scene.charge(format!("late-{round}"), &tap).await;
        assert_eq!(code(&late), "access.revoked");
        assert_eq!(before - scene.on_card().await, spent);
    }
    scene.stop().await;
}

async fn a_freeze_and_a_charge_have_one_order(mut scene: Scene) {
    let holder = scene.card.holder.clone();
    let (mut charges, mut refusals) = (0, 0);
    for round in 0..30 {
        let before = scene.on_card().await;
        let tap = scene.card.chip.tap();
        let charge = scene.charge(format!("freezing-{round}"), &tap);
        let freeze = {
            let (cards, holder) = (scene.engine().cards(), holder.clone());
            let command = FreezeCard {
                key: key(&format!("freeze-{round}")),
                card: scene.card.id,
            };
            async move { cards.freeze(&holder, command).await }
        };
        let (charged, frozen) = if round % 2 == 0 {
            let (charge, freeze) = (tokio::spawn(charge), tokio::spawn(freeze));
            (charge.await.unwrap(), freeze.await.unwrap())
        } else {
            let (freeze, charge) = (tokio::spawn(freeze), tokio::spawn(charge));
            (charge.await.unwrap(), freeze.await.unwrap())
        };
        // A freeze is never lost to a charge.
        assert_eq!(frozen.unwrap().state, CardState::Frozen);
        let spent = before - scene.on_card().await;
        match &charged {
            Ok(_) => {
                charges += 1;
                assert_eq!(spent, i128::from(PRICE * SAT));
            }
            Err(error) => {
                refusals += 1;
                assert_eq!((error.code(), spent), ("card.frozen", 0));
            }
        }
        let later = scene.card.chip.tap();
        let late = scene.charge(format!("frozen-{round}"), &later).await;
        assert_eq!(code(&late), "card.frozen");
        let command = FreezeCard {
            key: key(&format!("unfreeze-{round}")),
            card: scene.card.id,
        };
        let cards = scene.engine().cards();
        cards.unfreeze(&holder, command).await.unwrap();
    }
    println!("{charges} charges came first, {refusals} freezes did");
    scene.stop().await;
}

macro_rules! on_both_stores {
    ($($scenario:ident),* $(,)?) => {
        mod on_memory {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $scenario() {
                super::$scenario(Scene::on_memory().await).await;
            })*
        }
        mod on_sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $scenario() {
                super::$scenario(Scene::on_sqlite().await).await;
            })*
        }
    };
}

on_both_stores!(
    one_tap_is_one_charge,
    many_taps_never_overspend,
    one_payout_is_one_payment,
    a_key_is_for_one_request,
    a_caller_that_goes_away_leaves_all_or_nothing,
    a_revoked_till_charges_nothing,
    a_freeze_and_a_charge_have_one_order,
);
