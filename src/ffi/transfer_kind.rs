//! Why money moved.

use crate::ledger;

macro_rules! transfer_kinds {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// Why money moved.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
        pub enum TransferKind { $($(#[$doc])* $kind,)* }

        impl From<ledger::TransferKind> for TransferKind {
            fn from(kind: ledger::TransferKind) -> Self {
                match kind { $(ledger::TransferKind::$kind => Self::$kind,)* }
            }
        }
    };
}

transfer_kinds! {
    /// The operator put money in or took it out.
    Capital,
    /// The node's money that came out of its channels into its wallet on chain.
    ChannelClosed,
    /// A sale that was paid over Lightning.
    Sale,
    /// A card that was topped up.
    TopUp,
    /// A contribution to a merchant.
    Contribution,
    /// An invoice of the operator's own that was paid.
    OperatorReceipt,
    /// What was paid beyond what an invoice asked for.
    Surplus,
    /// The money on a card that was taken over from another issuer.
    CardImport,
    /// A sale that was paid with a card.
    Charge,
    /// A BOLT11 that was paid with the money of a card.
    CardPayment,
    /// Bitcoin set aside for points.
    RewardFunding,
    /// A merchant's money put aside for points, or given back.
    RewardBudget,
    /// Points given.
    PointsAccrual,
    /// Points handed back.
    PointsRedemption,
    /// Bitcoin for points handed back.
    RedemptionCredit,
    /// A merchant's money on its way to the merchant.
    Payout,
    /// The operator's fee for a payout.
    PayoutFee,
    /// What the route of a payout cost.
    RoutingFee,
    /// What a liquidity provider kept of a payment for the channel it opened for it.
    LiquidityFee,
    /// Money that matches nothing.
    Unmatched,
    /// Money that matched nothing, given to whom it belongs.
    Assigned,
    /// All that was on a card, to the one that came in its place.
    Replacement,
    /// All that was on a card, where it was asked for when the card was retired.
    Retirement,
    /// All that was on a card that expired long ago.
    Breakage,
    /// A card that was filled up from another one.
    AutoTopUp,
    /// A tap that was taken offline and that its card could not pay.
    OfflineLoss,
    /// What the operator keeps of a conversion.
    Spread,
    /// Money of a charge that goes back at another rate than it came.
    Refund,
    /// What somebody owed, out of what came in.
    Recovered,
    /// What a transaction on chain cost.
    ChainFee,
    /// What the operator keeps of a sale that was paid to the merchant's own wallet.
    OwnWalletFee,
    /// Points of a sale that was refunded.
    PointsClawback,
    /// What was set aside for points of a sale that was refunded.
    RewardReturned,
    /// Another transfer undone.
    Reversal,
}
