//! What an invoice may have beside its price: what was bought, by which rails, under which rules.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::InvoiceError;
use super::given_address;
use super::model::Custody;
use super::payment::{Rail, is_false, is_zero};
use crate::core::{CommandError, check_text};
use crate::ids::CardId;
use crate::money::Price;

const MAX_LINES: usize = 100;
/// The most bytes that free data may have, as JSON.
pub(crate) const MAX_METADATA_BYTES: usize = 8_192;
const MAX_METADATA_DEPTH: usize = 16;
/// As many decimal digits as a binary fraction of 64 bits has kept of any number.
const KEPT_DIGITS: usize = 15;
const MONITORING_SECONDS: std::ops::RangeInclusive<u32> = 0..=90 * 24 * 3_600;
/// A day: how long payments on chain are followed after an invoice's time.
pub(crate) const DEFAULT_MONITORING_SECONDS: u32 = 24 * 3_600;

/// One line of what was bought, in the minor unit of the price (msat for one in bitcoin).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceLine {
    /// What; at most 200 characters.
    pub description: String,
    /// How many; at least 1.
    pub quantity: u32,
    /// What one costs, zero or more.
    pub unit_price_minor: i64,
    /// The tax of the whole line: on top of its price, or
    /// [within it](InvoiceOptions::tax_included).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tax_minor: i64,
}

/// What an invoice may have beside its purpose, price, description and time. All of it can be left
/// out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InvoiceOptions {
    /// What the seller calls it; at most 100 characters. Invoices are found by it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub order_reference: String,
    /// What was bought; at most 100 lines, which with the tip must come to the price.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<InvoiceLine>,
    /// The tip, in the minor unit of the price.
    #[serde(skip_serializing_if = "is_zero")]
    pub tip_minor: i64,
    /// The prices of the lines have their tax in them.
    #[serde(skip_serializing_if = "is_false")]
    pub tax_included: bool,
    /// Anything that the caller wants to find here again: a JSON object of at most 8,192 bytes and
    /// 16 levels. A number that is not whole has at most 15 digits, and a whole one 64 bits: longer ones
    /// are given as text.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// By which rails it can be paid; none stands for Lightning alone. One that cannot be made
    /// says why in [`unavailable`](super::Invoice::unavailable), and the others go on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rails: Vec<Rail>,
    /// The address to be paid on chain, for a host that brings its own wallet and tells by
    /// [`observe_on_chain`](super::Invoices::observe_on_chain) what comes to it; never one that an
    /// invoice had before. Issuer only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<GivenAddress>,
    /// Its payment is only set aside, until it is captured or given back. Lightning and book
    /// alone, and the exact amount alone.
    ///
    /// By book it stays set aside for as long as
    /// [`Settings::authorization_ms`](crate::Settings::authorization_ms) says. Over Lightning it does so
    /// for minutes: a node can claim until 39 blocks before a payment's end, LDK's texts
    /// ask payers for 42 and no more can be asked for, and the payment goes back when 2 are left. Of
    /// a payer that adds none of its own that leaves a single block, 10 minutes on average, and of
    /// LND, which adds 3, some 40. What is to wait for hours, such as for goods to be packed, is paid
    /// by book, or is paid and refunded.
    #[serde(skip_serializing_if = "is_false")]
    pub hold: bool,
    /// For how long after its time payments on chain are followed: 0 to 90 days; a day where it is
    /// left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitoring_seconds: Option<u32>,
    /// Where no channel can take in what is asked for, the node's liquidity provider opens one when
    /// the payment comes (LSPS2), and keeps at most this of it: the operator's cost, so that
    /// nobody is credited less. Issuer only, with a price alone; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub just_in_time_max_fee_msat: Option<i64>,
    /// What is done with a payment that is not what was asked for; where it is left out, what the
    /// merchant set at the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<PaymentRules>,
}

/// An address that the host brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenAddress {
    /// The address; 1 to 100 characters.
    pub address: String,
    /// Who has its keys.
    pub custody: Custody,
}

