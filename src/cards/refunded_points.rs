//! What a refund of a sale takes back of the points of the cards that paid it.

use super::load;
use super::payment_model::CardPayment;
use super::payment_rules::PAYMENTS;
use crate::Error;
use crate::core::{Core, Loaded, emit, put};
use crate::exchange::share_down;
use crate::ledger::Step;
use crate::lightning::PaymentHash;
use crate::payments::Outgoing;
use crate::payments::rules::index_keys;
use crate::rewards::{self, PointsBack, RewardedSale};

/// What of a sale stands after a refund of it: `part` of `whole`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    pub(crate) part_msat: i64,
    pub(crate) whole_msat: i64,
}

/// The points of the payment under a hash, of a card of this engine, that go back with a refund of
/// its sale, and the steps that set them aside; `None` where it earned none.
pub(crate) async fn set_points_aside(
    core: &Core,
    hash: PaymentHash,
    left: Left,
    others: &[PointsBack],
    reference: &str,
) -> Result<Option<(PointsBack, Vec<Step>)>, Error> {
    let key = hash.to_string();
    let found: Option<Loaded<CardPayment>> = core.find(PAYMENTS, "payment_hash", &key).await?;
    let Some(found) = found else { return Ok(None) };
    let paid = &found.value;
    let (Some(program), Some(posting)) = (paid.program, paid.posting.reward) else {
        return Ok(None);
    };
    let sale = RewardedSale {
        program,
        card: load(core, paid.card).await?.value.line(),
        posting,
        standing_msat: share_down(paid.amount_msat, left.part_msat, left.whole_msat)?,
        standing_points: paid.points - paid.points_taken_back,
    };
    let (back, mut steps) = rewards::set_aside(core, &sale, others, (paid.id, reference)).await?;
    if back.points == 0 {
        return Ok(None);
    }
    steps.extend(write(&found, back.points)?);
    Ok(Some((back, steps)))
}

/// The refund came to nothing: the points are the card's again, and stand.
pub(crate) async fn give_points_again(core: &Core, back: &PointsBack) -> Result<Vec<Step>, Error> {
    let mut steps: Vec<Step> = rewards::give_again(back).into_iter().collect();
    let id = back.payment.to_string();
    if let Some(found) = core.load::<CardPayment>(PAYMENTS, &id).await? {
        steps.extend(write(&found, -back.points)?);
    }
    Ok(steps)
}

fn write(before: &Loaded<CardPayment>, more: i64) -> Result<[Step; 2], Error> {
    let mut after = before.value.clone();
    after.points_taken_back = after.points_taken_back.saturating_add(more);
    let (id, keys) = (after.id.to_string(), index_keys(&after));
    Ok([
        put(CardPayment::COLLECTION, id, before.version, &after, keys)?,
        emit("card.points_refunded", after.card.to_string(), &after)?,
    ])
}
