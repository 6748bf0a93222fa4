//! What counts of each payment towards what an invoice asks for.

use super::model::Invoice;
use super::payment::{InvoicePaymentState, Rail};

/// More payments than anybody makes: what comes beyond is not this invoice's.
const MAX_PAYMENTS: usize = 100;
/// So many places are for those alone that are in a block and large.
const LARGE_PLACES: usize = 50;
/// A payment is large that is at least this part of the price.
const LARGE_PARTS: i64 = 50;
/// Where whoever pays chooses, one on chain below this is not large.
const LARGE_MSAT: i64 = 1_000_000;

/// What of a payment counts towards what is due. A payment of whole sats, of an amount that is
/// not, cannot be exact: the part of a sat is no surplus.
pub(super) fn share(due_msat: i64, amount_msat: i64) -> i64 {
    let is_exact = amount_msat % 1_000 != 0 || due_msat <= 0;
    let rounded_msat = due_msat.saturating_add(999) / 1_000 * 1_000;
    amount_msat.min(if is_exact { due_msat } else { rounded_msat })
}

impl Invoice {
    /// Whether one more payment is written with the invoice. Half of the places are kept for such
    /// as reach the price before they are used up, and cost what they have: so that nobody can
    /// keep out whoever pays, neither by dust nor by what is replaced again and again.
    pub(super) fn has_place(&self, rail: Rail, amount_msat: i64, is_here: bool) -> bool {
        let large_msat = match (self.is_open_amount(), rail) {
            (false, _) => self.amount_msat.saturating_add(LARGE_PARTS - 1) / LARGE_PARTS,
            (true, Rail::OnChain) => LARGE_MSAT,
            (true, _) => 0,
        };
        let kept = match is_here && amount_msat >= large_msat {
            true => 0,
            false => LARGE_PLACES,
        };
        self.payments.len() < MAX_PAYMENTS - kept
    }

    /// How many confirmations a payment on chain needs: by the greater of the price and all that
    /// came on chain together, since what comes in many small parts is as dear as in one.
    pub(super) fn confirmations_needed(&self, of: usize) -> u32 {
        let mut sum_msat = 0_i64;
        for (at, payment) in self.payments.iter().enumerate() {
            if payment.rail == Rail::OnChain && (payment.is_live() || at == of) {
                sum_msat = sum_msat.saturating_add(payment.amount_msat);
            }
        }
        let counts_as = sum_msat.max(self.amount_msat);
        let needed = self.rules().confirmations_for(counts_as);
        needed.max(u32::from(self.payments[of].suspended))
    }

    fn fixed_msat(&self, but: Option<usize>) -> i64 {
        let fixed = self
            .payments
            .iter()
            .enumerate()
            .filter(|(at, payment)| payment.is_fixed() && Some(*at) != but);
        let came = fixed.fold(0_i64, |sum, (_, payment)| {
            sum.saturating_add(payment.counted_msat)
        });
        self.kept(came)
    }

    /// What counts of a payment that is confirmed now: first come is not first served, since an
    /// earlier one may be the one that it replaced.
    pub(super) fn share_settled(&mut self, at: usize) {
        let due_msat = self.amount_msat.saturating_sub(self.fixed_msat(Some(at)));
        let open = self.is_open_amount();
        let payment = &mut self.payments[at];
        payment.counted_msat = match (payment.suspended, open) {
            (true, _) => 0,
            (false, true) => payment.amount_msat,
            (false, false) => share(due_msat.max(0), payment.amount_msat),
        };
    }

    /// After a payment vanished: what is there of others, and was surplus beside it, counts in its
    /// place, so that in whatever order the same is told, the same counts together. Only of
    /// payments that nobody could give back, and not of those at the places `gone_on`, whose
    /// surplus is somebody else's by now. Answers which count for more, each with what was booked
    /// of it: what counted, and the surplus.
    pub(super) fn share_again(&mut self, gone_on: &[usize]) -> Vec<(usize, [i64; 2])> {
        let mut more = Vec::new();
        for at in self.in_order() {
            let payment = &self.payments[at];
            let booked = [payment.counted_msat, payment.surplus_msat()];
            let is_here = payment.state == InvoicePaymentState::Settled
                && matches!(payment.rail, Rail::OnChain | Rail::Bolt12);
            if !is_here || booked[1] <= 0 || gone_on.contains(&at) {
                continue;
            }
            self.share_settled(at);
            if self.payments[at].counted_msat > booked[0] {
                more.push((at, booked));
            } else {
                self.payments[at].counted_msat = booked[0];
            }
        }
        more
    }

    /// The places of the payments, in the order in which they were first known: which is not the
    /// one in which they were told.
    pub(super) fn in_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.payments.len()).collect();
        order.sort_by_key(|at| {
            let payment = &self.payments[*at];
            (payment.at_ms, payment.reference.as_str())
        });
        order
    }

    /// What counts of the payments that wait for confirmations, in the order they came.
    pub(super) fn share_pending(&mut self) {
        let open = self.is_open_amount();
        let mut due_msat = self.amount_msat.saturating_sub(self.fixed_msat(None));
        for payment in &mut self.payments {
            if payment.rail != Rail::OnChain || payment.state == InvoicePaymentState::Settled {
                continue;
            }
            payment.counted_msat = match payment.state {
                InvoicePaymentState::Pending if payment.suspended => 0,
                InvoicePaymentState::Pending if open => payment.amount_msat,
                InvoicePaymentState::Pending => share(due_msat.max(0), payment.amount_msat),
                _ => 0,
            };
            due_msat = due_msat.saturating_sub(payment.counted_msat);
        }
    }
}