/// What is done with a payment that is not what was asked for. By default nothing is done: over
/// Lightning it goes back to its sender while that costs nothing; on chain, where it cannot go
/// back, too little counts and waits for the rest, and surplus and late money goes to suspense.
///
/// What a node gives back by itself is decided by nobody here. LDK's gives back what is less than
/// its text asks for, so that too little by Lightning is for nodes that let it through: with LDK
/// the rest is asked for after a part on chain. And it gives back what comes two
/// hours after the time of its text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PaymentRules {
    /// Too little is enough when no more than so many thousandths of the amount are missing; 0 to
    /// 999.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub accept_under_per_mille: u32,
    /// Too little is taken over Lightning as well, and the rest is asked for by a new BOLT11 text.
    #[serde(skip_serializing_if = "is_false")]
    pub ask_for_rest: bool,
    /// Too much is taken over Lightning as well, and this is where the surplus goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surplus: Option<SurplusTo>,
    /// A late payment is taken when the rate has moved by no more than so many thousandths since
    /// the invoice was made; 0 to 1,000. One priced in bitcoin has no rate to move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_late_within_per_mille: Option<u32>,
    /// What refunds at the rate of now may come to together: at most so many thousandths of the
    /// bitcoin that was paid, 1 to 10,000. Where it is left out, never more than was paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_up_to_per_mille: Option<u32>,
    /// How many confirmations a payment on chain needs, by its amount: the first tier whose amount
    /// is not exceeded. Beyond the last tier what that one says, and never none: 1 at least. 1 where
    /// there is no tier.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub confirmations: Vec<ConfirmationTier>,
}

/// Where surplus goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SurplusTo {
    /// To whoever the invoice is of, as a tip.
    Tip,
    /// On a card.
    Card {
        /// The card.
        card: CardId,
    },
    /// Back to whoever paid, by a refund: the merchant has it until then, and it is said by
    /// [`refund_due_msat`](super::Invoice::refund_due_msat).
    Refund,
}

/// How many confirmations payments up to an amount need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmationTier {
    /// The greatest amount it is for.
    pub up_to_msat: i64,
    /// How many: 0 to 6.
    pub confirmations: u32,
}

impl PaymentRules {
    /// Nothing is taken that was not asked for; one confirmation.
    pub const NONE: Self = Self {
        accept_under_per_mille: 0,
        ask_for_rest: false,
        surplus: None,
        accept_late_within_per_mille: None,
        refund_up_to_per_mille: None,
        confirmations: Vec::new(),
    };

    /// How many confirmations a payment of this amount needs.
    pub fn confirmations_for(&self, amount_msat: i64) -> u32 {
        let fits = |tier: &&ConfirmationTier| amount_msat <= tier.up_to_msat;
        match self.confirmations.iter().find(fits) {
            Some(tier) => tier.confirmations,
            // What is said of less does not let it settle unconfirmed.
            None => self
                .confirmations
                .last()
                .map_or(1, |last| last.confirmations.max(1)),
        }
    }

    /// What may be missing of an amount.
    pub fn allowance_msat(&self, amount_msat: i64) -> i64 {
        let wide = i128::from(amount_msat) * i128::from(self.accept_under_per_mille) / 1_000;
        i64::try_from(wide).unwrap_or(0)
    }

    pub(super) fn check(&self) -> Result<(), CommandError> {
        let bad = |field, bounds| Err(CommandError::OutOfBounds { field, bounds });
        if self.accept_under_per_mille > 999 {
            return bad("accept_under_per_mille", "0 to 999");
        }
        if self
            .accept_late_within_per_mille
            .is_some_and(|most| most > 1_000)
        {
            return bad("accept_late_within_per_mille", "0 to 1,000");
        }
        if self
            .refund_up_to_per_mille
            .is_some_and(|most| !(1..=10_000).contains(&most))
        {
            return bad("refund_up_to_per_mille", "1 to 10,000");
        }
        let tiers = &self.confirmations;
        let grows = tiers
            .windows(2)
            .all(|two| two[0].up_to_msat < two[1].up_to_msat);
        let few = tiers.iter().all(|tier| tier.confirmations <= 6);
        if tiers.len() > 10 || !grows || !few {
            let bounds = "at most 10 tiers of 0 to 6 confirmations, by growing amounts";
            return bad("confirmations", bounds);
        }
        Ok(())
    }
}

impl InvoiceOptions {
    /// True when nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The rails that were asked for.
    pub(super) fn wanted_rails(&self) -> &[Rail] {
        if self.rails.is_empty() {
            &[Rail::Lightning]
        } else {
            &self.rails
        }
    }

