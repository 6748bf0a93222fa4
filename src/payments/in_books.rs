//! Payments to a hold invoice of this engine: set aside in the books, and ended by whoever captures
//! it or gives it back, in the same commit.

use super::model::{Change, Outgoing, Standing};
use super::rules;
use crate::Error;
use crate::cards::CardPayment;
use crate::core::{Core, Loaded};
use crate::ledger::Step;
use crate::lightning::PaymentHash;
use crate::refunds::Refund;
use crate::settlement::{PaidByBook, Payout};

/// The steps by which the payment under a hash ends that was set aside in the books: it succeeded
/// where there is a proof, and is given back otherwise. None where there is no such payment.
pub(crate) async fn ended_in_books(
    core: &Core,
    hash: PaymentHash,
    proof: Option<PaidByBook>,
) -> Result<Vec<Step>, Error> {
    if let Some(steps) = ended::<Payout>(core, hash, &proof).await? {
        return Ok(steps);
    }
    if let Some(steps) = ended::<CardPayment>(core, hash, &proof).await? {
        return Ok(steps);
    }
    let steps = ended::<Refund>(core, hash, &proof).await?;
    Ok(steps.unwrap_or_default())
}

async fn ended<P: Outgoing>(
    core: &Core,
    hash: PaymentHash,
    proof: &Option<PaidByBook>,
) -> Result<Option<Vec<Step>>, Error> {
    let key = hash.to_string();
    let found: Option<Loaded<P>> = core.find(P::COLLECTION, "payment_hash", &key).await?;
    let Some(found) = found.filter(|found| found.value.leaving().in_books) else {
        return Ok(None);
    };
    let before = found.value.leaving();
    if before.standing.is_final() {
        return Ok(None);
    }
    let standing = match proof {
        Some(_) => Standing::Succeeded,
        None => Standing::Failed,
    };
    let after = found.value.changed(Change {
        standing,
        reason: None,
        route_fee_msat: proof.as_ref().map(|_| 0),
    });
    let mut besides = Vec::new();
    let after = match proof {
        Some(proof) => {
            let proven = after.with_proof(proof.clone());
            let (after, steps) = proven.when_succeeded(core).await?;
            besides.extend(steps);
            after
        }
        None => {
            // The hold is the invoice's, and gives no usage back.
            let usage = before.usage.iter().cloned();
            besides.extend(usage.map(|window| Step::Unuse {
                window,
                amount: before.amount_msat,
            }));
            after
        }
    };
    besides.extend(found.value.when_ended(core, standing).await?);
    let mut steps = rules::write(&after, found.version)?.to_vec();
    steps.extend(besides);
    Ok(Some(steps))
}
