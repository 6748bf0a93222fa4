//! The records of a card program.

use serde::{Deserialize, Serialize};

use crate::cards::CardLimits;
use crate::core::IdempotencyKey;
use crate::exchange::ConversionRules;
use crate::ids::{CardProgramId, MerchantId, ProgramId};
use crate::money::Asset;
use crate::settlement::MerchantCategory;

/// Who pays for the route when a card pays an invoice of somebody else's node. Where no till took a
/// tap (a withdrawal, a tap that came alone) it is always the card: whoever is paid there may be its
/// holder, who chooses what the route costs and whom that goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeeBearer {
    /// The card: the fee comes off its balance, on top of the amount.
    Card,
    /// The merchant whose till took the tap: the fee comes off its payable.
    Merchant,
    /// The operator.
    Operator,
}

/// When a card of a program asks for its PIN, and how often that may be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PinRules {
    /// What one tap may spend without the PIN, at most, in the unit: whoever holds a card can set less
    /// ([`CardLimits::pin_above`]), not more. `None` leaves it to them.
    #[serde(alias = "above_msat")]
    pub above: Option<i64>,
    /// How many wrong ones lock it: 1 to 10.
    pub max_wrong: u32,
}

impl Default for PinRules {
    /// Left to the holder; three wrong ones.
    fn default() -> Self {
        Self {
            above: None,
            max_wrong: 3,
        }
    }
}

/// When the money of a card that expired becomes the operator's, where nobody has had it replaced
/// or retired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum BreakageRule {
    /// As [`Settings::breakage_after_ms`](crate::Settings::breakage_after_ms) says.
    #[default]
    BySettings,
    /// Never.
    Never,
    /// A while after the card expired.
    After {
        /// How long, in milliseconds: 1 day to 100 years.
        wait_ms: i64,
    },
}

impl BreakageRule {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde gives it a reference"
    )]
    fn is_by_settings(&self) -> bool {
        *self == Self::BySettings
    }
}

/// The rules of a program's cards. What is left out of the JSON is as by default: a card that may
/// do everything, as one without a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CardProgramTerms {
    /// What the balance is of: bitcoin, or a currency. It never changes.
    pub unit: Asset,
    /// What a card may do, of each limit that it is not issued with itself. Its holder can set less
    /// afterwards, and not more than this or what the issuer has given that card.
    pub limits: CardLimits,
    /// The most that may be on a card, in the minor unit of `unit` (msat for bitcoin), whatever
    /// its holder has set; `None` leaves it to the card's own limits.
    pub max_balance_minor_units: Option<i64>,
    /// Who pays for the route to somebody else's till; `None` for what the engine's settings say of a
    /// card without a program
    /// ([`CardPaymentSettings::card_bears_route`](crate::CardPaymentSettings::card_bears_route)).
    /// Terms that an earlier version kept name the operator where this was left out: set it again to
    /// have it otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_bearer: Option<FeeBearer>,
    /// How long a card can be used after it was activated, in milliseconds; `None` for ever.
    pub valid_for_ms: Option<i64>,
    /// Where the cards can pay; at most 1,000. Empty for everywhere.
    pub merchants: Vec<MerchantId>,
    /// The kinds of shop where the cards can pay; at most 1,000. Empty for all. A merchant
    /// without a category is of no kind.
    pub categories: Vec<MerchantCategory>,
    /// The points that the cards earn in the place of the merchant's own, at merchants that give
    /// points. Paid for by the merchant of the sale, as its own would be.
    pub reward_program: Option<ProgramId>,
    /// How long a tap can be charged after it was first looked at, in milliseconds: 1 second to a
    /// day; `None` for [`Settings::tap_valid_ms`](crate::Settings::tap_valid_ms), two minutes by
    /// default.
    pub tap_valid_ms: Option<i64>,
    /// When the PIN is asked for.
    pub pin: PinRules,
    /// How long after a tap that a till took offline it can be booked, in milliseconds; `None`
    /// takes none.
    pub offline_window_ms: Option<i64>,
    /// How a card in a currency is converted.
    pub conversion: ConversionRules,
    /// How long what was authorised is set aside, in milliseconds: 1 minute to 31 days; `None` for
    /// [`Settings::authorization_ms`](crate::Settings::authorization_ms).
    pub authorization_ms: Option<i64>,
    /// What becomes of the money on cards that expired.
    #[serde(skip_serializing_if = "BreakageRule::is_by_settings")]
    pub breakage: BreakageRule,
    /// Where the merchant bears the route and has too little here for it: up to how much of such
    /// fees it may come to owe, in msat, taken out of what it earns here later; `None` refuses the
    /// payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_owed_up_to_msat: Option<i64>,
    /// For how many blocks a payment to somebody else's till may lock money up, the last hop
    /// counted: 1 to 2,016; `None` for
    /// [`CardPaymentSettings::max_lock_blocks`](crate::CardPaymentSettings::max_lock_blocks).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lock_blocks: Option<u32>,
}

impl Default for CardProgramTerms {
    fn default() -> Self {
        Self {
            unit: Asset::Btc,
            limits: CardLimits::default(),
            max_balance_minor_units: None,
            fee_bearer: None,
            valid_for_ms: None,
            merchants: Vec::new(),
            categories: Vec::new(),
            reward_program: None,
            tap_valid_ms: None,
            pin: PinRules::default(),
            offline_window_ms: None,
            conversion: ConversionRules::default(),
            authorization_ms: None,
            breakage: BreakageRule::default(),
            route_owed_up_to_msat: None,
            max_lock_blocks: None,
        }
    }
}

/// Makes a card program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateCardProgram {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// What people call it; at most 100 characters.
    pub name: String,
    /// Its rules.
    #[serde(default)]
    pub terms: CardProgramTerms,
}

/// Changes a card program, for the cards that it has as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateCardProgram {
    /// Made by the caller before the call.
    pub key: IdempotencyKey,
    /// Which.
    pub program: CardProgramId,
    /// What people call it from now on; at most 100 characters.
    pub name: String,
    /// All of its rules from now on.
    pub terms: CardProgramTerms,
}

/// A card program: the rules that many cards have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardProgram {
    /// Its id.
    pub id: CardProgramId,
    /// What people call it.
    pub name: String,
    /// Its rules.
    pub terms: CardProgramTerms,
    /// When it was made, milliseconds since the epoch.
    pub created_at_ms: i64,
}