    /// Everything that can be told without the books.
    pub(super) fn check(&self, price: Option<&Price>, network: &str) -> Result<(), crate::Error> {
        let bad = |field, bounds| Err(CommandError::OutOfBounds { field, bounds }.into());
        check_text(
            "order_reference",
            &self.order_reference,
            100,
            "100 characters",
        )?;
        self.check_lines(price)?;
        check_metadata(&self.metadata)?;
        if self.rails.len() > 4 || has_twice(&self.rails) {
            return bad("rails", "each rail once");
        }
        if self
            .monitoring_seconds
            .is_some_and(|seconds| !MONITORING_SECONDS.contains(&seconds))
        {
            return bad("monitoring_seconds", "0 seconds to 90 days");
        }
        if self.hold && price.is_none() {
            return bad("hold", "with a price");
        }
        let fee_msat = self.just_in_time_max_fee_msat;
        if fee_msat.is_some_and(|fee_msat| fee_msat < 1 || price.is_none()) {
            return bad("just_in_time_max_fee_msat", "at least 1, with a price");
        }
        let can_hold = |rail: &Rail| matches!(rail, Rail::Lightning | Rail::Book);
        if self.hold && !self.wanted_rails().iter().all(can_hold) {
            return bad("hold", "Lightning and book");
        }
        if let Some(rules) = &self.rules {
            rules.check()?;
        }
        if let Some(GivenAddress { address, .. }) = &self.address {
            given_address::canonical(address, network)?;
            if !self.wanted_rails().contains(&Rail::OnChain) {
                return bad("address", "with the rail `on_chain`");
            }
        }
        Ok(())
    }

    fn check_lines(&self, price: Option<&Price>) -> Result<(), crate::Error> {
        if self.lines.len() > MAX_LINES {
            let (field, bounds) = ("lines", "100 lines");
            return Err(CommandError::OutOfBounds { field, bounds }.into());
        }
        if self.lines.is_empty() && self.tip_minor == 0 {
            return Ok(());
        }
        let mut sum = i128::from(self.tip_minor);
        for line in &self.lines {
            check_text(
                "lines.description",
                &line.description,
                200,
                "200 characters",
            )?;
            let price = i128::from(line.unit_price_minor) * i128::from(line.quantity);
            let tax = i128::from(line.tax_minor);
            let sane = line.quantity > 0 && line.unit_price_minor >= 0 && tax >= 0;
            if !sane || (self.tax_included && tax > price) {
                let (field, bounds) = ("lines", "no less than nothing, and no more tax than price");
                return Err(CommandError::OutOfBounds { field, bounds }.into());
            }
            sum += price + if self.tax_included { 0 } else { tax };
        }
        let asked = match price {
            Some(Price::Bitcoin { amount_msat }) => i128::from(*amount_msat),
            Some(Price::Fiat { minor_units, .. }) => i128::from(*minor_units),
            None => -1,
        };
        let tip_alone = self.lines.is_empty() && sum <= asked;
        if self.tip_minor < 0 || (sum != asked && !tip_alone) {
            return Err(InvoiceError::LinesDoNotAddUp { sum, asked }.into());
        }
        Ok(())
    }
}

fn has_twice(rails: &[Rail]) -> bool {
    let later = |(at, rail): (usize, &Rail)| rails[at + 1..].contains(rail);
    rails.iter().enumerate().any(later)
}

fn check_metadata(metadata: &Map<String, Value>) -> Result<(), CommandError> {
    let refused = CommandError::OutOfBounds {
        field: "metadata",
        bounds: "8,192 bytes of JSON, 16 levels, no U+0000, no number of more than 15 digits that is not whole",
    };
    let deep = metadata
        .values()
        .any(|value| is_deeper(value, MAX_METADATA_DEPTH - 1));
    if deep || metadata.iter().any(has_null) || !metadata.values().all(is_kept) {
        return Err(refused);
    }
    match serde_json::to_vec(metadata) {
        Ok(text) if text.len() <= MAX_METADATA_BYTES => Ok(()),
        _ => Err(refused),
    }
}

fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => true,
        Value::Array(values) => values.iter().any(|value| is_deeper(value, levels - 1)),
        Value::Object(map) => map.values().any(|value| is_deeper(value, levels - 1)),
        _ => false,
    }
}

/// Of bounded depth by now.
fn has_null((key, value): (&String, &Value)) -> bool {
    let inside = match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => {
            let none = String::new();
            values.iter().any(|value| has_null((&none, value)))
        }
        Value::Object(map) => map.iter().any(has_null),
        _ => false,
    };
    inside || key.contains('\0')
}

/// True where what is written is what was given: a number that is kept as a binary fraction is the same
/// up to fifteen digits, and no order number beyond them would be found again.
fn is_kept(value: &Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => {
            let text = number.to_string();
            let digits = text.bytes().filter(u8::is_ascii_digit).count();
            digits <= KEPT_DIGITS && !text.contains('e')
        }
        Value::Array(values) => values.iter().all(is_kept),
        Value::Object(map) => map.values().all(is_kept),
        _ => true,
    }
}

fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}
